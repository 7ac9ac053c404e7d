"""Commands that README and docs show exist, with their options, and lack no required option."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from vectomy.cli import app

TIER = "unit"

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.compile(r"(?:^|`|\$ )(?: {4})?(vectomy [a-z][^`\n]*)", re.M)


def commands() -> list[tuple[str, str]]:
    """Pairs of a page and a command that it shows with arguments."""
    shown = []
    for page in PAGES:
        for text in SHOWN.findall(page.read_text(encoding="utf-8")):
            command = re.split(r"\s(?:#|&&|\|)\s?", text)[0].strip().rstrip(",")
            if len(command.split()) > 2 and "..." not in command:
                shown.append((page.name, command))
    return sorted(set(shown))


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and the arguments that follow."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, words = words[0], words[1:]
        assert name in command.commands, name
        command = command.commands[name]
    return command, words


@pytest.mark.parametrize(("page", "text"), commands(), ids=lambda value: value[:50])
def test_the_command_is_complete(page: str, text: str) -> None:
    command, words = find_command(shlex.split(text)[1:])
    if not words:  # a command's name in a sentence
        return
    options = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    assert not set(given) - set(options), f"{page}: {text}"
    missing = [
        option.opts[-1]
        for option in command.params
        if option.param_type_name == "option" and option.required and not set(option.opts) & set(given)
    ]
    assert not missing, f"{page}: {text} lacks {missing}"
