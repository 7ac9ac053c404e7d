"""The estimate of an evaluation's time: nothing before enough is measured, then that pace, for each
kind of work its own.
"""

from __future__ import annotations

import re

import pytest
from moved_clock import Clock

from vectomy.core.progress import silent
from vectomy.workflows.evaluate.pace import Pace

TIER = "unit"
TOKENS = 64


def paced(prompts: int) -> tuple[Pace, Clock, list[str]]:
    lines: list[str] = []
    clock = Clock(100.0)
    pace = Pace(silent, lines.append, clock)
    pace.answer_tokens = TOKENS
    pace.left["answers"] = prompts * TOKENS
    return pace, clock, lines


def answer(pace: Pace, clock: Clock, batches: list[tuple[int, float]]) -> None:
    with pace("answers", 1000, "prompts") as update:
        for count, seconds in batches:
            clock.now += seconds
            update(count)


def test_the_first_batch_alone_says_nothing() -> None:
    pace, clock, lines = paced(1000)
    answer(pace, clock, [(8, 1.0)])
    assert lines == []


def test_a_tenth_of_the_answers_over_several_sets_is_enough() -> None:
    """10 s for 100 answers, in two sets and with a wait between them that is no answering."""
    pace, clock, lines = paced(1000)
    answer(pace, clock, [(50, 4.0)])
    clock.now += 1000
    answer(pace, clock, [(50, 6.0), (50, 5.0)])
    assert lines == ["some 2 min more, going by the first 10 s of measuring"]


def test_slow_answers_are_estimated_sooner() -> None:
    pace, clock, lines = paced(1000)
    answer(pace, clock, [(4, 20.0), (4, 20.0)])
    assert lines == ["some 83 min more, going by the first 20 s of measuring"]


def test_where_all_is_done_nothing_is_said() -> None:
    pace, clock, lines = paced(8)
    answer(pace, clock, [(8, 30.0)])
    with pace("rows", 8, "rows") as update:
        update(8)
    assert lines == []


@pytest.mark.parametrize("damage", [0.1, 0.5, 1.0], ids="damage takes {} of an answer".format)
@pytest.mark.parametrize("text", [0.0, 30.0], ids="a text takes {} s".format)
def test_all_that_is_measured_is_estimated_and_not_the_answers_alone(damage: float, text: float) -> None:
    """Four subjects of two sets, with KL and a text. Said again when another kind of work turns out
    to be slower or quicker than the guess.
    """
    pace, clock, lines = paced(4 * 2 * 100)
    pace.left["damage"] = 4 * 2 * 100 * TOKENS
    pace.left["perplexity"] = 4 * 8192 if text else 0.0
    began, said = clock.now, []

    def note() -> None:
        if lines:
            minutes, seconds = re.match(r"some (?:(\d+) min|(\d+) s) more", lines.pop()).groups()
            said.append((clock.now, 60 * int(minutes) if minutes else int(seconds)))

    for _ in range(4):
        for _ in range(2):
            answer(pace, clock, [(25, 12.5)] * 4)
            note()
        for _ in range(2):
            with pace.timed("damage", 100 * TOKENS):
                clock.now += 100 * damage * 0.5
            note()
        if text:
            with pace.timed("perplexity", 8192):
                clock.now += text
            note()
    whole = clock.now - began
    # A subject is a quarter of the work: behind it, every kind is known.
    for now, left in said:
        if now - began >= 0.25 * whole:
            assert left == pytest.approx(began + whole - now, rel=0.25)
    assert said
    assert said[0][0] - began <= 0.26 * whole
    # The last that was said still holds: nothing later was far enough from it.
    now, left = said[-1]
    assert now - began + left == pytest.approx(whole, rel=0.25)
