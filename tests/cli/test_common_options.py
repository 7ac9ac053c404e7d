"""What every command takes: -h, -q, -v and --color, before and behind its name; completion of
names; and errors of usage that suggest near names only.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer
from rich.table import Table
from rich.text import Text

from vectomy.cli import app, terminal
from vectomy.cli.help import ENVIRONMENT
from vectomy.cli.progress_bars import bars

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "unit"


def list_commands(group: object = None) -> list[list[str]]:
    """`["edit", "new"]` for each command."""
    group = typer.main.get_command(app) if group is None else group
    result: list[list[str]] = []
    for name, item in group.commands.items():  # type: ignore[attr-defined]
        parts = list_commands(item) if hasattr(item, "commands") else [[]]
        result += [[name, *part] for part in parts]
    return result


COMMANDS = list_commands()


@pytest.fixture(autouse=True)
def _usual_terminal():
    yield
    terminal.reset_terminal()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_its_help_by_a_letter_and_takes_the_common_options(
    command: list[str], vectomy: Vectomy
) -> None:
    status, short, _ = vectomy(*command, "-h")
    assert status == 0
    assert short == vectomy(*command, "--help")[1]
    for flag in ("-q, --quiet", "-v, --verbose", "--color <auto|always|never>"):
        assert flag in short
    for more in (["-q"], ["--verbose"], ["--color", "never"]):
        # Both places are read before the help is shown.
        assert vectomy(*more, *command, "-h")[:2] == (0, short)
        assert vectomy(*command, *more, "-h")[:2] == (0, short)


def test_the_version_has_a_letter(vectomy: Vectomy) -> None:
    assert vectomy("-V") == vectomy("--version")
    assert vectomy("-V")[1].startswith("vectomy ")


def test_the_help_names_every_environment_variable(vectomy: Vectomy) -> None:
    out = vectomy("-h")[1]
    assert all(f"  {name} " in out for name in ENVIRONMENT)


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize(
    ("given", "level"), [([], "USUAL"), (["-q"], "QUIET"), (["-v"], "VERBOSE"), (["-q", "-v"], "VERBOSE")]
)
def test_how_much_is_said_is_known_before_the_command_starts(
    given: list[str], level: str, place: str, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "vectomy.cli.trait_command.bundled_traits", lambda: seen.append(terminal.verbosity()) or []
    )
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)
    vectomy(*(given if place == "before" else []), "traits", *(given if place == "behind" else []))
    assert seen == [terminal.Verbosity[level]]


def test_quiet_silences_lines_and_bars_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    def say() -> str:
        terminal.log_line("a line")
        with bars("counting", 2) as update:
            update(2)
        return capsys.readouterr().err

    assert {"a line", "counting"} <= set(say().replace(":", "\n").splitlines())
    terminal.set_verbosity(terminal.Verbosity.QUIET)
    assert say() == ""


def rendered(monkeypatch: pytest.MonkeyPatch, choice: str) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.set_color(choice)  # type: ignore[arg-type]
    table = Table("head")
    table.add_row(Text("value", "bold red"))
    terminal.open_console().print(table)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("choice", "environment", "coloured"),
    [
        ("auto", {}, False),
        ("always", {}, True),
        ("always", {"NO_COLOR": "1"}, True),
        ("never", {}, False),
        ("never", {"FORCE_COLOR": "1"}, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_as_chosen_then_as_the_environment_says(
    choice: str, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """31: red."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = rendered(monkeypatch, choice)
    assert "value" in text
    assert ("31m" in text) == coloured


@pytest.mark.parametrize(
    ("typed", "suggestions"),
    [
        ("evalu", {"evaluate"}),
        ("run demo --n-f", {"--n-fit"}),
        ("run demo --recipe gr", {"gradient"}),
        ("show --col", {"--color"}),
        ("run demo --trait verb", {"verbosity"}),
    ],
)
def test_the_shell_completes_commands_options_and_choices(typed: str, suggestions: set[str]) -> None:
    words = typed.split(" ")
    environment = {
        **os.environ,
        "_VECTOMY_COMPLETE": "complete_bash",
        "COMP_WORDS": f"vectomy {typed}",
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from vectomy.cli import main; main()"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert suggestions <= set(done.stdout.split()), done


def test_completion_is_offered_in_the_help(vectomy: Vectomy) -> None:
    assert {"--install-completion", "--show-completion"} <= set(vectomy("-h")[1].split())


# What is typed: what is suggested, or None.
UNKNOWN = {
    "run demo --limt 3": None,
    "run demo --judg x": "did you mean --judge?",
    "run demo --n-fitt 4": "did you mean --n-fit?",
    "run demo --limit 3": "it is an option of evaluate",
    "evaluate demo --limt 3": "did you mean --limit?",
    "evaluate demo --zzz": None,
    "--json": "it is an option of ",
    "--versoin": "did you mean --version?",
    "show x --strengths 2": None,
    "runn demo": "did you mean run?",
    "fly": None,
    "edit nwe": "did you mean new?",
}


@pytest.mark.parametrize("typed", UNKNOWN)
def test_only_what_is_near_is_suggested(typed: str, vectomy: Vectomy) -> None:
    status, _, err = vectomy(*typed.split())
    assert status == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: No such ")
    wanted = UNKNOWN[typed]
    assert ("(" in last) == (wanted is not None), last
    assert wanted is None or wanted in last
