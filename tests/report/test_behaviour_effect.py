"""What is said of an edit follows from the numbers: a claim of removal needs a measurably lower
rate, and the sentence names interval and degenerate answers.
"""

from __future__ import annotations

import copy
import math
import random
import re
from typing import Any

import pytest
from invented_evaluation import an_evaluation, evaluated_completions
from invented_run import a_separation, a_summary, arditi_scores, some_completions, wilson

from vectomy.cli.tables.summary_table import print_summary
from vectomy.core.results import PairedOutcome, Rate, RunResults
from vectomy.report import (
    claim_effect,
    compare_rates,
    describe_change,
    effect_of,
    render_card,
    render_evaluation,
    render_page,
    safety_text,
)

TIER = "unit"

# What a reader takes for the statement that a behaviour is gone or weaker.
CLAIMS = re.compile(
    r"edit (?:removes|weakens|reduces|takes away|eliminates) (?:refusal|the behaviour|the trait)|"
    r"no longer refuses|refuses? less than|"
    r"answers? (?:all )?requests that (?:its base|it) declines|no longer declines|"
    r"losing them is the effect"
)


def rate(count: int, total: int) -> Rate:
    return Rate(count=count, total=total, rate=count / total, ci=tuple(wilson(count, total)))


def summary_of(before: int, after: int, total: int, **more: Any) -> dict[str, Any]:
    """A run with these refusals of harmful prompts; every form has the same."""
    summary = {**a_summary(), "safety": "This edit removes refusal. No such claim may survive.", **more}
    forms = [(summary["base"], before), (summary["edited"], after)]
    for form, count in [*forms, *((form, after) for form in summary["forms"].values())]:
        measured = {"rate": count / total, "count": count, "total": total, "ci": wilson(count, total)}
        form.update({f"refusal_{key}": value for key, value in measured.items()})
    return summary


def sign_test(lost: int, gained: int) -> float:
    """The two-sided p of so uneven a split of fair coins."""
    changed = lost + gained
    tail = sum(math.comb(changed, k) for k in range(min(lost, gained) + 1)) / 2**changed
    return min(1.0, 2 * tail)


def pairs(lost: int, gained: int, **more: Any) -> dict[str, Any]:
    return {"lost": lost, "gained": gained, "p": sign_test(lost, gained), **more}


@pytest.mark.parametrize(
    ("before", "after", "total", "degenerate", "kind", "words"),
    [
        (
            33,
            0,
            40,
            0,
            "removed",
            "This edit removes refusal on harmful prompts, from 33 of 40 (82.5%, 68.1–91.3%)",
        ),
        (33, 0, 40, 6, "removed", "This edit removes refusal on harmful prompts"),
        (
            33,
            0,
            40,
            30,
            "replaced",
            "puts degenerate answers (they repeat, stall, are garbled or empty) in the place",
        ),
        (33, 12, 40, 0, "weakened", "This edit weakens refusal on harmful prompts, from 33 of 40"),
        (
            15,
            15,
            15,
            0,
            "unchanged",
            "made to remove refusal, but no measurable change was found on harmful prompts",
        ),
        (
            15,
            14,
            15,
            0,
            "unchanged",
            "15 of 15 (100.0%, 79.6–100.0%) before it, 14 of 15 (93.3%, 70.2–98.8%) after",
        ),
        (0, 0, 15, 0, "unchanged", "no measurable change"),
        (3, 33, 40, 0, "strengthened", "made to remove refusal, but on harmful prompts there is more of it"),
    ],
)
def test_sentence_of_a_removal(
    before: int, after: int, total: int, degenerate: int, kind: str, words: str
) -> None:
    lost, gained = max(before - after, 0), max(after - before, 0)
    found = pairs(lost, gained, degenerate=degenerate, degenerate_before=0, lost_to_degenerate=degenerate)
    results = RunResults.from_json(summary_of(before, after, total, outcome={"sets": {"positive": found}}))
    effect = effect_of(results, "refusal")
    assert effect.kind == kind
    assert words in claim_effect(results)
    told = describe_change(effect, "Refusals of harmful prompts")
    assert f"{after} of {total} (" in told
    assert ("McNemar's p" in told) == (before != after)
    assert ("No answer is degenerate afterwards." in told) == (degenerate == 0)
    if degenerate:
        assert f"Afterwards {degenerate} of {total} answers are degenerate (0 before; they repeat" in told
        assert f"{degenerate} of the {lost} prompts that lost the behaviour are among them" in told


@pytest.mark.parametrize(
    ("more", "before", "after", "words"),
    [
        ({"strength": 0.5}, 33, 12, "This edit weakens refusal"),
        ({"strength": 0.5}, 33, 30, "made to weaken refusal, but no measurable change"),
        ({"strength": -1.0}, 10, 33, "This edit strengthens refusal on harmful prompts, from 10 of 40"),
        ({"strength": -1.0}, 33, 2, "made to strengthen refusal, but on harmful prompts there is less of it"),
        (
            {"behaviour": "hedging"},
            33,
            2,
            "made to remove the behaviour 'hedging'; whether it does was not measured",
        ),
        (
            {"trait": {"name": "melancholy", "operation": "induce"}},
            1,
            33,
            "This edit induces the trait 'melancholy'",
        ),
        (
            {"trait": {"name": "melancholy", "operation": "induce"}},
            1,
            2,
            "made to induce the trait 'melancholy', but no",
        ),
        (
            {"trait": {"name": "hedging", "operation": "remove"}},
            33,
            1,
            "This edit removes the trait 'hedging'",
        ),
    ],
)
def test_sentence_follows_the_direction_of_the_edit(
    more: dict[str, Any], before: int, after: int, words: str
) -> None:
    assert words in claim_effect(RunResults.from_json(summary_of(before, after, 40, **more)))


def test_what_was_not_measured_is_not_claimed() -> None:
    summary = {"behaviour": "refusal", "strength": 1.0}
    assert claim_effect(RunResults.from_json(summary)) == (
        "This edit was made to remove refusal; whether it does was not measured."
    )
    bare = {**summary, "base": {"refusal_rate": 0.9}, "edited": {"refusal_rate": 0.0}}
    claim = claim_effect(RunResults.from_json(bare))
    assert "its rate on harmful prompts is lower after it, from 90.0% to 0.0%, but no interval" in claim
    assert not CLAIMS.search(render_card({**summary, "safety": "Careful."}).split("---\n", 2)[2])


def test_prompts_to_keep_are_told_in_the_warning() -> None:
    summary = summary_of(33, 0, 40)
    for form, count in ((summary["base"], 38), (summary["edited"], 12)):
        measured = {"rate": count / 40, "count": count, "total": 40, "ci": wilson(count, 40)}
        form.update({f"keep_refusal_{key}": value for key, value in measured.items()})
    told = safety_text(RunResults.from_json(summary))
    assert "removes refusal on positive prompts" in told
    assert "Refusals of prompts to keep fell from 38 of 40 (95.0%" in told


def lower(before: int, after: int, total: int, lost: int, gained: int, *, paired: bool) -> bool:
    """An oracle: McNemar's exact test where pairs are known, else that the intervals are apart."""
    if after >= before:
        return False
    if paired:
        return sign_test(lost, gained) < 0.05
    return wilson(after, total)[1] < wilson(before, total)[0]


def random_counts(seed: int) -> tuple[int, int, int, int, int, int]:
    """(before, after, total, lost, gained, degenerate), often at the edge of what is measurable."""
    rng = random.Random(seed)
    total = rng.choice((5, 8, 15, 40, 100))
    before = rng.choice((total, rng.randint(0, total)))
    lost = rng.choice((0, rng.randint(0, before), min(before, 6)))
    gained = rng.randint(0, min(total - before, 3))
    after = before - lost + gained
    return before, after, total, lost, gained, rng.choice((0, 0, rng.randint(0, total - after)))


@pytest.mark.parametrize("seed", range(24))
def test_no_text_claims_removal_where_the_rate_is_not_lower(
    seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after, total, lost, gained, degenerate = random_counts(seed)
    paired = seed % 2 == 0
    found = pairs(lost, gained, degenerate=degenerate, degenerate_before=0)
    more = {"outcome": {"sets": {"positive": found}}} if paired else {}
    summary = summary_of(before, after, total, **more)
    print_summary(summary, "runs/x")
    texts = {
        "card": render_card(summary),
        "page": render_page(summary, arditi_scores(), a_separation(), some_completions()),
        "terminal": capsys.readouterr().out,
        "safety": safety_text(RunResults.from_json(summary)),
    }
    is_lower = lower(before, after, total, lost, gained, paired=paired)
    for name, text in texts.items():
        plain = " ".join(re.sub(r"<[^>]+>", "", text).split())
        assert bool(CLAIMS.search(plain)) == is_lower, name
        assert "No such claim may survive" not in plain
        assert after < before or "abliterated" not in plain
        if name != "safety" and paired and degenerate:
            assert f"Afterwards {degenerate} of {total} answers are degenerate" in plain, name


@pytest.mark.parametrize("seed", range(12))
def test_evaluation_names_as_safer_or_less_safe_what_is_measurably_so(seed: int) -> None:
    before, after, total, lost, gained, degenerate = random_counts(seed)
    evaluation = copy.deepcopy(an_evaluation())
    evaluation["subjects"] = [
        row for row in evaluation["subjects"] if row["kind"] == "base" or row["name"] == "edit@1"
    ]
    evaluation["sets"] = [row for row in evaluation["sets"] if row["name"] == "harmful"]
    for subject, count in (("demo", before), ("edit@1", after)):
        numbers = evaluation["results"][subject]["sets"]["harmful"]
        numbers["refusal"] = rate(count, total).to_json()
        numbers["degenerate"] = rate(degenerate if subject == "edit@1" else 0, total).to_json()
    evaluation["results"]["edit@1"]["sets"]["harmful"]["against_base"] = pairs(lost, gained)
    text = " ".join(re.sub(r"<[^>]+>", "", render_evaluation(evaluation, evaluated_completions())).split())
    assert bool(CLAIMS.search(text)) == lower(before, after, total, lost, gained, paired=True)


def test_pairs_decide_before_intervals() -> None:
    before, after = rate(34, 40), rate(26, 40)
    assert compare_rates(before, after).kind == "unchanged"
    assert compare_rates(before, after, PairedOutcome.from_json(pairs(8, 0))).kind == "weakened"
    assert compare_rates(before, after, PairedOutcome.from_json(pairs(14, 6))).kind == "unchanged"
