"""One vocabulary over all commands: a name has one meaning, one type and one place in the help."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
import typer
from command_line import Vectomy

from vectomy.cli import app
from vectomy.cli.common_options import COMMON_NAMES
from vectomy.cli.help import GENERAL, ORDER, SECTIONS, SectionedCommand, context_of

TIER = "unit"


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(`edit new`, its command) for each command of the app."""
    group = typer.main.get_command(app) if group is None else group
    for name, item in group.commands.items():
        if hasattr(item, "commands"):
            yield from commands(item, (*path, name))
        else:
            yield " ".join((*path, name)), item


COMMANDS = dict(commands())


def value_type(option: Any) -> Any:
    """The type of one value: choices sorted, neither None nor list."""
    if option.param_type_name == "option" and option.is_flag:
        return bool
    kinds = [kind for kind in get_args(option.type_descriptor.annotation) if kind is not type(None)]
    kind = kinds[0] if kinds and get_origin(option.type_descriptor.annotation) is not Literal else None
    kind = kind or option.type_descriptor.annotation
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    # A path and a name of a model are both text to a user.
    return (
        tuple(sorted(get_args(kind))) if get_origin(kind) is Literal else str if "Path" in str(kind) else kind
    )


def meaning(text: str) -> str:
    """The first clause of a help text."""
    return re.split(r"[:;.](?:\s|$)| \[default", text)[0]


def uses() -> dict[str, list[tuple[str, Any]]]:
    """By option name or metavar of an argument, the commands that have it."""
    result: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for command, item in COMMANDS.items():
        for parameter in item.params:
            names = (
                parameter.opts if parameter.param_type_name == "option" else [parameter.metavar.strip("[]")]
            )
            for name in names:
                result[name].append((command, parameter))
    return {name: places for name, places in result.items() if len(places) > 1}


USES = uses()


@pytest.mark.parametrize("name", USES)
def test_a_name_means_the_same_in_every_command(name: str) -> None:
    meanings = defaultdict(list)
    for command, parameter in USES[name]:
        meanings[meaning(parameter.help or ""), value_type(parameter)].append(command)
    assert len(meanings) == 1, dict(meanings)


@pytest.mark.parametrize("name", [name for name in USES if name.startswith("--")])
def test_a_name_is_in_the_same_section_everywhere(name: str) -> None:
    """Search, training and measuring are the job of a command: its own settings. Expert is a depth,
    not a subject: a command with few options shows all of them.
    """
    job = {"Search", "Training", "Measures"}
    sections = {parameter.rich_help_panel for _, parameter in USES[name]} - {"Expert"}
    assert len(sections) <= 1 or sections <= job, sections


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_in_a_section(command: str) -> None:
    assert isinstance(COMMANDS[command], SectionedCommand)
    for parameter in COMMANDS[command].params:
        assert parameter.help, parameter.opts
        if parameter.param_type_name == "option" and parameter.name not in ("help_all", *COMMON_NAMES):
            assert parameter.rich_help_panel in set(ORDER) - {GENERAL}, parameter.opts


def test_the_list_of_commands_has_whole_sentences_in_sections() -> None:
    """A sentence that is cut off ends in dots; a command without a section is listed at the end."""
    context = typer.main.get_command(app).make_context("vectomy", [], resilient_parsing=True)
    listed = context.get_help()
    assert "..." not in listed.replace("[ARGS]...", "")
    assert "Commands:" not in listed
    assert all(f"\n{title}:\n" in listed for title in SECTIONS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_line_shows_arguments_as_they_are_named_in_the_text(command: str) -> None:
    usage = COMMANDS[command].get_help(context_of(COMMANDS[command])).split("\n\n")[0]
    assert not set("{}") & set(usage)
    assert "[[" not in usage


def test_a_list_of_choices_in_a_help_text_is_a_choice() -> None:
    """`--norm` says <none|column|row> by its type, not "none, column or row" in its help."""
    listed = re.compile(r"(?:^|: )[a-z0-9_]+, (?:[a-z0-9_]+, )*[a-z0-9_]+ or [a-z0-9_]+\.?$")
    found = [
        (command, parameter.opts)
        for command, item in COMMANDS.items()
        for parameter in item.params
        if listed.search(parameter.help or "") and value_type(parameter) is str
    ]
    assert not found


def test_there_is_one_spelling_of_each_pair_of_words() -> None:
    """`--positive-system` and `--system-positive` are not both options."""
    names = {name for item in COMMANDS.values() for parameter in item.params for name in parameter.opts}
    words: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for name in sorted(name for name in names if name.startswith("--")):
        words[tuple(sorted(name.strip("-").split("-")))].add(name)
    assert not [spellings for spellings in words.values() if len(spellings) > 1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_option_that_its_help_names(vectomy: Vectomy, command: str) -> None:
    status, whole, error = vectomy(*command.split(), "--help-all")
    assert (status, error) == (0, "")
    _, short, _ = vectomy(*command.split(), "-h")
    hidden = [item for item in COMMANDS[command].params if getattr(item, "rich_help_panel", None) == "Expert"]
    said = re.search(r"(\d+) expert option(s are| is) not shown: --help-all", short)
    assert (int(said[1]) if said else 0) == len(hidden)
    assert not said or (said[2] == " is") == (len(hidden) == 1)
    assert all(item.opts[0] in whole for item in hidden)


def test_the_help_of_a_run_begins_with_its_prompts_and_its_search() -> None:
    text = COMMANDS["run"].get_help(context_of(COMMANDS["run"]))
    titles = [title for title in re.findall(r"^(\w+):$", text, re.MULTILINE) if title in ORDER]
    assert titles[0] == "Prompts"
    assert titles.index("Search") < titles.index("Edit")
