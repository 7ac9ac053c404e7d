"""Estimates of the rest come from the first steps of the same work; a test moves the clock."""

from __future__ import annotations

import re

import pytest
from moved_clock import Clock

from vectomy.core.progress import silent
from vectomy.core.remaining_time import RemainingTime, log_remaining

TIER = "unit"


def run(steps: list[tuple[int, float]], total: int) -> tuple[list[str], list[tuple[float, float | None]]]:
    """Lines that are logged, and (now, seconds said to be left) behind each step."""
    clock, lines = Clock(), []
    remaining = RemainingTime(total, clock)
    said = []
    with log_remaining(silent, lines.append, clock)("training", total, "steps") as update:
        for count, seconds in steps:
            clock.now += seconds
            update(count)
            remaining.add(count)
            said.append((clock.now, remaining.seconds))
    return lines, said


@pytest.mark.parametrize("first", [0.5, 5.0, 60.0])
def test_behind_the_first_tenth_the_estimate_is_within_a_quarter(first: float) -> None:
    """However long the first step takes, and with steps of uneven length."""
    steps = [(1, first), *[(1, 0.9 if index % 2 else 1.1) for index in range(99)]]
    _, said = run(steps, 100)
    end = said[-1][0]
    known = [(now, left) for now, left in said if left is not None]
    assert known[0][0] <= first + 0.12 * (end - first)
    for now, left in known[:-1]:
        assert left == pytest.approx(end - now, rel=0.25, abs=1.2)


def test_it_is_said_once() -> None:
    lines, _ = run([(1, 7.0), *[(1, 2.0)] * 99], 100)
    assert lines == ["training: some 3 min more, going by the first 11 of 100 steps"]


def test_steps_of_an_earlier_process_are_no_pace() -> None:
    """Resumed at 80 of 100: the first report holds 81 steps, of which one was done now."""
    lines, said = run([(81, 9.0), *[(1, 3.0)] * 19], 100)
    assert re.findall("some (.*) more", lines[0]) == ["51 s"]
    assert said[2][1] == pytest.approx(17 * 3.0)


def test_nothing_is_said_of_work_that_is_over_or_has_one_step() -> None:
    assert run([(1, 7.0)], 1)[0] == []
    assert run([(5, 7.0), (5, 7.0)], 10)[0] == []
