"""The end of a run is estimated at the pace of its own stages: exactly, where the plan has the
right shares, whatever its unit.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny_chat
from moved_clock import Clock

from vectomy.workflows.run import run
from vectomy.workflows.run_pace import RunPace

TIER = "chat"

SECONDS = {"baseline": 40.0, "collect": 20.0, "directions": 1.0, "select": 300.0, "evaluate": 60.0}


@pytest.mark.unit
@pytest.mark.parametrize("unit", [1.0, 0.001, 60.0])
def test_with_the_right_shares_the_rest_is_exact(unit: float) -> None:
    clock = Clock()
    pace = RunPace({name: unit * seconds for name, seconds in SECONDS.items()}, clock)
    end = sum(SECONDS.values())
    for name, seconds in SECONDS.items():
        rest = pace.begin()
        assert rest == (None if name == "baseline" else pytest.approx(end - clock.now))
        clock.now += seconds
        pace.end(name)


@pytest.mark.unit
def test_stages_that_were_done_before_tell_nothing() -> None:
    clock = Clock()
    pace = RunPace(SECONDS, clock)
    # Not begun: its results were there.
    pace.end("baseline")
    assert pace.begin() is None
    clock.now += 10
    pace.end("collect")
    # Twice as fast as planned.
    assert pace.begin() == pytest.approx((1 + 300 + 60) / 2)


@pytest.mark.unit
def test_without_a_plan_nothing_is_said() -> None:
    pace = RunPace({})
    for name in SECONDS:
        assert pace.begin() is None
        pace.end(name)


def test_a_run_says_its_stages_and_what_came_of_each_edit(tmp_path: Path) -> None:
    lines: list[str] = []
    settings = {"device": "cpu", "answer_tokens": 8, "recipe": "gradient", "steps": 8, "bake": False}
    options = {**tiny_chat.sources(), **settings, "n_search": 4, "n_test": 4, "force": True}
    run(str(tiny_chat.folder()), tmp_path / "run", log=lines.append, **options)
    stages = [
        match for line in lines if (match := re.match(r"stage (\d) of (\d): (\w+)(; some .* to)?", line))
    ]
    names = ["baseline", "collect", "directions", "select", "apply", "evaluate", "report"]
    assert [match[3] for match in stages] == names
    assert [match[1] for match in stages] == [str(number) for number in range(1, 8)]
    assert {match[2] for match in stages} == {"7"}
    assert stages[0][4] is None
    assert stages[3][4] is not None
    tried = [line for line in lines if line.startswith("tried step ")]
    assert tried
    assert all(re.search(r": behaviour left \d+%, KL \d\.\d{3}, degenerate \d+%$", line) for line in tried)
    lines.clear()
    run(str(tiny_chat.folder()), tmp_path / "run", log=lines.append, **options)
    assert not [line for line in lines if line.startswith("stage ")]
