"""The time that a bar shows is within a quarter of what the rest takes, from the first tenth on; a
test moves the clock. Without a terminal there is a line every 30 seconds, and no bar of a library.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys

import pytest
from moved_clock import Clock
from rich.console import Console
from rich.progress import Progress

from vectomy.cli.progress_bars import RemainingColumn, bars
from vectomy.core.remaining_time import RemainingTime

TIER = "unit"


def show(steps: list[tuple[int, float]], total: int, look: float = 0.0) -> list[tuple[float, float | None]]:
    """(now, seconds that the bar shows) `look` seconds behind each step."""
    clock = Clock()
    remaining = RemainingTime(total, clock)
    column, shown = RemainingColumn(remaining), []
    progress = Progress(column, console=Console(file=io.StringIO()))
    task = progress.add_task("learning", total=total)
    for count, seconds in steps:
        clock.now += seconds
        remaining.add(count)
        progress.advance(task, count)
        clock.now += look
        text = column.render(progress.tasks[0]).plain
        hours, minutes, rest = text.split(":")
        shown.append((clock.now, None if "-" in text else 3600 * int(hours) + 60 * int(minutes) + int(rest)))
        clock.now -= look
    return shown


@pytest.mark.parametrize("first", [0.5, 60.0, 600.0])
def test_from_the_first_tenth_on_a_bar_is_within_a_quarter(first: float) -> None:
    """However long the first step took, which holds what is done once."""
    steps = [(1, first), *[(1, 9.0 if index % 2 else 11.0) for index in range(99)]]
    shown = show(steps, 100)
    end = shown[-1][0]
    known = [(now, left) for now, left in shown if left is not None]
    assert known[0][0] <= first + 0.12 * (end - first)
    for now, left in known:
        assert left == pytest.approx(end - now, rel=0.25, abs=1)


def test_before_a_tenth_and_at_the_end_it_shows_nothing() -> None:
    shown = show([(1, 10.0)] * 100, 100)
    assert [left for _, left in shown[:10]] == [None] * 10
    assert shown[10][1] is not None
    assert shown[-1][1] is None


def test_it_counts_down_between_reports() -> None:
    (before, at_once), (_, later) = show([(1, 10.0)] * 50, 100)[-1], show([(1, 10.0)] * 50, 100, look=7.0)[-1]
    assert before == 500.0
    assert at_once is not None
    assert later == at_once - 7
    assert show([(1, 10.0)] * 99, 100, look=60.0)[-1][1] == 0


def told(capsys: pytest.CaptureFixture[str], steps: int, seconds: float, unit: str = "prompts") -> list[str]:
    """The lines of work of so many steps that take so long each."""
    clock = Clock()
    with bars("answering", steps, unit, clock) as update:
        for _ in range(steps):
            clock.now += seconds
            update(1)
    return capsys.readouterr().err.splitlines()


def test_without_a_terminal_a_line_comes_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, 100, 7.0)
    *during, end = lines
    assert end == "answering: 700.0 s"
    # Every fifth step is the first one 30 s behind the last line; the last step has its own line.
    assert len(during) == 19
    parts = [
        re.fullmatch(r"answering: (\d+) of 100 prompts \((\d+)%\) after (.*?)(?:, some (.*) more)?", line)
        for line in during
    ]
    assert all(parts)
    assert [int(part[1]) for part in parts if part] == list(range(5, 100, 5))
    assert [part[4] is None for part in parts if part][:4] == [True, True, False, False]
    assert during[9].endswith("50 of 100 prompts (50%) after 6 min, some 6 min more")


def test_short_work_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, 10, 2.0) == ["answering: 20.0 s"]


def test_bytes_are_written_with_their_unit(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with bars("writing", 1 << 30, "bytes", clock) as update:
        clock.now += 31
        update(1 << 29)
    assert capsys.readouterr().err.startswith("writing: 512 MiB (50%) after 31 s")


@pytest.mark.parametrize("asked_for", [False, True])
def test_bars_of_libraries_are_not_in_a_log(asked_for: bool) -> None:
    """But where the user's environment asks for them: tqdm reads an empty value as no."""
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    program = """
import sys
sys.argv[1:] = ["-V"]
from vectomy.cli import main
try:
    main()
except SystemExit:
    pass
from tqdm import tqdm
list(tqdm(range(3), desc="Writing"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, **({"TQDM_DISABLE": ""} if asked_for else {})},
    )
    assert ("Writing" in done.stderr) == asked_for
