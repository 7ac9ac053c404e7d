"""Every number of evaluation.json is explained in docs/evaluation-json.md, and the numbers of a set
have a column on the page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from vectomy.core.results import (
    ConditionNumbers,
    EvaluationResults,
    Heading,
    PartNumbers,
    SetNumbers,
    SubjectNumbers,
    TextPerplexity,
    ToolCallNumbers,
)

TIER = "unit"

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation-json.md").read_text(encoding="utf-8")
RECORDS = [
    EvaluationResults,
    SubjectNumbers,
    SetNumbers,
    PartNumbers,
    ConditionNumbers,
    TextPerplexity,
    ToolCallNumbers,
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_the_page_names_every_key(record: type[SetNumbers]) -> None:
    assert not [key for key in record.model_fields if f'"{key}"' not in PAGE and f"`{key}`" not in PAGE]


def test_every_number_of_a_set_has_a_column() -> None:
    written = {**PartNumbers.__annotations__, **SetNumbers.__annotations__}
    numbers = {key for key, annotation in written.items() if "Number | None" in str(annotation)}
    headed = {
        key
        for key, field in SetNumbers.model_fields.items()
        if any(isinstance(item, Heading) for item in field.metadata)
    }
    assert numbers == headed
    assert {"kl_per_token", "repeated_share"} <= headed
