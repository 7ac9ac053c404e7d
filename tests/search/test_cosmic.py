"""Recipe cosmic: its scores by their definition, a planted direction found, and a choice that
leaves out no better one.
"""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from tiny import LAYERS, unit
from tiny_chat import DAY, NIGHT
from tiny_directions import NEGATIVE, POSITIVE, directions, recipe_input

from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.types import SITES
from vectomy.edits.edit import Edit
from vectomy.hooks.interventions import ablate, add, intervene
from vectomy.search.cosmic import least_alike, select_cosmic
from vectomy.search.estimators import Directions
from vectomy.workflows.run import run

TIER = "chat"

Row = dict[str, Any]


def cosmic(tmp_path: Path, found: Directions | None = None, **limits: Any) -> tuple[Row, torch.Tensor]:
    task = recipe_input(tmp_path, "cosmic", vectors=found, **limits)
    scores = select_cosmic(task).scores
    return scores, task.directions.at("resid_pre", scores["chosen"]["layer"], scores["chosen"]["position"])


def by_place(scores: Row) -> dict[tuple[int, int], Row]:
    return {(row["layer"], row["position"]): row for row in scores["candidates"]}


def stream(prompts: list[Any]) -> torch.Tensor:
    """Behind each block at the two last tokens, mean over prompts one by one, from transformers'
    own hidden states.
    """
    chat = tiny_chat.chat()
    kept: list[list[torch.Tensor]] = []
    for ids in chat.tokens(prompts):
        here: list[torch.Tensor] = []
        hooks = [
            chat.model.model.layers[at].register_forward_hook(
                lambda _m, _a, out, here=here: here.append((out if torch.is_tensor(out) else out[0])[0, -2:])
            )
            for at in range(LAYERS)
        ]
        tiny_chat.raw(chat, ids)
        for hook in hooks:
            hook.remove()
        kept.append(here)
    return torch.stack([torch.stack(here) for here in kept]).double().mean(0)


@cache
def bases() -> tuple[torch.Tensor, torch.Tensor]:
    return stream(POSITIVE), stream(NEGATIVE)


@pytest.mark.unit
def test_the_compared_layers_are_the_tenth_of_least_cosine() -> None:
    """Twenty layers, so two: those turned by 90 and by 60 degrees, not the longest difference."""
    one = torch.zeros(20, 2, 4, dtype=torch.float64)
    one[:, :, 0] = 1.0
    other = one.clone()
    other[3, :] = 9.0 * one[3, :]
    other[17, :] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    other[5, :] = torch.tensor([0.5, 0.75**0.5, 0.0, 0.0])
    other[9, :] = torch.tensor([0.8, 0.6, 0.0, 0.0])
    assert least_alike(one, other) == [5, 17]
    assert least_alike(one[:9], other[:9]) == [5]


def test_scores_are_those_of_their_definition(tmp_path: Path) -> None:
    """One prompt at a time, ablated at every point of the stream, added at the direction's own
    layer.
    """
    chat, (scores, _) = tiny_chat.chat(), cosmic(tmp_path, complete=True, layer_fraction=1.0)
    positive, negative = bases()
    layers = scores["compared_layers"]
    assert layers == least_alike(positive, negative)

    def cos(one: torch.Tensor, other: torch.Tensor) -> float:
        return float(
            torch.nn.functional.cosine_similarity(one[layers].flatten(), other[layers].flatten(), dim=0)
        )

    seen = 0
    for (layer, position), row in by_place(scores).items():
        vector = directions().at("resid_pre", layer, position)
        if row["rejected"] == "both sets have the same mean there":
            assert not vector.any()
            continue
        with intervene(chat.model, {("resid_pre", layer): add(vector)}):
            induced = cos(stream(NEGATIVE), positive)
        remove = ablate(normalise(vector))
        with intervene(chat.model, {(site, at): remove for site in SITES for at in range(LAYERS)}):
            removed = cos(stream(POSITIVE), negative)
        assert row["induced"] == pytest.approx(induced, abs=1e-4)
        assert row["removed"] == pytest.approx(removed, abs=1e-4)
        assert row["score"] == row["induced"] + row["removed"]
        seen += 1
    assert seen == 2 * (LAYERS - 1)


def test_a_planted_direction_is_chosen_among_random_ones(tmp_path: Path) -> None:
    """All but one place hold random vectors of the true one's length; the true one is what the fit
    prompts gave there.
    """
    truth = directions()
    vectors = torch.empty_like(truth.vectors)
    for layer in range(LAYERS):
        for at, position in enumerate(truth.positions):
            length = truth.at("resid_pre", 2, -1).norm()
            vectors[0, layer, at] = length * unit(10 * layer - position)
    vectors[0, 2, truth.positions.index(-1)] = truth.at("resid_pre", 2, -1)
    planted = Directions("planted", truth.sites, truth.positions, vectors)
    scores, vector = cosmic(tmp_path, planted, kl_threshold=99.0)
    assert (scores["chosen"]["layer"], scores["chosen"]["position"]) == (2, -1)
    assert torch.equal(vector, truth.at("resid_pre", 2, -1))
    ranked = sorted(
        (row for row in scores["candidates"] if row["score"] is not None), key=lambda row: -row["score"]
    )
    assert ranked[0]["score"] > ranked[1]["score"] + 0.1


LIMITS: dict[str, Row] = {
    "plain": {},
    "tight": {"kl_threshold": 0.02},
    "deep": {"layer_fraction": 1.0},
    "none": {"kl_threshold": 1e-9},
}


@pytest.mark.parametrize("case", LIMITS)
def test_kl_left_out_changes_no_choice(tmp_path: Path, case: str) -> None:
    """The best score among all that pass the filter, whether KL is measured for all or until one
    passes.
    """
    limits = LIMITS[case]
    lazy, vector = cosmic(tmp_path / "lazy", **limits)
    full, other = cosmic(tmp_path / "full", complete=True, **limits)
    assert (lazy["chosen"], lazy["note"]) == (full["chosen"], full["note"])
    assert torch.equal(vector, other)
    scored = [row for row in full["candidates"] if row["score"] is not None]
    passing = [row for row in scored if row["rejected"] is None]
    best = max(passing or scored, key=lambda row: row["score"])
    assert (best["layer"], best["position"]) == (lazy["chosen"]["layer"], lazy["chosen"]["position"])
    assert all(row["kl_div_score"] < limits.get("kl_threshold", 0.1) for row in passing)
    assert (lazy["note"] is None) == bool(passing)
    for place, row in by_place(lazy).items():
        assert row["kl_div_score"] in (None, by_place(full)[place]["kl_div_score"])


def test_layers_too_deep_and_equal_means_are_out_unscored(tmp_path: Path) -> None:
    for (layer, _), row in by_place(cosmic(tmp_path, layer_fraction=0.5)[0]).items():
        assert (row["score"] is None) == (layer == 0 or layer >= 2)
        assert (row["rejected"] == f"layer {layer} is not below 2, which is int(0.5 * 4)") == (layer >= 2)


def test_strict_stops_where_no_direction_passes(tmp_path: Path) -> None:
    with pytest.raises(
        SelectionError, match=r"none of 4 directions passes the filter KL < 1e-09; loosen --kl-threshold"
    ):
        cosmic(tmp_path, kl_threshold=1e-9, strict=True)
    assert "KL < 1e-09" in cosmic(tmp_path, kl_threshold=1e-9)[0]["note"]


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    found = directions()
    nothing = Directions("none", found.sites, found.positions, torch.zeros_like(found.vectors))
    with pytest.raises(SelectionError, match="none of 8 directions can be scored"):
        cosmic(tmp_path, nothing)


def test_scores_in_the_journal_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cosmic(tmp_path)[0]
    monkeypatch.setattr("vectomy.search.cosmic.intervene", lambda *_: pytest.fail("steered again"))
    monkeypatch.setattr(
        "vectomy.search.cosmic._CosmicScorer._ablate", lambda *_: pytest.fail("ablated again")
    )
    assert cosmic(tmp_path)[0] == first


def test_a_run_removes_the_taught_behaviour_without_a_word_of_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"recipe": "cosmic", "device": "cpu", "answer_tokens": 8, "layer_fraction": 1.0}
    summary = run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **options)
    assert summary["base"]["refusal_rate"] == 1.0
    assert summary["edited"]["refusal_rate"] == 0.0
    assert summary["edited"]["kl_first_token"] < 0.1
    edit = Edit.load(out / "edit.safetensors")
    assert edit.about["recipe"] == "cosmic"
    assert {"site", "layer", "position", "token", "norm"} == set(edit.about["direction"])
    assert (out / "report.html").stat().st_size > 1000
    assert not list((out / "stages").glob("*.journal"))
    assert len(NIGHT) == len(DAY)
