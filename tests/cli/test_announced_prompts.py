"""A run says first which prompts it takes from the Hub because none were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from vectomy.cli.run_command import _announce
from vectomy.core.run_config import HUB_PROMPTS, make_config

TIER = "unit"

OWN = dict.fromkeys(HUB_PROMPTS, "own.txt")


@pytest.mark.parametrize(
    ("model", "given", "named"),
    [
        ("owner/model", [], ["positive", "negative"]),
        ("owner/model", ["positive"], ["negative"]),
        ("owner/model", ["positive", "negative"], []),
        ("demo", [], []),
    ],
)
def test_default_prompts_are_said(
    model: str, given: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _announce(make_config(model, {side: OWN[side] for side in given}), Path("out"))
    lines = capsys.readouterr().err.splitlines()
    defaults = [line for line in lines if line.startswith("prompts: ")]
    assert len(defaults) == bool(named)
    for side, name in HUB_PROMPTS.items():
        assert all((name in line) == (side in named) for line in defaults)
    assert all("--positive SRC" in line for line in defaults)


@pytest.mark.parametrize("given", [{}, {"estimator": "projected"}])
def test_an_estimator_that_the_activations_may_change_is_not_promised(
    given: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    _announce(make_config("demo", given), Path("out"))
    assert ("projected (masked where a coordinate is loud)" in capsys.readouterr().err) == (not given)
