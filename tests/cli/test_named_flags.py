"""Messages name options and commands that exist, and the option that was typed; help shows choices
and defaults in one way.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from vectomy.cli import app, evaluate_command, heal_command, run_command
from vectomy.cli.help import context_of, sections_of
from vectomy.cli.options import flags_of
from vectomy.core.errors import ConfigError
from vectomy.core.evaluation_config import parse_evaluation
from vectomy.core.run_config import make_config
from vectomy.healing.heal_config import parse_heal

TIER = "unit"

SOURCE = Path(__file__).parents[2] / "src" / "vectomy"
# Options of pip, of llama.cpp and its converter.
FOREIGN = {
    *("--no-deps", "--target", "--upgrade", "--outfile", "--outtype", "--hf-repo", "--hf-file"),
    *("--lora-scaled", "--only-binary", "--disable-pip-version-check", "--python"),
    *("--control-vector", "--control-vector-scaled", "--model-name"),
    # inspect eval FILE --model vectomy/PATH
    "--model",
}
FLAG = re.compile(r"(?<![\w/-])--[a-z][a-z0-9-]*[a-z0-9](?![a-z0-9_])")


def list_commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    group = typer.main.get_command(app) if group is None else group
    for name, item in group.commands.items():
        if hasattr(item, "commands"):
            yield from list_commands(item, (*path, name))
        else:
            yield " ".join((*path, name)), item


COMMANDS = dict(list_commands())


def list_texts() -> Iterator[tuple[str, str]]:
    """(file:line, text) of each string in the source; doc strings too. Those of pages are CSS."""
    for path in sorted(set(SOURCE.rglob("*.py")) - set((SOURCE / "report").rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(SOURCE)}:{node.lineno}", node.value


def test_every_option_and_command_that_a_text_names_exists() -> None:
    root = typer.main.get_command(app)
    every = [*COMMANDS.values(), root]
    flags = {flag for item in every for param in item.params for flag in (*param.opts, *param.secondary_opts)}
    flags |= {"--help", *FOREIGN}
    words = {name.split()[0] for name in COMMANDS}
    unknown = [
        (place, name)
        for place, text in list_texts()
        for name in (*FLAG.findall(text), *re.findall(r"`vectomy ([a-z][a-z-]*)", text))
        if name not in flags | words
    ]
    assert not unknown, "no option or command of ours; one of another program belongs into FOREIGN"


def test_no_message_of_a_library_is_cut_by_its_length() -> None:
    """`quote_error` ends it behind a sentence."""
    cut = re.compile(r"str\((?:error|fault|reason)\)[^\n]*?(?:\[:|:\.\d+\})")
    files = [path for path in SOURCE.rglob("*.py") if cut.search(path.read_text(encoding="utf-8"))]
    assert not files


PARSERS = {
    "run": (
        run_command.RUN_OPTIONS,
        lambda options, _: make_config("demo", options, flags=True),
    ),
    "evaluate": (
        evaluate_command.OPTIONS,
        lambda options, typed: parse_evaluation(
            {"subjects": ["demo"], "prompts": ["bundled:refused"], **options}, typed
        ),
    ),
    "heal": (heal_command.OPTIONS, parse_heal),
}


@pytest.mark.parametrize("command", PARSERS)
def test_a_wrong_value_is_named_by_the_option_that_was_typed(command: str) -> None:
    options, parse = PARSERS[command]
    typed = flags_of(options)
    known = {flag for param in COMMANDS[command].params for flag in param.opts}
    assert set(typed.values()) <= known
    for name, flag in typed.items():
        # A system prompt belongs to prompts.
        source = {"keep": "bundled:harmless"} if name == "keep_system" else {}
        with pytest.raises(ConfigError) as caught:
            parse({**source, name: {"no": "value"}}, {name: flag})
        message = str(caught.value)
        assert "configuration key" not in message, (name, message)
        assert all(part.startswith(f"{flag} is ") for part in message.split("; ") if " is {" in part), message


def test_a_system_prompt_without_its_prompts_is_named_by_options() -> None:
    with pytest.raises(ConfigError, match=r"^--keep-system is 'Be kind': .*--keep SRC"):
        make_config("demo", {"keep_system": "Be kind"}, flags=True)
    with pytest.raises(ConfigError, match=r"contrast\.keep\.prompts"):
        make_config("demo", {}, {"contrast": {"keep": {"system": "Be kind"}}})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_values_and_defaults_in_one_way(command: str) -> None:
    """Choices or a word for the value, not its type; a default in brackets at the end."""
    sections = sections_of(COMMANDS[command], context_of(COMMANDS[command]))
    for flags, text in [row for rows in sections.values() for row in rows]:
        assert not re.search(r"<(str|path|file|list.*|Path)>", flags), flags
        assert not re.search(r"(?i)if not given|\(default|unless given|by default|the default is", text), text
        brackets = re.findall(r"\[default: [^\]]*\]", text)
        assert len(brackets) <= 1, text
        assert not brackets or text.rstrip().endswith(brackets[0]), text
