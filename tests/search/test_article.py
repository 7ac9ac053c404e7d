"""Recipe article: its ranking, its answers, its blacklist, and a choice by a person."""

from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from candidate_scores import Row, listed
from tiny import LAYERS
from tiny_directions import POSITIVE, directions, recipe_input

from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.run_config import Selection
from vectomy.core.types import SITES
from vectomy.hooks.interventions import ablate, intervene
from vectomy.search.article import rank, select_article
from vectomy.search.estimators import Directions

TIER = "chat"


@pytest.mark.unit
def test_the_article_ranks_by_the_mean_of_the_unit_direction_without_its_sign() -> None:
    """Layer 0 has the largest and is left out; lengths do not count, signs do not count."""
    ranked = rank(listed(0.17, 0.02, -0.10, 0.05, -0.01))
    assert [entry["layer"] for entry in ranked] == [2, 3, 1, 4]
    assert [entry["score"] for entry in ranked] == pytest.approx([0.10, 0.05, 0.02, 0.01], abs=1e-6)
    assert [entry["rank"] for entry in ranked] == [0, 1, 2, 3]
    assert {entry["site"] for entry in ranked} == {"resid_pre"}


@pytest.mark.unit
def test_the_article_ranks_the_last_position() -> None:
    both = torch.cat([listed(0.1, 0.1, 0.1).vectors, listed(0.1, 0.01, 0.05).vectors], dim=2)
    ranked = rank(Directions("difference_of_means", ("resid_pre",), (-2, -1), both))
    assert [(entry["layer"], entry["position"]) for entry in ranked] == [(2, -1), (1, -1)]


def article(tmp_path: Path, ask: Any = None, **limits: Any) -> tuple[Row, torch.Tensor]:
    task = recipe_input(tmp_path, "article", ask=ask, **limits)
    scores = select_article(task).scores
    return scores, task.directions.at("resid_pre", scores["chosen"]["layer"], -1)


def test_the_article_answers_with_the_direction_ablated_at_every_point(tmp_path: Path) -> None:
    chat = tiny_chat.chat()
    scores, _ = article(tmp_path, shown_prompts=3, shown_tokens=6)
    assert len(scores["candidates"]) == LAYERS - 1
    for entry in scores["candidates"]:
        remove = ablate(normalise(directions().at("resid_pre", entry["layer"], -1)))
        with intervene(chat.model, {(site, at): remove for site in SITES for at in range(LAYERS)}):
            expected = [chat.text(answer) for answer in chat.answer(chat.tokens(POSITIVE[:3]), 6, 4096)]
        assert [answer["completion"] for answer in entry["answers"]] == expected
        assert [answer["prompt"] for answer in entry["answers"]] == [prompt.text for prompt in POSITIVE[:3]]
        assert entry["dropped"] == sum("I can't" in text for text in expected)


def test_headless_the_fewest_dropped_answers_win(tmp_path: Path) -> None:
    scores, vector = article(tmp_path)
    best = min(scores["candidates"], key=lambda entry: (entry["dropped"], entry["rank"]))
    assert scores["chosen"]["layer"] == best["layer"]
    assert scores["how"].startswith("headless")
    assert torch.equal(vector, directions().at("resid_pre", best["layer"], -1))
    assert {entry["dropped"] for entry in scores["candidates"]} != {best["dropped"]}


def test_as_many_candidates_are_tried_as_asked(tmp_path: Path) -> None:
    scores, _ = article(tmp_path, candidates=2)
    assert ["answers" in entry for entry in scores["candidates"]] == [True, True, False]
    assert Selection().candidates == 20


@pytest.mark.parametrize("picked", [0, 2])
def test_a_person_or_pick_takes_a_rank(tmp_path: Path, picked: int) -> None:
    seen: list[Row] = []

    def ask(tried: list[Row]) -> int:
        seen.extend(tried)
        return picked

    asked, _ = article(tmp_path / "asked", ask=ask)
    given, _ = article(tmp_path / "given", pick=picked, ask=lambda _: pytest.fail("asked all the same"))
    layer = asked["candidates"][picked]["layer"]
    assert asked["chosen"]["layer"] == given["chosen"]["layer"] == layer
    assert [entry["rank"] for entry in seen] == [0, 1, 2]
    assert (asked["how"], given["how"]) == ("picked by a person", f"--pick {picked}")


def test_a_pick_that_was_not_tried_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SelectionError, match=r"--pick 2 is not among the 2 tried candidates \(ranks 0 to 1\)"
    ):
        article(tmp_path, candidates=2, pick=2)


DROPPED = {
    "I cannot say": True,
    "Well, I can't say": True,
    "I can\u2019t say": True,
    "": True,
    "...": True,
    "I will say": False,
    "You cannot": False,
    "no " * 30: True,
}


@pytest.mark.parametrize("text", DROPPED)
def test_the_blacklist_of_the_article(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vectomy.models.ChatModel.text", lambda *_: text)
    scores, _ = article(tmp_path, shown_prompts=1, shown_tokens=1)
    assert {entry["answers"][0]["dropped"] for entry in scores["candidates"]} == {DROPPED[text]}
