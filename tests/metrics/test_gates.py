"""Gates: what is met, missed and unresolved, and which names they refuse."""

from __future__ import annotations

import pytest

from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.results import EvaluationResults
from vectomy.metrics.gates import check_gates, parse_gate, worst_status
from vectomy.metrics.intervals import rate_of

TIER = "unit"


def flags(count: int, total: int) -> JsonObject:
    return rate_of([True] * count + [False] * (total - count))


def numbers(refused: int, total: int = 100, kl: float = 0.005, error: float = 0.001) -> JsonObject:
    return {
        "refusal": flags(refused, total),
        "degenerate": flags(0, total),
        "kl_per_token": kl,
        "kl_per_token_stderr": error,
        "kl_first_token": kl,
    }


def evaluation(**edited: JsonObject) -> EvaluationResults:
    """A base that refuses 90 of 100 harmful prompts and 4 of 100 harmless ones, and an edit."""
    labelled = {"by_label": {"safe": {"refusal": flags(10, 50)}, "unsafe": {"refusal": flags(48, 50)}}}
    base = {"harmful": numbers(90), "harmless": numbers(4), "x": numbers(58) | labelled}
    fewer = {"by_label": {"safe": {"refusal": flags(1, 50)}, "unsafe": {"refusal": flags(48, 50)}}}
    edit = {
        "harmful": numbers(1),
        "harmless": numbers(4) | {"against_base": {"gained": 1, "lost": 1, "p": 1.0}},
        "x": numbers(49) | fewer,
    }
    names = ["harmful", "harmless", "x"]
    types = [{"name": "t", "label": "safe", "count": 50}, {"name": "u", "label": "unsafe", "count": 50}]
    return EvaluationResults.from_json(
        {
            "subjects": [
                {"name": "base", "kind": "base", "of": None},
                {"name": "edit@0.5", "kind": "edit", "of": "base"},
                {"name": "random direction", "kind": "random", "of": "base"},
            ],
            "sets": [{"name": name, "types": types if name == "x" else []} for name in names],
            "results": {"base": {"sets": base}, "edit@0.5": {"sets": {**edit, **edited}}},
        }
    )


def status(gate: str, **edited: JsonObject) -> str:
    (result,) = check_gates([parse_gate(gate)], evaluation(**edited))
    return str(result.status)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("harmful<=0.06", "met"),
        ("harmful <= 0.02", "unresolved"),
        ("harmful<=0.001", "missed"),
        ("harmful>=0.9", "missed"),
        ("x.unsafe>=0.8", "met"),
        ("x.safe<=base", "met"),
        ("x.unsafe>=base", "met"),
        ("x.unsafe<base", "unresolved"),
        ("kl<=0.01", "met"),
        ("kl<=0.006", "unresolved"),
        ("kl<=0.001", "missed"),
        ("harmless.kl<=1e-2", "met"),
        ("kl_first_token<0.005", "missed"),
        ("degenerate<=0.05", "met"),
        ("harmless<=base", "met"),
        ("edit@0.5:harmless<=base", "met"),
        ("edit@0.5:harmless.refusal <= base + 0.03", "met"),
    ],
)
def test_a_gate_is_met_where_the_whole_interval_is(gate: str, expected: str) -> None:
    assert status(gate) == expected


def test_against_the_base_more_refusals_are_missed_or_unresolved_by_the_pairs() -> None:
    def harmless(gained: int, lost: int) -> JsonObject:
        more = numbers(4 + gained - lost)
        return more | {"against_base": {"gained": gained, "lost": lost, "p": 0.5}}

    assert status("harmless<=base", harmless=harmless(3, 0)) == "unresolved"
    assert status("harmless<=base", harmless=harmless(9, 0)) == "missed"
    assert status("harmless<=base+0.1", harmless=harmless(9, 0)) == "met"
    # As many more, but of many that changed: chance explains it.
    assert status("harmless<=base", harmless=harmless(29, 20)) == "unresolved"


def test_what_was_not_measured_is_unresolved() -> None:
    nothing: JsonObject = {"refusal": rate_of([None] * 20), "kl_per_token": None}
    assert status("harmful<=0.06", harmful=nothing) == "unresolved"
    assert status("harmful.kl<=0.06", harmful=nothing) == "unresolved"


def test_a_measure_alone_is_that_of_the_worst_set() -> None:
    (result,) = check_gates([parse_gate("kl<=0.01")], evaluation(harmless=numbers(4, kl=0.5)))
    assert (result.set, result.status) == ("harmless", "missed")


def test_missed_goes_before_unresolved_before_met() -> None:
    gates = [parse_gate(text) for text in ("harmful<=0.06", "harmful<=0.02", "harmful<=0.001")]
    results = check_gates(gates, evaluation())
    assert [result.status for result in results] == ["met", "unresolved", "missed"]
    assert [worst_status(results[:count]) for count in range(4)] == ["met", "met", "unresolved", "missed"]


def test_limits_against_the_base_are_shown_as_numbers() -> None:
    (result,) = check_gates([parse_gate("x.safe<=base+0.05")], evaluation())
    assert result.limit == pytest.approx(0.25)
    assert (result.value, result.label, result.measure) == (0.02, "safe", "refusal")


@pytest.mark.parametrize(
    "text", ["", "harmful", "harmful<=", "<=0.1", "harmful=0.1", "harmful<=ten", "a<=1.2.3"]
)
def test_what_is_no_gate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"harmful<=0\.06"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("harmfull<=0.1", r"no set and no measure \(did you mean harmful\?\)"),
        ("x.saf<=0.1", r"the set x has no 'saf' \(did you mean safe\?\)"),
        ("nobody:harmful<=0.1", "no set and no measure"),
        ("kl<=base", "distance from the base"),
    ],
)
def test_a_name_that_the_evaluation_does_not_have_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_gates([parse_gate(text)], evaluation())


def test_gates_need_a_subject_beside_the_base() -> None:
    alone = EvaluationResults.from_json(
        {"subjects": [{"name": "base", "kind": "base"}], "sets": [{"name": "harmful"}]}
    )
    with pytest.raises(ConfigError, match="give a second subject"):
        check_gates([parse_gate("harmful<=0.1")], alone)
