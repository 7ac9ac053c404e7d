"""Each name that a user can choose has one implementation; each implementation can be chosen."""

from __future__ import annotations

from typing import get_args

import pytest

from vectomy.core.choices import JUDGE_NAMES, Estimator, ExportFormat, Quantization, Recipe
from vectomy.edits.export import EXPORTS
from vectomy.edits.export.gguf_convert import QUANTS
from vectomy.metrics.judges import JUDGES
from vectomy.search.estimators import ESTIMATORS, NEEDS_SAMPLES
from vectomy.search.recipes import RECIPES, SEARCHES

TIER = "unit"


@pytest.mark.parametrize(
    ("names", "table"),
    [
        # A trait (`--trait`) is what selects recipe distill.
        (set(get_args(Recipe)) - {"distill"}, RECIPES),
        (get_args(Estimator), ESTIMATORS),
        (get_args(ExportFormat), EXPORTS),
        (get_args(Quantization), QUANTS),
        (JUDGE_NAMES, JUDGES),
    ],
    ids=["recipe", "estimator", "export format", "quantization", "judge"],
)
def test_the_names_to_choose_from_are_those_of_the_table(names: set[str], table: dict[str, object]) -> None:
    assert sorted(names) == sorted(table)


def test_what_is_said_of_some_names_is_said_of_names_that_exist() -> None:
    assert set(ESTIMATORS) >= NEEDS_SAMPLES
    assert set(RECIPES) >= set(SEARCHES)
