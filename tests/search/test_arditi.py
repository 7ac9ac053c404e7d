"""Recipe arditi on the tiny chat model: scores as defined, and the choice of the rule."""

from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from candidate_scores import Row
from tiny import LAYERS, unit
from tiny_directions import NEGATIVE, POSITIVE, TOKENS, directions, recipe_input

from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.run_config import Selection
from vectomy.core.types import SITES
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.hooks.interventions import ablate, add, intervene
from vectomy.metrics.logits import log_odds
from vectomy.search.arditi import select_arditi
from vectomy.search.arditi_rule import choose
from vectomy.search.estimators import Directions

TIER = "chat"


# Recipe arditi on the tiny chat model


def arditi(tmp_path: Path, found: Directions | None = None, **limits: Any) -> tuple[Row, torch.Tensor]:
    task = recipe_input(tmp_path, "arditi", vectors=found, **limits)
    scores = select_arditi(task).scores
    return scores, task.directions.at("resid_pre", scores["chosen"]["layer"], scores["chosen"]["position"])


def by_place(scores: Row) -> dict[tuple[int, int], Row]:
    return {(entry["layer"], entry["position"]): entry for entry in scores["candidates"]}


LIMITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all pass": {"induce_threshold": -99.0, "kl_threshold": 99.0, "layer_fraction": 1.0},
    "beyond": {"kl_threshold": 1e-6},
    "beyond, more": {"kl_threshold": 1e-6, "induce_threshold": -3.0, "layer_fraction": 1.0},
}


@pytest.mark.parametrize("case", LIMITS)
def test_scores_left_out_change_no_choice(tmp_path: Path, case: str) -> None:
    """Lazily scored and in full: the same choice, and the lazy scores are among the full ones."""
    lazy, vector = arditi(tmp_path / "lazy", **LIMITS[case])
    full, other = arditi(tmp_path / "full", complete=True, **LIMITS[case])
    assert lazy["chosen"] == full["chosen"]
    assert torch.equal(vector, other)
    missing = 0
    for place, entry in by_place(lazy).items():
        for name in ("steering_score", "kl_div_score", "refusal_score"):
            missing += entry[name] is None
            assert entry[name] in (None, by_place(full)[place][name])
    assert case == "all pass" or missing > 2


def test_scores_are_those_of_their_definition(tmp_path: Path) -> None:
    """Ablated at every point of the stream, added at its own layer; one prompt at a time, by the
    model's own logits.
    """
    chat, scores = tiny_chat.chat(), by_place(arditi(tmp_path, complete=True)[0])

    def now(prompts: list[Any]) -> torch.Tensor:
        return torch.cat(
            [tiny_chat.raw(chat, ids).logits[:, -1].log_softmax(-1) for ids in chat.tokens(prompts)]
        )

    base = now(NEGATIVE)
    for (layer, position), entry in scores.items():
        vector = directions().at("resid_pre", layer, position)
        if entry["rejected"] == "both sets have the same mean there":
            assert not vector.any()
            continue
        remove = ablate(normalise(vector))
        with intervene(chat.model, {(site, at): remove for site in SITES for at in range(LAYERS)}):
            refusal, after = float(log_odds(now(POSITIVE), TOKENS).mean()), now(NEGATIVE)
        with intervene(chat.model, {("resid_pre", layer): add(vector)}):
            steering = float(log_odds(now(NEGATIVE), TOKENS).mean())
        kl = torch.nn.functional.kl_div(after, base, reduction="none", log_target=True).sum(-1).mean()
        assert entry["refusal_score"] == pytest.approx(refusal, abs=1e-3)
        assert entry["steering_score"] == pytest.approx(steering, abs=1e-3)
        assert entry["kl_div_score"] == pytest.approx(float(kl), rel=1e-2, abs=1e-5)


def test_an_edit_on_every_writer_scores_as_ablation_at_every_point() -> None:
    """For a random direction too: the equality needs nothing of the model's training."""
    chat = tiny_chat.chat(taught_=False)
    tokens = chat.tokens(POSITIVE + NEGATIVE)
    edit = Edit.from_directions(unit(3), BaseModelRef.of(chat.checkpoint), chat.architecture.writers)
    plain = chat.next_token_log_probs(tokens, 4096)
    with edit.hooks(chat.model):
        edited = chat.next_token_log_probs(tokens, 4096)
    with intervene(chat.model, {(site, at): ablate(unit(3)) for site in SITES for at in range(LAYERS)}):
        ablated = chat.next_token_log_probs(tokens, 4096)
    torch.testing.assert_close(edited, ablated, rtol=1e-3, atol=1e-3)
    assert (edited - plain).abs().max() > 0.05


def test_the_choice_is_the_rules_and_what_is_returned_is_its_direction(tmp_path: Path) -> None:
    scores, vector = arditi(tmp_path, complete=True, layer_fraction=1.0)
    scored = [entry for entry in scores["candidates"] if entry["refusal_score"] is not None]
    wanted = choose(scored, LAYERS, Selection(layer_fraction=1.0))
    place = {key: wanted[key] for key in ("site", "layer", "position", "token")}
    assert scores["chosen"] == {**place, "norm": float(vector.norm())}
    assert torch.equal(vector, directions().at("resid_pre", wanted["layer"], wanted["position"]))
    assert scores["chosen"]["token"] == ("<|assistant|>" if wanted["position"] == -1 else "<|end|>")
    assert scores["note"] is None
    assert scores["baseline"]["positive"] > 0 > scores["baseline"]["negative"]


def test_template_tokens_before_any_attention_are_out_unscored(tmp_path: Path) -> None:
    """The last tokens are the same for every prompt, so at layer 0 both sets have the same mean
    there.
    """
    for (layer, _), entry in by_place(arditi(tmp_path, complete=True)[0]).items():
        assert (entry["rejected"] == "both sets have the same mean there") == (layer == 0)
        assert (entry["refusal_score"] is None) == (layer == 0)


def test_strict_stops_where_the_default_goes_beyond(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="KL"):
        arditi(tmp_path, kl_threshold=1e-6, strict=True)
    scores, _ = arditi(tmp_path, kl_threshold=1e-6)
    assert "KL < 1e-06" in scores["note"]


def test_scores_in_the_journal_are_not_computed_again(tmp_path: Path, monkeypatch) -> None:
    first = arditi(tmp_path)[0]
    monkeypatch.setattr("vectomy.search.arditi.intervene", lambda *_: pytest.fail("steered again"))
    monkeypatch.setattr(
        "vectomy.search.arditi._ArditiScorer._ablate", lambda *_: pytest.fail("ablated again")
    )
    assert arditi(tmp_path)[0] == first
