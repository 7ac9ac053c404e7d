"""The commands by name, each with its module and its line in `vectomy --help`. A module is imported
when its command is used, so that help, versions and errors of usage come at once.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer

from vectomy.cli.common_options import add_common_options
from vectomy.cli.help import JOB, MAKE, MEASURE, PUBLISH, STAGES
from vectomy.core.threads import prepare_threads

__all__ = ["COMMANDS", "CommandEntry", "LoadedCommands"]


@dataclass(frozen=True)
class CommandEntry:
    """One command. Its section and sentence repeat what its module says
    (tests/cli/test_command_table.py), for the list of commands is shown without the modules.
    """

    name: str
    section: str
    sentence: str
    """The first one of the command's help."""
    shared_module: str = ""

    @property
    def module(self) -> str:
        """Where the command is registered: NAME_command, unless it shares one."""
        return f"vectomy.cli.{self.shared_module or self.name}_command"


COMMANDS = (
    CommandEntry(
        "run",
        JOB,
        "Find the direction of a behaviour, write an edit into the weights, and measure before and after.",
    ),
    CommandEntry(
        "baseline",
        STAGES,
        "Measure whether the base shows the behaviour, and with which first tokens.",
        "run",
    ),
    CommandEntry("collect", STAGES, "Collect activation statistics of both prompt sets.", "run"),
    CommandEntry("directions", STAGES, "Compute a direction for each site, layer and position.", "run"),
    CommandEntry("ls", JOB, "List runs, healings and evaluations with what they changed, newest first."),
    CommandEntry("report", JOB, "Print the result of a finished run, healing or evaluation."),
    CommandEntry(
        "pick",
        JOB,
        "List the edits that a run measured, with their numbers and the one that its rule took; with "
        "--take, write another one.",
    ),
    CommandEntry("select", STAGES, "Choose the edit."),
    CommandEntry(
        "show",
        MAKE,
        "Show what an Edit changes: its base, its behaviour, and the operation on each writer.",
    ),
    CommandEntry("apply", MAKE, "Write an Edit into a copy of its base, or as an adapter."),
    CommandEntry("edit", MAKE, "Make an Edit from a direction of your own: `vectomy edit new`."),
    CommandEntry(
        "plan",
        JOB,
        "List the weights that an edit would change, and memory, disk and time of each stage of a run.",
    ),
    CommandEntry(
        "verify",
        MEASURE,
        "Measure whether a checkpoint carries an Edit: exit status 0 if yes, 1 if no, 3 if unknown.",
    ),
    CommandEntry(
        "compare",
        MEASURE,
        "List the tensors that differ between two checkpoints, and say whether a directional edit explains "
        "the difference.",
    ),
    CommandEntry("direction", MAKE, "Fit one direction on two prompt sets and write it to a file."),
    CommandEntry(
        "evaluate",
        MEASURE,
        "Measure models, Edits and adapters on the same prompts: refusals and side effects.",
    ),
    CommandEntry("chat", JOB, "Talk to the base and the edited model side by side, token by token."),
    CommandEntry("judge", MEASURE, "Judge whether each completion in a file is a refusal."),
    CommandEntry(
        "push",
        PUBLISH,
        "Publish an edit and its card on the Hugging Face Hub; private unless --public is given.",
    ),
    CommandEntry(
        "reproduce",
        PUBLISH,
        "Rebuild an edited model from its base and compare it with the published one: MATCH, or DIFFERS "
        "with exit status 1.",
    ),
    CommandEntry(
        "cache",
        PUBLISH,
        "Show or remove what vectomy keeps in its cache: `vectomy cache ls`, `vectomy cache clean`.",
    ),
    CommandEntry(
        "traits", JOB, "List the bundled traits, or show one and what changing it does to safety.", "trait"
    ),
    CommandEntry("config", JOB, "Write a file with all settings: `vectomy config init`."),
    CommandEntry(
        "heal",
        MEASURE,
        "Train an edited model to repair the damage of the edit without restoring the behaviour.",
    ),
)


class LoadedCommands(MutableMapping[str, Any]):
    """The commands by name; each is loaded when it is asked for."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in COMMANDS}
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded |= _load(self._entries[name].module)
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._entries[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _load(module: str) -> dict[str, Any]:
    """The commands of a module, which may load torch when they run."""
    prepare_threads()
    group = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    # Without it, a single command would be no group.
    group.callback()(lambda: None)
    import_module(module).register(group)
    add_common_options(group)
    return dict(typer.main.get_group(group).commands)
