"""The page of an evaluation, on an invented one: its numbers, its pictures, and what it does with
less.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import re
from typing import Any

import pytest
from invented_evaluation import BUDGETS, SUBJECTS, TASKS, TYPES, an_evaluation, evaluated_completions
from invented_run import every
from parsed_page import (
    Page,
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
Place = tuple[float, float]


def page(
    evaluation: dict[str, Any] | None = None, completions: list[dict[str, Any]] | None = None
) -> tuple[Page, str]:
    text = render_evaluation(
        an_evaluation() if evaluation is None else evaluation,
        evaluated_completions() if completions is None else completions,
    )
    return Page(text), text


def svg(text: str, name: str) -> str:
    """The source of the figure `name`."""
    return next(
        part for part in re.findall(r"<svg.*?</svg>", text, flags=re.S) if f'id="{name}-title"' in part
    )


def table(found: Page, text: str, name: str) -> dict[str, list[float]]:
    """Values of the table `name` by the head of their line."""
    source = text.split(f'aria-label="Table: {name}"')[1].split("</table>")[0]
    lines = {}
    for line in re.findall(r"<tr.*?</tr>", source.split("<tbody>")[1], flags=re.S):
        head = re.search(r'<th scope="row">(.*?)(<small>|</th>)', line)
        if head:
            lines[head[1]] = [float(value) for value in re.findall(r'<data value="(.*?)"', line)]
    return lines


def places(text: str, name: str) -> dict[str, Place]:
    """Where the sign of each subject stands in the picture `name`."""
    found = {}
    for tag, path, title in re.findall(
        r"<(circle|path)([^>]*class=\"sign [^>]*)><title>(.*?)</title>", svg(text, name)
    ):
        numbers = {key: float(value) for key, value in re.findall(r'\b(cx|cy)="([\d.]+)"', path)}
        start = re.search(r'd="M([\d.]+) ([\d.]+)', path)
        at = (
            (numbers["cx"], numbers["cy"])
            if tag == "circle"
            else (float(start[1]), float(start[2]))
            if start
            else None
        )
        assert at is not None
        found[title.split(": ")[0]] = at
    return found


def words_of(found: Page, **wanted: str) -> str:
    return " ".join(words for *_, words in found.having(**wanted))


def test_page_is_well_formed_and_told_in_words() -> None:
    found, text = page()
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

    _, text = page(spoilt(an_evaluation()), spoilt(evaluated_completions()))
    assert_stays_text(text, hostile, 200)


def test_summary_holds_the_numbers_of_the_evaluation() -> None:
    evaluation = an_evaluation()
    found, text = page(evaluation)
    shown = table(found, text, "result")
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
    found, text = page(evaluation)
    assert text.count("24 not judged") >= 4
    shown, plain = table(found, text, "result"), table(*page(), "result")
    assert shown["edit@1"] == pytest.approx(plain["edit@1"])
    assert len(shown["healed"]) == len(plain["healed"]) - 1
    assert "edit@1: 24 of" not in text


def test_shown_text_is_the_value_rounded() -> None:
    found, _ = page()
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


def test_the_trade_off_has_each_subject_where_it_was_measured() -> None:
    evaluation = an_evaluation()
    _, text = page(evaluation)
    found = places(text, "tradeoff")
    assert set(found) == set(SUBJECTS)
    rates = {name: evaluation["results"][name]["sets"]["harmful"]["refusal"]["rate"] for name in SUBJECTS}
    damage = {name: evaluation["results"][name]["sets"]["harmless"]["kl_per_token"] for name in SUBJECTS}
    discs = {name: at for name, at in found.items() if SUBJECTS[name][0] in ("base", "edit")}
    for one, other in itertools.combinations(discs, 2):
        assert (discs[one][1] > discs[other][1]) == (rates[one] < rates[other])
        assert (discs[one][0] > discs[other][0]) == (damage[one] > damage[other])
    # Heights are on one scale from 0 to 100%.
    heights = [
        (at[1] - discs["demo"][1]) / (rates["demo"] - rates[name])
        for name, at in discs.items()
        if name != "demo"
    ]
    assert heights == pytest.approx([heights[0]] * len(heights), rel=0.01)


def test_the_dial_runs_from_the_base_by_strength_whatever_the_order() -> None:
    evaluation = an_evaluation()
    random.Random(1).shuffle(evaluation["subjects"])
    _, text = page(evaluation)
    found = places(text, "tradeoff")
    (line,) = re.findall(r'<path d="M([^"]*)" class="line dial">', svg(text, "tradeoff"))
    run = [tuple(map(float, place.split())) for place in line.split("L")]
    order = ["demo", "edit@0.25", "edit@0.5", "edit@1", "edit@1.5", "edit@2"]
    assert run == [pytest.approx(found[name]) for name in order]


@pytest.mark.parametrize(("factor", "name"), [(1.0, "logarithmic"), (0.5, "square-root scale")])
def test_damage_far_apart_is_drawn_logarithmically(factor: float, name: str) -> None:
    evaluation = an_evaluation()
    for subject in SUBJECTS:
        found = evaluation["results"][subject]["sets"]["harmless"]
        found["kl_per_token"] **= factor
    _, text = page(evaluation)
    assert f"nats ({name})" in svg(text, "tradeoff")
    across = {
        subject: at[0] for subject, at in places(text, "tradeoff").items() if SUBJECTS[subject][0] != "noise"
    }
    assert across["demo"] == min(across.values())
    values = [
        evaluation["results"][f"edit@{s}"]["sets"]["harmless"]["kl_per_token"] for s in ("0.25", "0.5", "2")
    ]
    scale = math.log if factor == 1.0 else math.sqrt
    near, middle, far = (across[f"edit@{s}"] for s in ("0.25", "0.5", "2"))
    low, half, high = map(scale, values)
    assert (middle - near) / (far - near) == pytest.approx((half - low) / (high - low), abs=0.01)


@pytest.mark.parametrize("subject", ["random direction", "demo again", "edit@2"])
@pytest.mark.parametrize("kl", [0.0, 1e-9, 40.0])
def test_nothing_is_drawn_outside_the_picture(subject: str, kl: float) -> None:
    evaluation = an_evaluation()
    evaluation["results"][subject]["sets"]["harmless"]["kl_per_token"] = kl
    for x, y in places(page(evaluation, [])[1], "tradeoff").values():
        assert 40 <= x <= 332
        assert 19 <= y <= 233


@pytest.mark.parametrize("name", ["tradeoff", "over-refusal"])
def test_no_two_names_in_a_picture_overlap(name: str) -> None:
    _, text = page()
    boxes = []
    for x, y, anchor, label in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" class="label name \w+" text-anchor="(\w+)">(.*?)</text>',
        svg(text, name),
    ):
        width = 6.0 * len(label)
        left = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        boxes.append((left, float(y) - 8, left + width, float(y) + 1, label))
        assert left >= 0
        assert left + width <= 342
    assert len(boxes) == len(SUBJECTS)
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


def test_over_refusal_is_drawn_against_true_refusal() -> None:
    evaluation = an_evaluation()
    _, text = page(evaluation)
    found = places(text, "over-refusal")
    labels = {name: evaluation["results"][name]["sets"]["xstest"]["by_label"] for name in SUBJECTS}
    discs = [name for name in found if SUBJECTS[name][0] in ("base", "edit")]
    for one, other in itertools.combinations(discs, 2):
        safe, unsafe = (
            [labels[name][label]["refusal"]["rate"] for name in (one, other)] for label in ("safe", "unsafe")
        )
        assert (found[one][0] < found[other][0]) == (unsafe[0] < unsafe[1])
        assert (found[one][1] > found[other][1]) == (safe[0] < safe[1])


def test_sets_are_told_apart_by_what_the_base_does_on_them() -> None:
    evaluation = an_evaluation()
    evaluation["sets"].reverse()
    found, _ = page(evaluation)
    assert "refusals on harmful fell from 86 of 100 (86.0%, 77.9–91.5%) to 5 of 100 (5.0%" in words_of(
        found, class_="lead"
    )
    assert "KL of 0.0190 nats per token on harmless" in words_of(found, class_="lead")
    assert "McNemar's p < 0.001" in words_of(found, class_="lead")
    assert "intervals" not in words_of(found, class_="lead").split("McNemar")[0]


@pytest.mark.parametrize("left", [("xstest",), ("harmless", "xstest")])
def test_without_a_harmful_set_the_unsafe_prompts_are_the_main_ones(left: tuple[str, ...]) -> None:
    evaluation = an_evaluation()
    evaluation["sets"] = [row for row in evaluation["sets"] if row["name"] in left]
    for results in evaluation["results"].values():
        results["sets"] = {name: results["sets"][name] for name in left}
    found, text = page(evaluation)
    counts = [
        evaluation["results"][name]["sets"]["xstest"]["by_label"]["unsafe"]["refusal"]["count"]
        for name in ("demo", "edit@1")
    ]
    lead = words_of(found, class_="lead")
    assert f"refusals on xstest, unsafe fell from {counts[0]} of 200 (" in lead
    assert f") to {counts[1]} of 200 (" in lead
    assert "McNemar" not in lead  # That test is over the whole set.
    assert "refusals, xstest, unsafe" in svg(text, "tradeoff")


def test_types_are_a_heat_map_with_numbers() -> None:
    evaluation = an_evaluation()
    found, text = page(evaluation)
    shown = table(found, text, "xstest by type")
    assert list(shown)[:10] == sorted(
        kind.replace("_", " ") for kind, label in TYPES.items() if label == "safe"
    )
    assert len(shown) == len(TYPES)
    for kind in TYPES:
        rates = [
            evaluation["results"][name]["sets"]["xstest"]["by_type"][kind]["refusal"]["rate"]
            for name in SUBJECTS
        ]
        assert shown[kind.replace("_", " ")] == pytest.approx(rates)
    for step, value in re.findall(r'<td class="q(\d)"><data value="(.*?)"', text):
        assert int(step) == min(int(9 * float(value)), 8)


def test_budgets_are_lines_over_tokens_and_a_table() -> None:
    evaluation = an_evaluation()
    found, text = page(evaluation)
    drawn = svg(text, "budgets-harmful")
    assert drawn.count('class="line subject') == len(SUBJECTS)
    assert [f">{at}</text>" in drawn for at in BUDGETS] == [True] * len(BUDGETS)
    assert 'id="budgets-harmless-title"' not in text  # Hardly anything is refused there.
    rates = [
        evaluation["results"]["edit@0.5"]["sets"][name]["by_budget"][str(at)]["refusal"]["rate"]
        for name in ("harmful", "harmless", "xstest")
        for at in BUDGETS
    ]
    assert table(found, text, "budgets")["edit@0.5"] == pytest.approx(rates)


def test_paired_tests_and_capability_mark_what_is_more_than_chance() -> None:
    evaluation = an_evaluation()
    found, text = page(evaluation)
    source = text.split('aria-label="Table: paired tests"')[1].split("</table>")[0]
    cells = re.findall(r'<td( class="apart")?><data value="[^"]*">(.*?)</data><small>p (.*?)</small>', source)
    expected = []
    for name in list(SUBJECTS)[1:]:
        for tested in evaluation["results"][name]["sets"].values():
            against = tested["against_base"]
            expected.append((against["p"] < 0.05, f"−{against['lost']} +{against['gained']}"))
    assert [(bool(mark), words) for mark, words, _ in cells] == expected
    shown = table(found, text, "capability")
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
    found, text = page(evaluation)
    results = evaluation["results"]["edit@1"]
    assert table(found, text, "conditions")["edit@1"] == pytest.approx(
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
    assert len(table(found, text, "conditions")["demo again"]) == 4


def test_completions_that_agree_share_a_column_and_know_their_subjects() -> None:
    rows = evaluated_completions()
    found, _ = page(completions=rows)
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
    found, _ = page(completions=rows)
    pairs = [words for *_, words in found.having(class_="pair")]
    assert "2 earlier turns" in pairs[0]
    assert "And to you." in pairs[0]
    assert "earlier" not in pairs[1]


def test_the_dial_of_another_model_does_not_begin_where_that_one_stands() -> None:
    """Its damage is measured from that model, whose own is measured from the base."""
    evaluation = an_evaluation()
    for row in evaluation["subjects"]:
        if row["kind"] == "edit":
            row["of"] = "healed"
    _, text = page(evaluation)
    found = places(text, "tradeoff")
    (line,) = re.findall(r'<path d="M([^"]*)" class="line dial">', svg(text, "tradeoff"))
    assert [float(place.split()[0]) for place in line.split("L")] == pytest.approx(
        [found[f"edit@{s}"][0] for s in ("0.25", "0.5", "1", "1.5", "2")]
    )


def test_judge_and_provenance_are_named() -> None:
    evaluation = an_evaluation()
    _, text = page(evaluation)
    for shown in ("95.7%", "1,350 labelled completions", "version 2", "3b9e" * 16, "77aa" * 16, "10ab" * 16):
        assert shown in text
    assert text.count("the noise floor: the base once more, in other batches") == 1


def test_safety_names_whoever_refuses_less() -> None:
    evaluation = an_evaluation()
    found, _ = page(evaluation)
    said = words_of(found, class_="safety")
    assert (
        "On harmful, edit@0.25, edit@0.5, edit@1, edit@1.5, edit@2 and healed refuse less than demo" in said
    )
    assert "random direction" not in said
    for results in evaluation["results"].values():
        results["sets"]["harmful"]["refusal"] = evaluation["results"]["demo"]["sets"]["harmful"]["refusal"]
    assert "No subject refuses measurably less than demo on harmful" in words_of(
        page(evaluation)[0], class_="safety"
    )


@pytest.mark.parametrize(
    "evaluation", [{}, {"base": "demo", "subjects": [{"name": "demo", "kind": "base"}], "results": {}}]
)
def test_almost_nothing_still_renders(evaluation: dict[str, Any]) -> None:
    found, text = page(evaluation, [])
    assert_told_in_words(assert_well_formed(text))
    assert "No completions were recorded." in text
    assert "No results were recorded." in text
    assert "No refusals were measured." in words_of(found, class_="lead")


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
    chosen = random.Random(0).sample(sorted(kinds.values(), key=str), 20)
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
        found, text = page(evaluation, [])
        assert found.problems == [], path
        assert (
            "nan" not in re.sub(r"<style>.*?</style>|discrimination\w*|sha256", "", text, flags=re.S).lower()
        ), path


def test_inputs_are_left_as_they_were() -> None:
    inputs = (an_evaluation(), evaluated_completions())
    before = json.dumps(inputs)
    assert render_evaluation(*inputs) == render_evaluation(*copy.deepcopy(inputs))
    assert json.dumps(inputs) == before
