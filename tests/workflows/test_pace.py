"""The estimate of an evaluation's time: nothing before enough is measured, then that pace."""

from vectomy.core.progress import silent
from vectomy.workflows.evaluate.pace import Pace

TIER = "unit"


class Clock:
    """A clock that moves only by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def paced(left: int) -> tuple[Pace, Clock, list[str]]:
    lines: list[str] = []
    clock = Clock()
    pace = Pace(silent, lines.append, clock)
    pace.left = left
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
    assert lines == ["some 2 min more for 900 answers, going by the first 100"]


def test_slow_answers_are_estimated_sooner() -> None:
    pace, clock, lines = paced(1000)
    answer(pace, clock, [(4, 20.0), (4, 20.0)])
    assert lines == ["some 83 min more for 996 answers, going by the first 4"]


def test_where_all_is_done_nothing_is_said() -> None:
    pace, clock, lines = paced(8)
    answer(pace, clock, [(8, 30.0)])
    with pace("rows", 8, "rows") as update:
        update(8)
    assert lines == []
