"""The pictures of an evaluation's page, on an invented one."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
from invented_evaluation import BUDGETS, SUBJECTS, TYPES, an_evaluation
from parsed_evaluation import find_signs, find_svg, parse_evaluation_page, read_table

from vectomy.report.charts.rate_charts import timings

TIER = "unit"


def test_the_trade_off_has_each_subject_where_it_was_measured() -> None:
    evaluation = an_evaluation()
    _, text = parse_evaluation_page(evaluation)
    found = find_signs(text, "tradeoff")
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
    _, text = parse_evaluation_page(evaluation)
    found = find_signs(text, "tradeoff")
    (line,) = re.findall(r'<path d="M([^"]*)" class="line dial">', find_svg(text, "tradeoff"))
    run = [tuple(map(float, place.split())) for place in line.split("L")]
    order = ["demo", "edit@0.25", "edit@0.5", "edit@1", "edit@1.5", "edit@2"]
    assert run == [pytest.approx(found[name]) for name in order]


@pytest.mark.parametrize(("factor", "name"), [(1.0, "logarithmic"), (0.5, "square-root scale")])
def test_damage_far_apart_is_drawn_logarithmically(factor: float, name: str) -> None:
    evaluation = an_evaluation()
    for subject in SUBJECTS:
        found = evaluation["results"][subject]["sets"]["harmless"]
        found["kl_per_token"] **= factor
    _, text = parse_evaluation_page(evaluation)
    assert f"nats ({name})" in find_svg(text, "tradeoff")
    across = {
        subject: at[0]
        for subject, at in find_signs(text, "tradeoff").items()
        if SUBJECTS[subject][0] != "noise"
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
    for x, y in find_signs(parse_evaluation_page(evaluation, [])[1], "tradeoff").values():
        assert 40 <= x <= 332
        assert 19 <= y <= 233


@pytest.mark.parametrize("name", ["tradeoff", "over-refusal"])
def test_no_two_names_in_a_picture_overlap(name: str) -> None:
    _, text = parse_evaluation_page()
    boxes = []
    for x, y, anchor, label in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" class="label name \w+" text-anchor="(\w+)">(.*?)</text>',
        find_svg(text, name),
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
    _, text = parse_evaluation_page(evaluation)
    found = find_signs(text, "over-refusal")
    labels = {name: evaluation["results"][name]["sets"]["xstest"]["by_label"] for name in SUBJECTS}
    discs = [name for name in found if SUBJECTS[name][0] in ("base", "edit")]
    for one, other in itertools.combinations(discs, 2):
        safe, unsafe = (
            [labels[name][label]["refusal"]["rate"] for name in (one, other)] for label in ("safe", "unsafe")
        )
        assert (found[one][0] < found[other][0]) == (unsafe[0] < unsafe[1])
        assert (found[one][1] > found[other][1]) == (safe[0] < safe[1])


def test_types_are_a_heat_map_with_numbers() -> None:
    evaluation = an_evaluation()
    found, text = parse_evaluation_page(evaluation)
    shown = read_table(found, text, "xstest by type")
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
    found, text = parse_evaluation_page(evaluation)
    drawn = find_svg(text, "budgets-harmful")
    assert drawn.count('class="line subject') == len(SUBJECTS)
    assert [f">{at}</text>" in drawn for at in BUDGETS] == [True] * len(BUDGETS)
    assert 'id="budgets-harmless-title"' not in text  # Hardly anything is refused there.
    rates = [
        evaluation["results"]["edit@0.5"]["sets"][name]["by_budget"][str(at)]["refusal"]["rate"]
        for name in ("harmful", "harmless", "xstest")
        for at in BUDGETS
    ]
    assert read_table(found, text, "budgets")["edit@0.5"] == pytest.approx(rates)


def test_the_dial_of_another_model_does_not_begin_where_that_one_stands() -> None:
    """Its damage is measured from that model, whose own is measured from the base."""
    evaluation = an_evaluation()
    for row in evaluation["subjects"]:
        if row["kind"] == "edit":
            row["of"] = "healed"
    _, text = parse_evaluation_page(evaluation)
    found = find_signs(text, "tradeoff")
    (line,) = re.findall(r'<path d="M([^"]*)" class="line dial">', find_svg(text, "tradeoff"))
    assert [float(place.split()[0]) for place in line.split("L")] == pytest.approx(
        [found[f"edit@{s}"][0] for s in ("0.25", "0.5", "1", "1.5", "2")]
    )


def test_a_time_that_was_not_measured_is_no_zero() -> None:
    shown = timings({"select": 3.0, "apply": math.nan, "evaluate": 1.0})
    rows = {name: (value, bool(bar)) for name, value, bar in shown["timings"]}
    assert rows == {"select": (3.0, True), "apply": (None, False), "evaluate": (1.0, True)}
    assert shown["total_seconds"] == 4.0
