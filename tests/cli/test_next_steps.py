"""After a run: the printed command lines work as they are, and the menu runs the same commands."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import tiny_chat
import typer
from command_line import Vectomy
from finished_run import finished_run

from vectomy.cli.next_steps import ask_next, list_next, run_then
from vectomy.core.after_run import AfterRun
from vectomy.core.errors import UsageError
from vectomy.edits.edit import Edit
from vectomy.edits.export import Receipt
from vectomy.workflows.run_points import open_point, read_points

TIER = "chat"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run in a folder whose name has to be quoted."""
    made = finished_run(behaviour_tokens=("I",), n_search=4, n_test=4)
    return Path(shutil.copytree(made, tmp_path / "my run's folder"))


def other_point(folder: Path) -> Any:
    points = read_points(folder).points
    return next(point for point in points if not point.chosen and point.direction[1] > 0)


def typed(answers: list[str], asked: list[str]) -> Callable[..., str]:
    """A person who types these answers to what is `asked`; an empty one takes the default."""
    waiting: Iterator[str] = iter(answers)

    def ask(question: str, *, default: str | None = None, choices: list[str] | None = None, **_: Any) -> str:
        asked.append(question)
        answer = next(waiting)
        assert choices is None or not answer or answer in choices
        return answer or str(default)

    return ask


def test_the_printed_lines_are_commands_that_work(folder: Path, vectomy: Vectomy) -> None:
    *commands, page = list_next(folder)
    assert len(commands) == 3
    link = page.split()[-1]
    assert Path(unquote(urlparse(link).path)).read_bytes() == (folder / "report.html").read_bytes()
    for line in commands:
        words = shlex.split(re.split(r"\s{2,}", line)[1])
        assert words[0] == "vectomy"
        assert str(folder) in words
        if words[1] != "push":
            status, _, err = vectomy(*words[1:], stdin="/quit\n")
            assert status == 0, err


def test_a_run_ends_with_its_next_commands_and_without_a_menu_in_a_pipe(
    folder: Path, vectomy: Vectomy
) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert config["model"] == str(tiny_chat.folder())
    status, out, err = vectomy(
        "run", config["model"], "--config", str(folder / "config.json"), "--out", str(folder)
    )
    assert status == 0, err
    assert out.splitlines()[-4:] == list_next(folder)


def test_the_menu_takes_a_point_and_runs_the_commands_that_it_shows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, ran, asked = other_point(folder), [], []
    answers = [
        "save",
        "",
        "pick",
        other.name,
        "0.5",
        "chat",
        "save",
        "",
        "bake",
        "new",
        "push",
        "me/mine",
        "",
    ]
    ask_next(folder, AfterRun(), typed(answers, asked), ran.append)
    chosen = read_points(folder).chosen.name
    picked = str(folder / "picked" / f"{other.name.replace(':', '_')}-strength-0.5.safetensors")
    dial = ["--strength", "0.5"]
    take = ["pick", str(folder), "--take", other.name, *dial]
    assert ran == [
        [
            "pick",
            str(folder),
            "--take",
            chosen,
            "--out",
            str(folder / "picked" / f"{chosen.replace(':', '_')}.safetensors"),
        ],
        ["chat", str(folder), "--point", other.name, *dial],
        [*take, "--out", picked],
        [*take, "--bake", "--out", "new"],
        take,
        ["push", picked, "me/mine"],
    ]
    shown = capsys.readouterr().err
    assert f"$ {shlex.join(['vectomy', 'chat', str(folder), '--point', other.name, *dial])}" in shown
    assert ["taken by the rule" in question for question in asked if "next" in question] == [
        *([True] * 2),
        *([False] * 5),
    ]


def test_a_fault_leads_back_to_the_menu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran: list[list[str]] = []

    def fail(words: list[str]) -> None:
        ran.append(words)
        raise UsageError("it does not work")

    ask_next(folder, AfterRun(), typed(["chat", "pick", "nothing", "pick", "", "x", "chat", ""], []), fail)
    shown = capsys.readouterr().err
    assert len(ran) == 2
    assert shown.count("it does not work") == 2
    assert "has no point 'nothing'" in shown
    assert "a strength is a number, not 'x'" in shown


def test_an_answer_given_beforehand_is_carried_out_without_asking(folder: Path, tmp_path: Path) -> None:
    other, file = other_point(folder), tmp_path / "mine.safetensors"
    run_then(folder, AfterRun(then="save", then_to=str(file), point=other.name, strength=0.5))
    assert Edit.load(file).sha256 == open_point(folder, other, 0.5).sha256
    run_then(folder, AfterRun(then="nothing"))
    with pytest.raises(UsageError, match="has no point"):
        run_then(folder, AfterRun(then="save", point="77:7"))


@pytest.mark.parametrize("whole", [True, False])
def test_the_step_evaluate_measures_the_edit_on_the_test_prompts_of_the_run(
    folder: Path, tmp_path: Path, whole: bool
) -> None:
    """The source of a run is also that of its fit prompts; none of these is asked."""
    out, other = tmp_path / "evaluation", other_point(folder)
    point, strength = (None, 1.0) if whole else (other.name, 0.5)
    run_then(folder, AfterRun(then="evaluate", then_to=str(out), point=point, strength=strength))
    asked = {
        (row["set"], row["prompt"])
        for row in map(json.loads, (out / "completions.jsonl").read_text("utf-8").splitlines())
    }
    rows = map(json.loads, (folder / "completions.jsonl").read_text("utf-8").splitlines())
    assert asked == {(row["set"], row["prompt"]) for row in rows}


def test_a_command_that_fails_with_a_status_alone_stops_its_step(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    answers = ["pick", other_point(folder).name, "0.5", "push", "me/mine", "quit"]
    ask_next(folder, AfterRun(), typed(answers, []), lambda words: ran.append(words) or 3)
    assert [words[0] for words in ran] == ["pick"]
    assert "exit status 3" in capsys.readouterr().err


def test_a_checkpoint_that_does_not_carry_the_edit_is_no_success(
    folder: Path, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `pick --bake`, of the step `bake`, and of `apply`."""
    module = importlib.import_module("vectomy.workflows.write_export")
    whole = module.write_export

    def spoilt(*args: Any, **more: Any) -> Any:
        return replace(whole(*args, **more), status="not_carried", reason="a weight is infinite")

    monkeypatch.setattr(module, "write_export", spoilt)
    name = read_points(folder).chosen.name
    status, out, _ = vectomy("pick", str(folder), "--take", name, "--bake", "--out", str(tmp_path / "a"))
    assert (status, out.startswith("FAILED: a weight is infinite")) == (1, True)
    assert "written to" not in out
    with pytest.raises(typer.Exit) as stop:
        run_then(folder, AfterRun(then="bake", then_to=str(tmp_path / "b")))
    assert stop.value.exit_code == 1
    gguf = tmp_path / "c.gguf"
    given = ("apply", str(folder), str(tiny_chat.folder()), "--out", str(gguf), "--no-verify")
    monkeypatch.setattr(
        module, "write_export", lambda *_, **__: Receipt((), (), 0, status="not_carried", reason="no")
    )
    status, out, _ = vectomy(*given, "--as", "gguf", "--to", "lmstudio")
    assert (status, "FAILED: no" in out) == (1, True)
    assert not gguf.with_suffix(".Modelfile").exists()


def test_options_and_configuration_file_say_the_same(folder: Path, tmp_path: Path, vectomy: Vectomy) -> None:
    """`--then` on the command line goes over the table `after` of the file; --yes asks nothing."""
    other = other_point(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    file, taken, again = (tmp_path / name for name in ("run.json", "a.safetensors", "b.safetensors"))
    after = {"then": "save", "then_to": str(taken), "point": other.name}
    file.write_text(json.dumps({**config, "after": after}), encoding="utf-8")
    given = ["run", config["model"], "--config", str(file), "--out", str(folder), "--yes"]
    status, out, err = vectomy(*given)
    assert status == 0, err
    assert f"written to {taken}" in out
    assert Edit.load(taken).sha256 == open_point(folder, other).sha256
    status, out, err = vectomy(*given, "--then-to", str(again), "--strength", "0.5")
    assert status == 0, err
    assert Edit.load(again).sha256 == open_point(folder, other, 0.5).sha256
    assert json.loads((folder / "config.json").read_text("utf-8")) == config


REFUSED = {
    "--then push": "--then push needs OWNER/NAME: give it with --then-to",
    "--then bake": "--then bake needs a new folder",
    "--point 3": "to take a point of a finished run: vectomy pick RUN --take 3",
    "--strength 0.5": "to scale a finished edit: vectomy apply RUN MODEL --strength 0.5 --out NEW",
    "--then-to new": "--then-to is of --then: name the step",
    "--then save --json": "leave --json out",
    "--then fly": "'fly' is not one of",
    "--then save --strength nan": "finite number",
}


@pytest.mark.parametrize("given", REFUSED)
def test_an_answer_that_leads_nowhere_is_refused_before_the_run(
    given: str, tmp_path: Path, vectomy: Vectomy
) -> None:
    out = tmp_path / "run"
    status, _, err = vectomy("run", str(tiny_chat.folder()), "--out", str(out), *given.split())
    assert status == 2
    assert REFUSED[given] in " ".join(err.split())
    assert not out.exists()


def test_a_file_that_lies_in_the_working_folder_publishes_nothing(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "vectomy.toml"
    file.write_text('[run.after]\nthen = "push"\nthen_to = "me/mine"\n', encoding="utf-8")
    status, _, err = vectomy("run", str(tiny_chat.folder()), "--out", str(tmp_path / "run"), "--yes")
    assert status == 2
    assert "published only where the command says so" in " ".join(err.split())
    assert not (tmp_path / "run").exists()
