"""The report page, on an invented run."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from invented_page import NAMES, RUNS, page, values_of
from invented_run import (
    LAYERS,
    a_separation,
    a_summary,
    arditi_scores,
    article_scores,
    cosmic_scores,
    every,
    metrics,
    searched_summary,
    some_completions,
)
from parsed_page import (
    assert_reaches_for_nothing,
    assert_stays_text,
    assert_told_in_words,
    assert_well_formed,
)

from vectomy.report import render_card, render_page

TIER = "unit"

HOSTILE = "<script>alert(1)</script>"
HOSTILE_ATTRIBUTE = '"onmouseover="alert(2)'
HOSTILE_END = "</title></style></details><img src=x onerror=a()>"


@pytest.mark.parametrize("scores", RUNS, ids=NAMES)
def test_page_is_well_formed(scores: dict[str, Any]) -> None:
    summary = searched_summary(scores) if scores in RUNS[3:] else {**a_summary(), "recipe": scores["recipe"]}
    _, text = page(scores=scores, summary=summary)
    assert_told_in_words(assert_well_formed(text))


def test_every_figure_is_there() -> None:
    found, _ = page()
    assert len(found.having(role="img")) == 9


def test_page_reaches_for_nothing() -> None:
    assert_reaches_for_nothing(*page())


@pytest.mark.parametrize("scores", RUNS, ids=NAMES)
def test_untrusted_text_stays_text(scores: dict[str, Any]) -> None:
    hostile = HOSTILE_ATTRIBUTE + HOSTILE_END + HOSTILE
    summary, scores, separation, completions = (
        every(value, hostile)
        for value in (
            searched_summary(scores) if scores in RUNS[3:] else a_summary(),
            scores,
            a_separation(),
            some_completions(),
        )
    )
    for table in ("versions", "settings", "stages"):
        summary[table][hostile] = 1
    _, text = page(summary=summary, scores=scores, separation=separation, completions=completions)
    assert_stays_text(text, hostile, 50)


def test_table_holds_the_numbers_of_the_summary() -> None:
    summary = a_summary()
    found, _ = page(summary=summary)
    measured = [summary["base"], summary["forms"]["hooks"], summary["forms"]["baked"]]
    keys = ("degenerate_rate", "kl_first_token", "kl_per_token", "ce_own_answers", "max_projection")
    assert values_of(found) == {
        "refusal": [m["refusal_rate"] for m in measured],
        "harmless_refusal": [m["harmless_refusal_rate"] for m in measured],
        **{key: [m[key] for m in measured] for key in keys},
    }
    shown = {words for tag, _, words in found.found if tag in ("data", "small")}
    assert {"81.0%", "4.0%", "81 of 100", "72.2–87.5%", "1.6–9.8%", "0.351", "0.900"} <= shown


def test_shown_text_is_the_value_rounded() -> None:
    found, _ = page()
    for _, attributes, words in found.tagged("data"):
        value, shown = float(attributes["value"] or "nan"), float(words.rstrip("%"))
        assert shown == pytest.approx(100 * value if words.endswith("%") else value, rel=0.005, abs=1e-9)


@pytest.mark.parametrize(("layer", "position"), [(17, -1), (3, -5)])
def test_heat_maps_mark_the_chosen_candidate(layer: int, position: int) -> None:
    scores = arditi_scores()
    scores["chosen"] = {"site": "resid_pre", "layer": layer, "position": position}
    found, _ = page(scores=scores)
    marks = found.having(class_="chosen")
    assert len(marks) == 3
    assert all(f"chosen: resid_pre, layer {layer}, position −{-position}:" in words for *_, words in marks)
    ((_, _, row),) = found.having(class_="chosen-row")
    assert row.startswith(f"resid_pre, layer {layer}, position −{-position}")


def test_heat_maps_tell_filtered_candidates_apart() -> None:
    scores = arditi_scores()
    rejected = [row for row in scores["candidates"] if row["rejected"]]
    assert 0 < len(rejected) < len(scores["candidates"])
    found, _ = page(scores=scores)
    small = found.having(class_="filtered")
    assert len(small) == 3 * len(rejected)
    assert all("filtered out: " in words for *_, words in small)


def test_a_score_that_was_not_measured_is_a_dot() -> None:
    scores = arditi_scores()
    scores["candidates"][0].update(kl_div_score=None, rejected="filtered before")
    found, _ = page(scores=scores)
    ((_, _, words),) = found.having(class_="unmeasured")
    assert words == "resid_pre, layer 0, position −5: not measured (filtered out: filtered before)"


def test_notes_are_shown_and_replace_the_rule_they_bend() -> None:
    rule, bent = (
        "the one with the lowest refusal score is chosen",
        "no direction passes; taken is the least bad",
    )
    assert rule in page()[1]
    _, text = page(
        scores={**arditi_scores(), "note": bent}, summary={**a_summary(), "notes": ["only 9 test prompts"]}
    )
    assert rule not in text
    assert bent in text
    assert "<li>only 9 test prompts</li>" in text


@pytest.mark.parametrize(
    ("model", "name"), [("/data/models/small/", "small"), ("org/name", "org/name"), ("demo", "demo")]
)
def test_title_names_the_model(model: str, name: str) -> None:
    found, _ = page(summary={**a_summary(), "model": model})
    assert found.tagged("h1")[0][2] == f"Refusal, edited in {name}"


def test_stronger_colour_is_better() -> None:
    found, _ = page()
    cells = [
        (a["class"] or "", words) for tag, a, words in found.found if tag == "rect" and ", layer " in words
    ]
    by_map = [cells[i : i + 5 * LAYERS] for i in range(0, len(cells), 5 * LAYERS)]
    for drawn, lower_is_better in zip(by_map, (True, False, True), strict=True):
        value = {words: float(words.split(": ")[1].split(" ")[0].replace("−", "-")) for _, words in drawn}
        best, worst = sorted(drawn, key=lambda cell: value[cell[1]], reverse=not lower_is_better)[
            :: len(drawn) - 1
        ]
        assert best[0].split()[0] == "q8"
        assert worst[0].split()[0] == "q0"


def test_article_shows_scores_by_site_and_the_answers() -> None:
    scores = article_scores()
    found, _ = page(scores=scores)
    assert len(found.having(class_="chosen")) == 1
    assert len(found.having(class_="filtered")) == len(scores["candidates"]) - 20
    labels = [words for _, _, words in found.having(class_="row")]
    assert sorted(labels) == ["resid_mid", "resid_post", "resid_pre"]
    assert len(found.having(class_="answers")) == 20
    everything = "".join(words for tag, _, words in found.found if tag == "main")
    assert "How it was picked: --pick 3." in everything
    assert "1 of 4 dropped as refusals" in everything


def test_cosmic_maps_its_score_and_lists_the_rest() -> None:
    scores = cosmic_scores()
    found, text = page(scores=scores, summary={**a_summary(), "recipe": "cosmic"})
    (mark,) = found.having(class_="chosen")
    assert f"layer {scores['chosen']['layer']}, position" in mark[2]
    (small,) = found.having(class_="filtered")
    assert "kl 0.31 is not below 0.1" in small[2]
    assert len(found.having(class_="unmeasured")) == sum(row["score"] is None for row in scores["candidates"])
    heads = [words for tag, _, words in found.found if tag == "th"]
    assert {"score", "induced", "removed", "KL divergence"} <= set(heads)
    assert "72 of 90 candidates were scored by their effect on activations behind layers 2, 19, 20" in text
    assert "refusal score" not in text


def test_histogram_counts_every_prompt() -> None:
    found, _ = page()
    for side in ("positive", "negative"):
        tips = [words for tag, a, words in found.found if tag == "rect" and a.get("class") == f"bar {side}"]
        assert sum(int(tip.split(": ")[1].split(" ")[0]) for tip in tips) == 100


def test_completions_share_a_column_where_they_agree() -> None:
    found, _ = page()
    pairs = found.having(class_="pair")
    assert len(pairs) == 12
    assert [attributes["data-changed"] for _, attributes, _ in pairs] == ["yes"] * 6 + ["no"] * 6
    heads = [words.strip() for tag, _, words in found.found if tag == "h4"]
    assert heads[:3] == ["base full refusal", "hooks compliance", "baked compliance"]
    assert heads[3:5] == ["base full refusal", "hooks and baked compliance"]
    assert heads[-1] == "base, hooks and baked compliance"


def test_long_completions_are_clamped_and_whole() -> None:
    long, lines = "word " * 200, "\n".join(["line"] * 30)
    rows = [
        {"set": "positive", "prompt": "p", "base": {"text": text, "verdict": "compliance"}}
        for text in (long, lines, "short", "")
    ]
    found, _ = page(completions=rows)
    folded = found.having(class_="long")
    assert len(folded) == 2
    for (_, _, words), whole in zip(folded, (long, lines), strict=True):
        assert words.endswith(whole)
        assert len(words) < len(whole) + 350
    assert "(empty)" in [words for *_, words in found.having(class_="absent")]


def test_missing_pieces_are_said_and_not_invented() -> None:
    summary = a_summary()
    del summary["forms"]["baked"], summary["direction"], summary["judge"]
    summary.update(receipt=None, checkpoint=None, stages={}, edited=dict(summary["edited"]))
    summary["edited"].update(refusal_rate=None, refusal_count=None, refusal_ci=None)
    summary["forms"]["hooks"] = {**summary["edited"], "kl_per_token": float("nan")}
    for row in (completions := some_completions()):
        del row["baked"]
    found, text = page(summary=summary, completions=completions)
    assert found.problems == []
    assert "were not measured on both sides" in text
    assert "no receipt" in text
    assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.S).lower().replace("nats", "")
    assert values_of(found)["refusal"] == [0.81]
    assert values_of(found)["kl_per_token"] == [0.0]


@pytest.mark.parametrize("summary", [{}, {"behaviour": "hedging", "base": {"refusal_rate": 0.5}}])
def test_almost_nothing_still_renders(summary: dict[str, Any]) -> None:
    found, text = page(summary=summary, scores={}, separation={}, completions=[])
    assert found.problems == []
    assert "No completions were recorded." in text
    assert "No projections were recorded." in text
    assert values_of(found)["refusal"] == ([0.5] if summary else [])


@pytest.mark.parametrize(
    ("after", "words"),
    [(4, "fell from"), (97, "rose from"), (81, "stayed at"), (78, "chance may account for it")],
)
def test_lead_says_which_way_the_rate_went(after: int, words: str) -> None:
    summary = a_summary()
    summary["edited"] = metrics(after, 3, 0.1, 0.9)
    found, _ = page(summary=summary)
    ((_, _, lead),) = found.having(class_="lead")
    assert words in lead.split("Cost and side effects")[0]


def test_inputs_are_left_as_they_were() -> None:
    inputs = (a_summary(), arditi_scores(), a_separation(), some_completions())
    before = json.dumps(inputs)
    assert render_page(*inputs) == render_page(*inputs)
    render_card(inputs[0])
    assert json.dumps(inputs) == before


def test_the_plane_has_every_prompt_on_one_scale_and_the_direction() -> None:
    separation = a_separation()
    _, text = page(separation=separation)
    drawn = next(
        part for part in re.findall(r"<svg.*?</svg>", text, flags=re.S) if 'id="plane-title"' in part
    )
    for side in ("positive", "negative"):
        dots = re.findall(rf'<circle cx="([\d.]+)" cy="([\d.]+)" r="2.7" class="place {side}">', drawn)
        assert len(dots) == 100
        at, wanted = [tuple(map(float, dot)) for dot in dots[:2]], separation["pca"][side][:2]
        scale = [(at[1][axis] - at[0][axis]) / (wanted[1][axis] - wanted[0][axis]) for axis in range(2)]
        assert scale[0] == pytest.approx(-scale[1], rel=0.02)
    assert "its cosine with the plane is 0.885" in drawn
    assert "first component (41.0% of the variance)" in drawn
    separation["pca"] = None
    assert 'id="plane-title"' not in page(separation=separation)[1]


def test_a_receipt_that_fails_says_why() -> None:
    summary = a_summary()
    assert "The receipt fails." not in page(summary=summary)[1]
    reason = "the residual stream has NaN or infinite values, leaving layer 1"
    summary["receipt"].update(status="not_carried", reason=reason, projection=None, max_projection=None)
    assert f"<strong>The receipt fails.</strong> {reason}." in page(summary=summary)[1]


def test_the_receipt_shows_what_was_measured() -> None:
    summary = a_summary()
    summary["receipt"].update(
        failures=["model.layers.3.mlp.down_proj.weight"], rounding={"packed.weight": 0.0021}
    )
    found, text = page(summary=summary)
    drawn = next(
        part for part in re.findall(r"<svg.*?</svg>", text, flags=re.S) if 'id="left-by-layer-title"' in part
    )
    assert re.findall(r"<title>(behind layer \d+): ", drawn) == [
        f"behind layer {layer}" for layer in range(LAYERS)
    ]
    assert "before the first block: 0.00310" in drawn
    assert "8 random texts of 48 tokens (seed 0), float32" in text
    everything = "".join(words for tag, _, words in found.found if tag == "main")
    assert (
        "1 of the weights named by the edit do not carry it: model.layers.3.mlp.down_proj.weight."
        in everything
    )
    assert "packed.weight0.2% off what was wanted" in everything
    summary["receipt"].update(projection=None, max_projection=None)
    assert 'id="left-by-layer-title"' not in page(summary=summary)[1]


def test_the_plane_of_every_stored_layer_is_there_and_that_of_the_chosen_one_shown() -> None:
    separation = a_separation()
    separation["planes"] = [{**separation["pca"], "layer": layer} for layer in (0, 9, 17, 29)]
    found, text = page(separation=separation)
    planes = found.having(class_="plane")
    assert [attributes["data-layer"] for _, attributes, _ in planes] == ["0", "9", "17", "29"]
    assert [attributes["data-layer"] for _, attributes, _ in planes if "hidden" not in attributes] == ["17"]
    assert "was kept in this run" not in text
    found, text = page()
    assert found.having(class_="slider") == []
    assert "only that of layer 17 was kept in this run" in text


def test_the_page_of_the_default_counts_stays_small() -> None:
    """100 prompts a side and twelve planes; the completions of a run are beside it."""
    separation = a_separation()
    separation["planes"] = [{**separation["pca"], "layer": layer} for layer in range(0, 24, 2)]
    _, text = page(scores=RUNS[3], summary=searched_summary(RUNS[3]), separation=separation)
    assert len(text) < 400_000


def test_why_hooks_and_baked_texts_part_is_said_where_they_do() -> None:
    why = "They are the same function but for rounding"
    assert why in page()[1]
    same = [{**row, "baked": row["hooks"]} for row in some_completions()]
    assert why not in page(completions=same)[1]
    exact = {**a_summary(), "settings": {**a_summary()["settings"], "dtype": "float32"}}
    assert why not in page(summary=exact)[1]
