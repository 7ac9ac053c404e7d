"""Commands and options that README, docs, help texts and errors show exist: every command line is
parsed as typed, without being run.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer._click.exceptions import ClickException

from vectomy.cli import app

TIER = "unit"

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = re.compile(r"(?:^|`|\$ )(?: {4})?(vectomy [a-z][^`\n]*)", re.M)
# Options of other programs that our texts name.
FOREIGN = {
    "pip": {"--disable-pip-version-check", "--no-deps", "--only-binary", "--python", "--target", "--upgrade"},
    "accelerate": {"--config_file", "--num_processes", "--main_process_port"},
    "convert_hf_to_gguf.py": {"--outtype", "--outfile", "--model-name"},
    "llama.cpp": {
        "--hf-repo",
        "--hf-file",
        "--lora-scaled",
        "--lora",
        "--control-vector",
        "--control-vector-scaled",
        "--flash-attn",
        "--cache-type-k",
        "--cache-type-v",
    },
    "CSS": {"--natural", "--ink", "--sans"},
    "inspect": {"--model"},
    "vLLM": {"--enable-lora", "--lora-modules", "--max-lora-rank"},
}


def leaves(group: Any) -> Iterator[Any]:
    """Every command of the app."""
    for item in group.commands.values():
        yield from leaves(item) if hasattr(item, "commands") else [item]


# Made once: every command line below asks for it.
COMMANDS: Any = typer.main.get_command(app)
OPTIONS = {
    name
    for command in leaves(COMMANDS)
    for parameter in command.params
    for name in (*parameter.opts, *parameter.secondary_opts)
} | {"--help", "--version"}


def commands() -> list[tuple[str, str]]:
    """Pairs of a page and a command that it shows with arguments."""
    shown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in SHOWN.findall(text):
            command = re.split(r"\s(?:#|&&|\|)\s?", match)[0].strip().rstrip(",")
            if len(command.split()) > 1 and "..." not in command:
                shown.append((page.name, command))
    return sorted(set(shown))


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the arguments that follow."""
    command = COMMANDS
    while hasattr(command, "commands") and words:
        name, words = words[0], words[1:]
        assert name in command.commands, name
        command = command.commands[name]
    return command, words


def parse(text: str) -> None:
    """Parse a command line as the app does, without running it; a placeholder (N) is a number.

    Raises:
        ClickException: an unknown option, a missing argument or option, a wrong choice or number.
        AssertionError: there is no such command.
    """
    command, words = find_command(shlex.split(text)[1:])
    # The name of a command or of one option, in a sentence.
    if not words or all(word.startswith("--") for word in words):
        assert {word.split("=")[0] for word in words} <= OPTIONS
        return
    words = ["1" if word in ("N", "X") else word for word in words if word != "[OPTIONS]"]
    with COMMANDS.make_context("vectomy", [], resilient_parsing=True) as root:
        command.make_context(command.name, words, parent=root)


@pytest.mark.parametrize(("page", "text"), commands(), ids=lambda value: value[:50])
def test_the_command_line_parses(page: str, text: str) -> None:
    try:
        parse(text)
    except ClickException as error:
        pytest.fail(f"{page}: {text}: {error.format_message()}")


@pytest.mark.parametrize(
    "text",
    [
        "vectomy fly MODEL",
        "vectomy run MODEL --fly",
        "vectomy apply EDIT MODEL",
        "vectomy apply EDIT --out NEW",
        "vectomy run MODEL --recipe magic",
        "vectomy run MODEL --seed x",
    ],
)
def test_a_command_line_that_is_wrong_does_not_parse(text: str) -> None:
    with pytest.raises((ClickException, AssertionError)):
        parse(text)


def named_options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w<-])--[a-z][a-z0-9_-]*[a-z0-9](?![\w-])", text))


def test_every_option_that_a_help_text_or_an_error_names_exists() -> None:
    known = OPTIONS.union(*FOREIGN.values())
    wrong = {
        f"{path.relative_to(ROOT)}:{node.lineno}": names
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if (names := named_options(node.value) - known)
    }
    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_option_that_a_page_names_in_a_sentence_exists(page: Path) -> None:
    known = OPTIONS.union(*FOREIGN.values())
    spans = re.findall(r"`(--[^`]+)`", page.read_text(encoding="utf-8"))
    assert {name for span in spans for name in named_options(span)} - known == set()
