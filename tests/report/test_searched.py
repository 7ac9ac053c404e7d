"""Report, card and console of the recipes that choose among whole edits, on invented runs."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from invented_page import NAMES, RUNS, page, values_of
from invented_run import LAYERS, a_summary, gradient_scores, searched_summary, tpe_scores
from parsed_page import Page

from vectomy.cli.tables.summary_table import print_summary
from vectomy.core.results import SearchResults
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.operation import Operation
from vectomy.edits.strength import strength_of
from vectomy.report import render_card
from vectomy.report.charts.frontier_chart import points
from vectomy.report.tables.recipe_terms import rule

TIER = "unit"


def searched_page(scores: dict[str, Any], **changed: Any) -> tuple[Page, str]:
    return page(summary={**searched_summary(scores), **changed}, scores=scores)


def told_in(found: Page, name: str) -> list[str]:
    """Titles of the marks in the figure `name`, which stand between its description and that of the
    next.
    """
    titles = [(a.get("id"), words) for tag, a, words in found.found if tag in ("title", "desc")]
    start = next(at for at, (id_, _) in enumerate(titles) if id_ == f"{name}-desc") + 1
    end = next((at for at, (id_, _) in enumerate(titles) if id_ and at >= start), len(titles))
    return [words for _, words in titles[start:end]]


@pytest.mark.parametrize("scores", RUNS[3:], ids=NAMES[3:])
def test_the_frontier_shows_each_edit_where_it_was_measured(scores: dict[str, Any]) -> None:
    found, _ = searched_page(scores)
    rows = [row for row in scores["candidates"] if row["kl"] is not None]
    tried = [row for row in rows if row["rejected"] is None]
    assert 0 < len(tried) < len(rows)
    dots, ticks = found.having(class_="tried"), found.having(class_="untried")
    assert (len(dots), len(ticks)) == (len(tried), len(rows) - len(tried))
    heights = {words: float(a["cy"] or "nan") for _, a, words in dots}
    assert len({a["d"] for _, a, _ in ticks}) == len(ticks)
    for one, other in itertools.combinations(tried, 2):
        (a, b) = (
            next(y for words, y in heights.items() if words.startswith(f"{_name(row)}:"))
            for row in (one, other)
        )
        assert (a < b) == (one["rate"] > other["rate"])
    assert all("not tried" in words or "stopped after" in words for *_, words in ticks)
    (ring,) = found.having(class_="chosen")
    chosen = scores["chosen"].get("step", scores.get("trial"))
    assert f"chosen: {'step' if 'step' in rows[0] else 'edit'} {chosen}: " in ring[2]
    ((_, _, row),) = found.having(class_="chosen-row")
    assert row.startswith(f"{'step' if 'step' in rows[0] else 'edit'} {chosen}")


def _name(row: dict[str, Any]) -> str:
    return f"step {row['step']}" if "step" in row else f"edit {row['number']}"


def test_the_frontier_has_what_is_held_on_prompts_to_keep() -> None:
    found, text = searched_page(gradient_scores("selective"))
    held = found.having(class_="held")
    assert len(held) == 3
    assert {words for *_, words in held} >= {"step 24: 3.1% left; 92.2% on the prompts to keep; KL 0.0220"}
    assert "92.2% of the answers to prompts to keep show it, where 96.9% of the base's do" in text
    assert not searched_page(gradient_scores())[0].having(class_="held")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"target_rate": 0.05},
            "on at most 5% of the harmful search prompts, the one with the smallest KL per token is chosen.",
        ),
        (
            {"target_rate": 0.05, "kl_budget": 0.3},
            "whose KL per token is at most 0.3 nats, the one that leaves least",
        ),
        ({}, "on few enough of the harmful search prompts"),
    ],
)
def test_the_rule_is_said(settings: dict[str, Any], words: str) -> None:
    assert words in searched_page(gradient_scores(), settings=settings)[1]


@pytest.mark.parametrize("rank", [1, 3])
def test_strengths_have_a_cell_each_and_those_below_0_a_sign(rank: int) -> None:
    scores = gradient_scores(rank=rank)
    found, text = searched_page(scores)
    told = told_in(found, "strengths")
    assert len(told) == len(scores["strengths"])
    below = [row for row in scores["strengths"] if row["strengths"][0] < 0]
    assert below
    assert len(found.having(class_="minus")) == len(below)
    assert sum(": −" in words for words in told) == len(below)
    # Two components in each layer and the embedding in front; what is not edited is an empty cell.
    assert len(found.having(class_="empty")) == 2 * LAYERS + 1 - len(scores["strengths"])
    assert any(words.startswith("embedding: 0.110") for words in told)
    assert all(("(all: " in words) == (rank > 1) for words in told)
    assert ("the largest of 3 directions" in text) == (rank == 3)


def test_losses_are_drawn_where_there_are_some() -> None:
    def lines(scores: dict[str, Any]) -> int:
        found, text = searched_page(scores)
        assert ("Losses by step" in text) == bool(scores.get("history"))
        return sum(1 for tag, a, _ in found.found if tag == "path" and (a.get("d") or "").count("L") == 31)

    assert lines(gradient_scores()) == 2
    assert lines(gradient_scores("selective")) == 3
    assert lines({**gradient_scores(), "history": []}) == 0
    assert lines(tpe_scores()) == 0


@pytest.mark.tiny
@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), 0.0, "x"])
def test_numbers_that_are_none_break_no_figure(bad: Any) -> None:
    scores = gradient_scores("selective")
    summary = searched_summary(scores)
    for row in scores["candidates"]:
        row.update(kl=bad, rate=bad, held=bad, held_base=bad)
    scores["strengths"][3]["strengths"] = [bad]
    scores["history"][5].update(change=bad, keep=bad)
    found, text = page(summary=summary, scores=scores)
    assert found.problems == []
    assert not re.search(r'="[^"]*\b(nan|inf)\b', text)
    for key in ("candidates", "strengths", "history", "frontier"):
        for value in (None, []):
            assert page(summary=summary, scores={**gradient_scores(), key: value})[0].problems == []
    scores["candidates"] = [dict.fromkeys(row, bad) for row in scores["candidates"]]
    summary["settings"] = {"kl_budget": bad, "target_rate": bad}
    summary["strength"] = dict.fromkeys(summary["strength"], bad)
    assert page(summary=summary, scores=scores)[0].problems == []


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (
            {},
            "one learned direction of the residual stream in 40 writers, each by a strength of its own from ",
        ),
        (
            {"lowest": 0.02, "highest": 0.9},
            "weakens one learned direction of the residual stream in 40 writers",
        ),
        (
            {"lowest": 0.02, "highest": 0.9, "directions": 3},
            "weakens 3 learned directions of the residual stream in",
        ),
        (
            {"lowest": 0.02, "shared": False},
            "weakens a learned direction of the residual stream for each layer in",
        ),
        ({"highest": 1.4}, "(1 removes, above 1 reverses, below 0 amplifies)"),
        ({"highest": -0.1}, "(below 0 amplifies)"),
    ],
)
def test_a_learned_edit_is_not_called_one_direction_removed(spread: dict[str, Any], words: str) -> None:
    scores = gradient_scores()
    held = {**searched_summary(scores)["strength"], "writers": 40, **spread}
    _, text = searched_page(scores, strength=held)
    card = render_card({**searched_summary(scores), "strength": held})
    assert words in text
    assert words in card.replace("\\", "")
    for said in (text, card):
        assert "removes one direction" not in said
        assert "learned from the direction at" in said


def test_tpe_is_not_called_learned() -> None:
    scores = tpe_scores()
    _, text = searched_page(scores)
    assert "changes one direction of the residual stream in 12 writers" in text
    assert "KL of the first token" in text
    assert "learned" not in text.partition("<main>")[0].partition("<header>")[2]
    assert "Nothing was\nretrained" in render_card(searched_summary(scores))


def test_prompts_to_keep_have_their_row_interval_and_filter() -> None:
    scores = gradient_scores("selective")
    found, text = searched_page(scores)
    assert values_of(found)["keep_refusal"] == [0.97, 0.95, 0.95]
    assert len(found.having(class_="whisker")) == 9
    assert "Refusals of prompts to keep fell from <b>97 of 100</b> (97.0%" in text
    assert "to <b>95 of 100</b> (95.0%" in text
    assert "own/keep.jsonl" in text
    card = render_card(searched_summary(scores))
    assert "| Refusals, prompts to keep (own/keep.jsonl) | 97.0% (97 of 100," in card
    assert "- Refusals of prompts to keep fell from" in card
    for other in (page()[1], render_card(a_summary())):
        assert "to keep" not in other


@pytest.mark.parametrize("scores", RUNS, ids=NAMES)
def test_the_console_says_where_the_direction_came_from(scores: dict[str, Any], capsys: Any) -> None:
    changed = {"recipe": scores["recipe"], "direction": {"token": "\n", **scores["chosen"]}}
    summary = searched_summary(scores) if scores in RUNS[3:] else {**a_summary(), **changed}
    print_summary({**summary, "notes": []}, "runs/demo")
    said = capsys.readouterr().out
    chosen = scores["chosen"]
    place = f"{chosen['site']} of layer {chosen['layer']}"
    writers = len(scores.get("strengths", [])) or 12
    spread = f"in {writers} writers with strengths of"
    assert {
        "tpe": f"direction  mainly {place}, strengths by trials, {spread} 0.2 to 1.3,",
        "gradient": f"direction  learned from {place}, {spread} -0.0",
        "selective": f"direction  learned from {place}, {spread} -0.0",
    }.get(
        scores["recipe"], f"direction  {place}, token '\\n' (position -1), recipe {scores['recipe']}"
    ) in said
    assert ("refusals to keep" in said) == (scores["recipe"] == "selective")
    assert ("97/100" in said) == (scores["recipe"] == "selective")


def test_the_strength_of_an_edit_is_one_number_or_says_how_it_varies() -> None:
    base = BaseModelRef("llama", 4, 3, 9, "f")

    def strength(*writers: tuple[list[int], list[float]]) -> Any:
        made = (
            Operation("mlp", at, torch.eye(4)[rows], torch.tensor(values))
            for at, (rows, values) in enumerate(writers)
        )
        return strength_of(Edit(base, tuple(made)))

    assert strength() is None
    assert strength(([0], [1.0]), ([0], [1.0])) == 1.0
    assert strength(([0], [0.5]), ([0], [-0.5])) == {
        "lowest": -0.5,
        "highest": 0.5,
        "writers": 2,
        "directions": 1,
        "shared": True,
    }
    assert strength(([0, 1], [0.5, 1.0]), ([2, 1], [0.0, 1.0])) == {
        "lowest": 0.0,
        "highest": 1.0,
        "writers": 2,
        "directions": 2,
        "shared": False,
    }


@pytest.mark.parametrize(
    ("key", "take"),
    [({"step": 44, "strength": 1.15}, "44@1.15"), ({"step": 32, "strength": 1.0}, "32"), ({"step": 7}, "7")],
)
def test_edits_of_the_frontier_name_what_pick_takes(key: dict[str, Any], take: str) -> None:
    """The names of `vectomy pick`; an edit that the run holds no file of has none."""
    scores = gradient_scores()
    scores["candidates"].append({**key, "kl": 0.01, "rate": 0.5, "rejected": None})
    scores["frontier"].append({**key, "edit": "frontier/x.safetensors"})
    names = {point.name: point.take for point in points(SearchResults.from_json(scores))}
    dial = key.get("strength", 1.0)
    assert names[f"step {key['step']}{'' if dial == 1 else f' at strength {dial:g}'}"] == take
    assert names["step 16"] == ""
    assert f'data-take="{take}"' in searched_page(scores)[1]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.847, ".85"), (1.2109, "1.2"), (-0.3328, "−.33"), (0.998, "1.0"), (0.04, ".04")]
)
def test_each_cell_of_the_strengths_has_its_number(value: float, shown: str) -> None:
    scores = gradient_scores()
    scores["strengths"][1]["strengths"] = [value]
    numbers = [words for _, _, words in searched_page(scores)[0].having(class_="in-cell")]
    assert len(numbers) == len(scores["strengths"])
    assert shown in numbers


def test_the_rule_names_the_limit_on_degenerate_answers() -> None:
    scores = SearchResults.from_json({"recipe": "gradient"})
    limits = {"target_rate": 0.05, "kl_budget": None, "max_degenerate": 0.1}
    assert "more than 10% degenerate answers beyond the base's" in rule(scores, limits)
    assert "degenerate" not in rule(scores, {"target_rate": 0.05})
