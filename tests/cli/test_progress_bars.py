"""The time that a bar shows is within a quarter of what the rest takes, from the first tenth on; a
test moves the clock.
"""

from __future__ import annotations

import io

import pytest
from moved_clock import Clock
from rich.console import Console
from rich.progress import Progress

from vectomy.cli.progress_bars import RemainingColumn
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
