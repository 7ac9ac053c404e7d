"""What a search does with answers that have no verdict: they count nowhere, and an edit of which
most answers have none is never chosen.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_chat
from tiny_directions import recipe_input

from vectomy.core.errors import SelectionError
from vectomy.edits.edit import Edit
from vectomy.metrics.judges import RefusalJudge, Verdict
from vectomy.search.gradient.frontier_points import is_preserved, list_tried
from vectomy.search.search_split import SearchSplitEvaluator
from vectomy.search.tpe.layer_weights import SCOPES, ranges
from vectomy.search.tpe.trial import TrialBench

TIER = "chat"

PROMPTS = tiny_chat.prompts(tiny_chat.NIGHT, 20, seed=2)


class HalfBlindJudge(RefusalJudge):
    """Judges no answer to some prompts."""

    def __init__(self, unjudged: Collection[str]) -> None:
        self.unjudged = unjudged

    def verdict(self, prompt: str, completion: str) -> Verdict:
        return "not_judged" if prompt in self.unjudged else super().verdict(prompt, completion)


def judge_without(count: int) -> HalfBlindJudge:
    return HalfBlindJudge({prompt.text for prompt in PROMPTS[:count]})


def weak(bench: TrialBench) -> dict[str, float]:
    low = {
        name: ends[0] for name, ends in ranges(bench.places, tiny_chat.chat().architecture.n_layers).items()
    }
    return {"scope": SCOPES[0], **low, **{name: 0.0 for name in low if name.endswith("maximum")}}


@pytest.mark.parametrize(("unjudged", "rate"), [(0, 1.0), (10, 1.0), (11, None), (20, None)])
def test_a_rate_is_of_the_judged_answers_and_none_of_few(
    tmp_path: Path, unjudged: int, rate: float | None
) -> None:
    """The edit changes nothing: every judged answer refuses."""
    task = recipe_input(tmp_path, "gradient", positive=PROMPTS)
    answers = {
        "positive": task.chat.answer(task.chat.tokens(PROMPTS), 8, 4096),
        "negative": task.chat.answer(task.chat.tokens(task.negative["search"]), 8, 4096),
    }
    task = replace(task, judge=judge_without(unjudged), answers=answers)
    evaluator = SearchSplitEvaluator(task, packed=False, layer=0)
    assert evaluator.measure(Edit(task.base)).rate == rate


@pytest.mark.parametrize(("unjudged", "count"), [(0, 20), (6, 14)])
def test_a_trial_counts_the_judged_answers(tmp_path: Path, unjudged: int, count: int) -> None:
    task = replace(recipe_input(tmp_path, "tpe", positive=PROMPTS), judge=judge_without(unjudged))
    bench = TrialBench.of(task)
    row = bench.on(task.chat)(weak(bench), [])
    assert (row["rate"], row["shown"], row["seen"], row["rejected"]) == (1.0, count, 20, None)


def test_a_trial_of_which_most_is_not_judged_is_rejected(tmp_path: Path) -> None:
    task = replace(recipe_input(tmp_path, "tpe", positive=PROMPTS), judge=judge_without(15))
    bench = TrialBench.of(task)
    row = bench.on(task.chat)(weak(bench), [])
    assert (row["kl"], row["rate"]) == (None, None)
    assert row["rejected"] == "15 of 20 answers could not be judged"


def test_without_any_judged_edit_the_search_says_why() -> None:
    points = [{"rejected": None}, {"rejected": "most answers could not be judged"}]
    assert list_tried(points) == [0]
    said = r"could not be judged: they are in a language that .* raise --answer-tokens, .* another --judge"
    with pytest.raises(SelectionError, match=said):
        list_tried(points[1:])
    assert not is_preserved({"held": None, "held_base": 0.9})
    assert is_preserved({"held": 0.9, "held_base": 0.9})
