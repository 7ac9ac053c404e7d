"""After a run: command lines to copy, and at a terminal a menu that runs them."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.prompt import Prompt

from vectomy.cli.terminal import open_console
from vectomy.core.after_run import AfterRun, NextStep
from vectomy.core.errors import UsageError, VectomyError

if TYPE_CHECKING:
    from vectomy.workflows.run_points import RunPoint, RunPoints

__all__ = ["ask_next", "commands_of", "list_next", "quote_command", "run_then"]

Command = list[str]
"""The words behind `vectomy`."""
MENU: tuple[tuple[str, str], ...] = (
    ("pick", "choose another point or strength"),
    ("save", "write its Edit to a file"),
    ("bake", "write the edited checkpoint"),
    ("chat", "talk to it, beside the base"),
    ("evaluate", "measure it on its test prompts, with side effects"),
    ("push", "publish it on the Hub"),
    ("quit", "end; everything is stored"),
)
TARGETS = {"save": "File", "bake": "New folder", "evaluate": "New folder", "push": "OWNER/NAME"}


def quote_command(words: Sequence[str]) -> str:
    """A command line for this machine's shell."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def list_next(run: Path) -> list[str]:
    """Three command lines to copy, and the address of the page."""
    folder = str(run)
    lines = [
        ("talk to it", ["chat", folder]),
        ("other points", ["pick", folder]),
        ("publish it", ["push", folder, "OWNER/NAME", "--dry-run"]),
    ]
    commands = [f"{label.ljust(14)}{quote_command(['vectomy', *words])}" for label, words in lines]
    return [*commands, f"{'page'.ljust(14)}{(run / 'report.html').resolve().as_uri()}"]


def commands_of(
    step: NextStep, points: RunPoints, point: RunPoint, strength: float, target: str | None
) -> list[Command]:
    """The commands that do a step with a point; a point of other strength becomes a file first.
    `evaluate` is of the run's test prompts, which are written to files for it.

    Raises:
        UsageError: the step needs a target.
        ArtifactError: `evaluate`: the run holds no test prompts.
    """
    from vectomy.cli.pick_command import PICKED, default_file
    from vectomy.workflows.stored_test_prompts import write_test_prompts

    folder = str(points.folder)
    dial = [] if strength == 1.0 else ["--strength", f"{strength:g}"]
    if step in ("bake", "push") and not target:
        raise UsageError(f"`{step}` needs {TARGETS[step]}: give it with --then-to")
    take = ["pick", folder, "--take", point.name, *dial]
    if step == "save":
        return [[*take, *(["--out", target] if target else [])]]
    if step == "bake":
        return [[*take, "--bake", "--out", str(target)]]
    if step == "chat":
        return [["chat", folder, "--point", point.name, *dial]]
    whole = point.chosen and strength == 1.0
    subject = folder if whole else str(default_file(points.folder, point, strength))
    first = [] if whole else [take]
    if step == "evaluate":
        out = target or f"{folder}-evaluation"
        files = write_test_prompts(points.folder, points.folder / PICKED)
        sets = [word for side, file in files.items() for word in ("--prompts", f"{side}={file}")]
        # The folder of a run names its base, a file does not.
        base = [] if whole else ["--base", str(points.results.model)]
        return [*first, ["evaluate", subject, *sets, *base, "--out", out]]
    if step == "push":
        return [*first, ["push", subject, str(target)]]
    return []


def run_then(run: Path, after: AfterRun) -> None:
    """Do what was answered beforehand.

    Raises:
        UsageError: there is no such point, or a target is missing.
        VectomyError: as the command of the step.
        typer.Exit: the command ended with another status than 0.
    """
    from vectomy.workflows.run_points import read_points

    if after.then in (None, "nothing"):
        return
    points = read_points(run)
    point = points.chosen if after.point is None else points.find(after.point)
    for words in commands_of(after.then, points, point, after.strength, after.then_to):
        if status := _run_command(words):
            raise typer.Exit(status)


def ask_next(
    run: Path,
    after: AfterRun,
    ask: Callable[..., str] = Prompt.ask,
    work: Callable[[Command], int | None] | None = None,
) -> None:
    """The menu, again and again until `quit`. Its defaults are the point of the rule, and quit.

    Args:
        after: the point and the strength to begin with.
        ask: asks for one text.
        work: runs a command of ours; gives its exit status.
    """
    from vectomy.workflows.run_points import read_points

    work = work or _run_command
    console = open_console(stderr=True)
    points = read_points(run)
    point = points.chosen if after.point is None else points.find(after.point)
    strength = after.strength
    console.print("\n".join(f"{name.ljust(10)}{text}" for name, text in MENU), highlight=False)
    while True:
        dial = "" if strength == 1.0 else f" at strength {strength:g}"
        rule = ", taken by the rule" if point.chosen else ""
        step = ask(
            f"What next, with point {point.name}{dial}{rule}?",
            console=console,
            choices=[name for name, _ in MENU],
            default="quit",
        )
        if step == "quit":
            return
        try:
            if step == "pick":
                point, strength = _ask_point(points, ask)
                continue
            target = _ask_target(step, points, point, strength, ask)
            for words in commands_of(step, points, point, strength, target):  # type: ignore[arg-type]
                console.print(f"$ {quote_command(['vectomy', *words])}", highlight=False, soft_wrap=True)
                if status := work(words):
                    console.print(f"it ended with exit status {status}", highlight=False)
                    break
        except VectomyError as error:
            console.print(str(error), highlight=False, soft_wrap=True)


def _ask_point(points: RunPoints, ask: Callable[..., str]) -> tuple[RunPoint, float]:
    from vectomy.cli.tables.points_table import print_points

    console = open_console(stderr=True)
    print_points(points)
    name = ask("Which point?", console=console, default=points.chosen.name)
    point = points.find(name)
    if point.missing:
        raise UsageError(f"the run does not hold point {name}: {point.missing}")
    text = ask("At which strength?", console=console, default="1")
    try:
        return point, float(text)
    except ValueError:
        raise UsageError(f"a strength is a number, not '{text}'") from None


def _ask_target(
    step: str, points: RunPoints, point: RunPoint, strength: float, ask: Callable[..., str]
) -> str | None:
    """Where a step writes; None where it writes nothing."""
    from vectomy.cli.pick_command import default_file

    usual = {
        "save": str(default_file(points.folder, point, strength)),
        "bake": f"{points.folder}-{point.name.replace(':', '_')}",
        "evaluate": f"{points.folder}-evaluation",
    }
    if step not in TARGETS:
        return None
    more = {"default": usual[step]} if step in usual else {}
    return ask(f"{TARGETS[step]}?", console=open_console(stderr=True), **more)


def _run_command(words: Command) -> int:
    """Run a command of ours in this process and give its exit status; its faults are
    VectomyErrors.
    """
    from vectomy.cli import app

    try:
        # Outside of standalone mode, the parser returns the status of a typer.Exit.
        status = app(words, prog_name="vectomy", standalone_mode=False)
    except (VectomyError, KeyboardInterrupt):
        raise
    except typer.Exit as stop:
        return stop.exit_code
    except Exception as error:
        # What the parser says of a wrong word has no class of ours.
        if hasattr(error, "format_message"):
            raise UsageError(str(error.format_message())) from None
        raise
    return status if isinstance(status, int) else 0
