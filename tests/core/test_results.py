"""Results as typed records: what is read is written back key by key, and old files are read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from invented_evaluation import an_evaluation, evaluated_completions
from invented_run import (
    a_separation,
    a_summary,
    arditi_scores,
    article_scores,
    cosmic_scores,
    gradient_scores,
    searched_summary,
    some_completions,
    tpe_scores,
)

from vectomy.core.errors import ArtifactError
from vectomy.core.results import (
    EvaluationCompletion,
    EvaluationResults,
    RunCompletion,
    RunResults,
    SearchResults,
    Separation,
)
from vectomy.core.results.json_record import JsonRecord

TIER = "unit"

FILES: list[tuple[type[JsonRecord], dict[str, Any]]] = [
    (RunResults, a_summary()),
    (RunResults, searched_summary(gradient_scores("selective"))),
    (Separation, a_separation()),
    *((SearchResults, s) for s in (arditi_scores(), article_scores(), cosmic_scores())),
    *((SearchResults, s) for s in (gradient_scores(), gradient_scores("selective", 3), tpe_scores())),
    *((RunCompletion, row) for row in some_completions()[:2]),
    (EvaluationResults, an_evaluation()),
    *((EvaluationCompletion, row) for row in evaluated_completions()[:2]),
]


@pytest.mark.parametrize(("kind", "value"), FILES)
def test_what_is_read_is_written_back(kind: type[JsonRecord], value: dict[str, Any]) -> None:
    written = kind.from_json(value).to_json()
    assert json.dumps(written, sort_keys=True) == json.dumps(value, sort_keys=True)


def test_an_old_file_without_newer_keys_is_read_and_stays_as_it_was() -> None:
    old = a_summary()
    for key in ("judge", "receipt", "notes", "license", "contrast"):
        old.pop(key, None)
    results = RunResults.from_json(old)
    assert (results.judge.name, results.receipt, results.notes, results.license) == (None, None, (), None)
    assert results.contrast.source("positive", "test") == ""
    assert json.dumps(results.to_json(), sort_keys=True) == json.dumps(old, sort_keys=True)


def test_keys_of_a_newer_version_are_kept() -> None:
    assert RunResults.from_json({"model": "demo", "later": [1]}).to_json() == {"model": "demo", "later": [1]}


def test_one_spoilt_number_takes_nothing_else_away() -> None:
    results = RunResults.from_json({"base": {"refusal_rate": "x", "kl_per_token": 0.5}})
    assert (results.base.refusal_rate, results.base.kl_per_token) == (None, 0.5)


def test_a_list_is_no_result() -> None:
    with pytest.raises(ArtifactError, match="RunResults is a JSON object, not list"):
        RunResults.from_json([])


def test_a_repaired_object_lacks_what_was_spoilt_and_nothing_else() -> None:
    whole: dict[str, Any] = {"model": "demo", "trait": None, "later": [1], "base": {"refusal_count": 3}}
    assert RunResults.repair(whole) == whole
    assert RunResults.repair({**whole, "model": 7, "strength": [1]}) == {
        key: value for key, value in whole.items() if key != "model"
    }


def test_a_key_with_half_of_a_character_is_refused() -> None:
    with pytest.raises(ArtifactError, match="RunResults has a key that is no text"):
        RunResults.from_json({"a\ud800": 1})


def _record_types(parent: type[JsonRecord] = JsonRecord) -> list[type[JsonRecord]]:
    children = parent.__subclasses__()
    return [*children, *(record for child in children for record in _record_types(child))]


# Where something lies, or which it is: no measurement.
PLACES = {("LayerSeparation", "layer")}


def test_no_result_is_a_number_where_nothing_was_measured() -> None:
    """An absent measurement is read as None, never as a number such as 0."""
    assert len(_record_types()) > 40
    numbers = {
        (record.__name__, name)
        for record in _record_types()
        if record.__module__.startswith("vectomy.")
        for name, field in record.model_fields.items()
        if isinstance(field.get_default(call_default_factory=True), int | float)
        and not isinstance(field.get_default(call_default_factory=True), bool)
    }
    assert numbers <= PLACES


def test_no_writer_of_results_puts_a_number_where_a_key_is_absent() -> None:
    """`row.get("seconds", 0)` in a benchmark prints a measurement that nobody made."""
    root = Path(__file__).parents[2]
    pattern = re.compile(r"""\.get\(\s*["'](\w*)["'],\s*0(?:\.0)?\s*\)""")
    counters = {"rounds"}
    texts = [
        *sorted((root / "benchmarks").glob("*.py")),
        *sorted((root / "src/vectomy/report").rglob("*.py")),
        *sorted((root / "src/vectomy/cli").rglob("*.py")),
        *sorted((root / "src/vectomy/workflows").rglob("*.py")),
    ]
    found = {
        f"{file.name}: {match[1]}"
        for file in texts
        for match in pattern.finditer(file.read_text(encoding="utf-8"))
        if match[1] not in counters
    }
    assert found == set()
