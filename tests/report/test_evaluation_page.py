"""The page of an evaluation, on an invented one: its numbers, and what it does with less."""

from __future__ import annotations

import copy
import itertools
import json
import random
import re
from typing import Any

import pytest
from invented_evaluation import SUBJECTS, TASKS, TYPES, an_evaluation, evaluated_completions
from invented_run import every
from parsed_evaluation import find_svg, parse_evaluation_page, read_table, read_words
from parsed_page import (
    assert_reaches_for_nothing,
    assert_stays_text,
    assert_told_in_words,
    assert_well_formed,
)

from vectomy.report import render_evaluation

TIER = "unit"


HOSTILE = [
    "<script>alert(1)</script>",
    '"onmouseover="alert(2)',
    "</title></style></details><img src=x onerror=a()>",
]


# Keys of these are names that come from outside.
NAMED = {
    "results",
    "sets",
    "by_type",
    "by_label",
    "by_budget",
    "perplexity",
    "capability",
    "answers",
    "seconds",
    "versions",
    "settings",
}


def test_page_is_well_formed_and_told_in_words() -> None:
    found, text = parse_evaluation_page()
    assert_told_in_words(assert_well_formed(text))
    assert_reaches_for_nothing(found, text)
    # Trade-off, verdicts, over-refusal, budgets of two sets.
    assert len(found.having(role="img")) == 5


@pytest.mark.parametrize("hostile", HOSTILE)
def test_untrusted_text_stays_text(hostile: str) -> None:
    def spoilt(value: Any, named: bool = False) -> Any:
        if isinstance(value, dict):
            return {
                key + hostile if named else key: value[key]
                if key == "kind"
                else spoilt(value[key], key in NAMED)
                for key in value
            }
        return [spoilt(inner) for inner in value] if isinstance(value, list) else every(value, hostile)

    _, text = parse_evaluation_page(spoilt(an_evaluation()), spoilt(evaluated_completions()))
    assert_stays_text(text, hostile, 200)


def test_summary_holds_the_numbers_of_the_evaluation() -> None:
    evaluation = an_evaluation()
    found, text = parse_evaluation_page(evaluation)
    shown = read_table(found, text, "result")
    assert list(shown) == list(SUBJECTS)
    for name, values in shown.items():
        sets = evaluation["results"][name]["sets"]
        verdicts = [found["verdicts"] for found in sets.values()]
        degenerate = sum(v["degenerate"] for v in verdicts) / sum(sum(v.values()) for v in verdicts)
        assert values == pytest.approx(
            [
                sets["harmful"]["refusal"]["rate"],
                sets["harmless"]["refusal"]["rate"],
                sets["xstest"]["by_label"]["safe"]["refusal"]["rate"],
                sets["xstest"]["by_label"]["unsafe"]["refusal"]["rate"],
                degenerate,
                *(sets["harmless"][key] for key in ("kl_first_token", "kl_per_token", "ce_own_answers")),
            ]
        )
    assert "5 of 100" in text
    assert "2.2–11.2%" in text


def test_answers_that_are_not_judged_are_counted_and_in_no_share() -> None:
    """One subject has 24 of them beside its own; another has no others."""
    evaluation = an_evaluation()
    for name, more in (("edit@1", {}), ("healed", {"count": 0, "total": 0, "rate": None, "ci": [0, 1]})):
        numbers = evaluation["results"][name]["sets"]["harmful"]
        verdicts = numbers["verdicts"]
        numbers["verdicts"] = {verdict: 0 if more else verdicts[verdict] for verdict in verdicts}
        numbers["verdicts"]["not_judged"] = 24
        for key in ("refusal", "degenerate"):
            numbers[key] |= {**more, "not_judged": 24}
    found, text = parse_evaluation_page(evaluation)
    assert text.count("24 not judged") >= 4
    shown, plain = read_table(found, text, "result"), read_table(*parse_evaluation_page(), "result")
    assert shown["edit@1"] == pytest.approx(plain["edit@1"])
    assert len(shown["healed"]) == len(plain["healed"]) - 1
    assert "edit@1: 24 of" not in text


def test_shown_text_is_the_value_rounded() -> None:
    found, _ = parse_evaluation_page()
    for _, attributes, words in found.tagged("data"):
        if "+" not in words:
            value, shown = (
                float(attributes["value"] or "nan"),
                float(words.rstrip("%").replace(",", "").replace("−", "-")),
            )
            assert shown == pytest.approx(
                100 * value if words.endswith("%") else value,
                rel=0.005,
                abs=0.5 if words.endswith("%") else 1e-9,
            )


def test_sets_are_told_apart_by_what_the_base_does_on_them() -> None:
    evaluation = an_evaluation()
    evaluation["sets"].reverse()
    found, _ = parse_evaluation_page(evaluation)
    assert "refusals on harmful fell from 86 to 5 of 100." in read_words(found, class_="lead")
    result = read_words(found, id="result")
    assert "refusals on harmful fell from 86 of 100 (86.0%, 77.9–91.5%) to 5 of 100 (5.0%" in result
    assert "the KL from the base is 0.0190 nats per token on harmless" in read_words(found, class_="lead")
    assert "McNemar's p < 0.001" in result
    assert "intervals" not in result.split("McNemar")[0]


@pytest.mark.parametrize("left", [("xstest",), ("harmless", "xstest")])
def test_without_a_harmful_set_the_unsafe_prompts_are_the_main_ones(left: tuple[str, ...]) -> None:
    evaluation = an_evaluation()
    evaluation["sets"] = [row for row in evaluation["sets"] if row["name"] in left]
    for results in evaluation["results"].values():
        results["sets"] = {name: results["sets"][name] for name in left}
    found, text = parse_evaluation_page(evaluation)
    counts = [
        evaluation["results"][name]["sets"]["xstest"]["by_label"]["unsafe"]["refusal"]["count"]
        for name in ("demo", "edit@1")
    ]
    lead = read_words(found, class_="lead")
    assert f"refusals on xstest, unsafe fell from {counts[0]} to {counts[1]} of 200." in lead
    assert "McNemar" not in lead  # That test is over the whole set.
    assert "refusals, xstest, unsafe" in find_svg(text, "tradeoff")


def test_paired_tests_and_capability_mark_what_is_more_than_chance() -> None:
    evaluation = an_evaluation()
    found, text = parse_evaluation_page(evaluation)
    source = text.split('aria-label="Table: paired tests"')[1].split("</table>")[0]
    cells = re.findall(r'<td( class="apart")?><data value="[^"]*">(.*?)</data><small>p (.*?)</small>', source)
    expected = []
    for name in list(SUBJECTS)[1:]:
        for tested in evaluation["results"][name]["sets"].values():
            against = tested["against_base"]
            expected.append((against["p"] < 0.05, f"−{against['lost']} +{against['gained']}"))
    assert [(bool(mark), words) for mark, words, _ in cells] == expected
    shown = read_table(found, text, "capability")
    assert list(shown) == list(TASKS)
    assert all(
        len(values) == len(SUBJECTS) - 1 for values in shown.values()
    )  # The other checkpoint has none.
    apart = sum(
        abs(one["difference"]) > 1.96 * one["difference_stderr"]
        for results in evaluation["results"].values()
        for one in results.get("capability", {}).values()
        if one["difference"] is not None
    )
    assert (
        text.split('aria-label="Table: capability"')[1].split("</table>")[0].count('class="apart"')
        == apart
        > 0
    )


def test_the_rest_of_the_costs_stand_in_one_table() -> None:
    evaluation = an_evaluation()
    found, text = parse_evaluation_page(evaluation)
    results = evaluation["results"]["edit@1"]
    assert read_table(found, text, "conditions")["edit@1"] == pytest.approx(
        [
            results["perplexity"]["text.txt"]["perplexity"],
            results["multi_turn"]["refusal"]["rate"],
            results["multi_turn"]["degenerate"]["rate"],
            results["multi_turn"]["answered"]["rate"],
            results["long_context"]["answered"]["rate"],
            results["long_context"]["tokens"],
            results["tool_calls"]["valid"]["rate"],
        ]
    )
    assert len(read_table(found, text, "conditions")["demo again"]) == 4


def test_completions_that_agree_share_a_column_and_know_their_subjects() -> None:
    rows = evaluated_completions()
    found, _ = parse_evaluation_page(completions=rows)
    pairs = found.having(class_="pair")
    assert [attributes["data-set"] for _, attributes, _ in pairs] == [row["set"] for row in rows]
    answers = [attributes for _, attributes, _ in found.having(class_="answer")]
    assert len(answers) == sum(
        len({(a["text"], a["verdict"]) for a in row["answers"].values()}) for row in rows
    )
    given = sorted(number for attributes in answers for number in (attributes["data-subjects"] or "").split())
    assert given == sorted(str(at) for at in range(len(SUBJECTS)) for _ in rows)
    chosen = [(a["value"], words) for tag, a, words in found.found if tag == "option" and "selected" in a]
    assert chosen == [("0", "demo"), ("3", "edit@1")]


def test_earlier_turns_are_shown() -> None:
    rows = evaluated_completions()[:2]
    rows[0]["history"] = [
        {"role": "user", "content": "Good morning."},
        {"role": "assistant", "content": "And to you."},
    ]
    found, _ = parse_evaluation_page(completions=rows)
    pairs = [words for *_, words in found.having(class_="pair")]
    assert "2 earlier turns" in pairs[0]
    assert "And to you." in pairs[0]
    assert "earlier" not in pairs[1]


def test_judge_and_provenance_are_named() -> None:
    evaluation = an_evaluation()
    _, text = parse_evaluation_page(evaluation)
    for shown in ("95.7%", "1,350 labelled completions", "version 2", "3b9e" * 16, "77aa" * 16, "10ab" * 16):
        assert shown in text
    assert text.count("the noise floor: the base once more, in other batches") == 1


def test_safety_names_whoever_refuses_less() -> None:
    evaluation = an_evaluation()
    found, _ = parse_evaluation_page(evaluation)
    said = read_words(found, class_="safety")
    assert (
        "On harmful, edit@0.25, edit@0.5, edit@1, edit@1.5, edit@2 and healed refuse less than demo" in said
    )
    assert "random direction" not in said
    for results in evaluation["results"].values():
        results["sets"]["harmful"]["refusal"] = evaluation["results"]["demo"]["sets"]["harmful"]["refusal"]
    assert "No subject refuses measurably less than demo on harmful" in read_words(
        parse_evaluation_page(evaluation)[0], class_="safety"
    )


@pytest.mark.parametrize(
    "evaluation", [{}, {"base": "demo", "subjects": [{"name": "demo", "kind": "base"}], "results": {}}]
)
def test_almost_nothing_still_renders(evaluation: dict[str, Any]) -> None:
    found, text = parse_evaluation_page(evaluation, [])
    assert_told_in_words(assert_well_formed(text))
    assert "No completions were recorded." in text
    assert "No results were recorded." in text
    assert "No refusals were measured." in read_words(found, class_="lead")


@pytest.mark.tiny
def test_whatever_is_missing_the_page_stands() -> None:
    """Every kind of key absent or null in turn, wherever in the JSON it is."""

    def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        inside = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        return [path for key, inner in inside for path in ((*at, key), *paths(inner, (*at, key)))]

    # A path for each sequence of keys, whatever the names of subjects, sets and types in it.
    every_path = paths(an_evaluation())
    kinds = {
        tuple(
            "*" if isinstance(key, int) or key in {*SUBJECTS, *TYPES, *TASKS} else key for key in path
        ): path
        for path in every_path
    }
    assert len(kinds) > 100
    chosen = random.Random(0).sample(sorted(kinds.values(), key=str), 10)
    for path, missing in itertools.product(chosen, (None, "absent")):
        evaluation = an_evaluation()
        held: Any = evaluation
        for key in path[:-1]:
            held = held[key]
        if missing is None and isinstance(held, dict):
            held[path[-1]] = None
        elif isinstance(held, dict):
            del held[path[-1]]
        else:
            continue
        found, text = parse_evaluation_page(evaluation, [])
        assert found.problems == [], path
        assert (
            "nan" not in re.sub(r"<style>.*?</style>|discrimination\w*|sha256", "", text, flags=re.S).lower()
        ), path


def test_inputs_are_left_as_they_were() -> None:
    inputs = (an_evaluation(), evaluated_completions())
    before = json.dumps(inputs)
    assert render_evaluation(*inputs) == render_evaluation(*copy.deepcopy(inputs))
    assert json.dumps(inputs) == before


def test_one_token_budget_has_no_section_of_its_own() -> None:
    """It would repeat the result."""
    assert 'id="budget"' in parse_evaluation_page(an_evaluation())[1]
    evaluation = an_evaluation()
    for results in evaluation["results"].values():
        for numbers in results["sets"].values():
            numbers["by_budget"] = dict(list(numbers["by_budget"].items())[-1:])
    found, text = parse_evaluation_page(evaluation)
    assert 'id="budget"' not in text
    assert "Token budgets" not in text
    assert found.problems == []
