"""Strengths by row are what each row's own run gives; a condition that does not fire leaves the
base, to the bit.
"""

import pytest
import torch
from tiny import hooked
from zoo import D_MODEL, ZOO, zoo_model, zoo_tokens

from vectomy.architecture import architecture_of
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import ArchitectureError, EditError
from vectomy.core.types import NormMode
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.operation import Operation
from vectomy.edits.steering import Condition

TIER = "zoo"

# Dense, norms behind the writers, positions that all rows share, experts that see tokens in one
# list, parallel blocks.
FAMILIES = ("llama", "gemma2", "gpt2", "qwen3_moe", "phi")
STRENGTHS = [0.0, 0.4, 1.0]
SUMS = {"rtol": 1e-4, "atol": 1e-4}


def edit_of(model, norm: NormMode = "none", added: bool = False) -> Edit:
    architecture = architecture_of(model)
    base = BaseModelRef(
        architecture.model_type, architecture.d_model, architecture.n_layers, architecture.vocab, "tiny"
    )
    direction = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(5))
    edit = Edit.from_directions(direction, base, architecture.writers, 0.9, norm)
    if not added:
        return edit
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(6))
    writers = [w for w in architecture.writers if w.component == "mlp" and not w.norms][:2]
    zero = torch.zeros(1)
    return edit + Edit(
        base,
        tuple(Operation(w.component, w.layer, torch.eye(1, D_MODEL), zero, addition=vector) for w in writers),
    )


@torch.no_grad()
def logits(model, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits


def test_the_families_are_in_the_zoo() -> None:
    assert set(FAMILIES) <= set(ZOO)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_has_its_own_strength(family: str) -> None:
    model, ids = zoo_model(family), zoo_tokens()
    edit, base = edit_of(model, added=True), logits(zoo_model(family), zoo_tokens())
    with edit.hooks(model, strength=STRENGTHS):
        found = logits(model, ids)
    for row, strength in enumerate(STRENGTHS):
        with edit.hooks(model, strength=strength):
            # The whole batch under one strength: experts are then asked for the same tokens side by
            # side.
            alone = logits(model, ids)[row]
        torch.testing.assert_close(found[row], alone, **SUMS)
    assert torch.equal(found[0], base[0])
    assert (found[1] - found[2]).abs().max() > 0.01
    assert (found[1] - base[1]).abs().max() > 0.01
    assert not hooked(model)


@pytest.mark.parametrize("norm", ["column", "row"])
def test_norm_modes_by_row(norm: NormMode) -> None:
    model, ids = zoo_model("llama"), zoo_tokens()
    edit = edit_of(model, norm)
    with edit.hooks(model, strength=torch.tensor(STRENGTHS)):
        found = logits(model, ids)
    for row, strength in enumerate(STRENGTHS):
        with edit.hooks(model, strength=strength):
            torch.testing.assert_close(found[row], logits(model, ids)[row], **SUMS)


@torch.no_grad()
def projections(family: str, when: Condition, ids: torch.Tensor) -> torch.Tensor:
    """An oracle: transformers' own hidden states, resid_pre of each layer; of a model of its own,
    for it leaves hooks behind.
    """
    states = zoo_model(family)(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[
        when.layer
    ][:, -1]
    return states @ (when.direction / when.direction.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_condition_picks_its_rows(family: str) -> None:
    model, ids = zoo_model(family), zoo_tokens()
    edit = edit_of(model, added=True)
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(9))
    when = Condition(direction, layer=2, threshold=0.0)
    low, middle, high = projections(family, when, ids).sort().values.tolist()
    base = logits(model, ids)
    with edit.hooks(model):
        edited = logits(model, ids)
    for threshold, count in ((high + 1, 0), ((middle + high) / 2, 1), ((low + middle) / 2, 2), (low - 1, 3)):
        when = Condition(direction, layer=2, threshold=threshold)
        fires = projections(family, when, ids) > threshold
        assert int(fires.sum()) == count
        with edit.hooks(model, when=when):
            found = logits(model, ids)
        assert torch.equal(found[~fires], base[~fires])
        torch.testing.assert_close(found[fires], edited[fires], **SUMS)
        below = Condition(direction, layer=2, threshold=threshold, above=False)
        with edit.hooks(model, when=below):
            torch.testing.assert_close(logits(model, ids)[~fires], edited[~fires], **SUMS)
    assert (base - edited).abs().max() > 0.01
    assert not hooked(model)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_the_prompt_decided_is_held_while_an_answer_is_generated(family: str) -> None:
    model, ids = zoo_model(family), zoo_tokens()
    edit = edit_of(model)
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(9))
    when = Condition(direction, layer=2, threshold=0.0)
    order = projections(family, when, ids)
    when = Condition(direction, layer=2, threshold=float(order.sort().values[1:].mean()))
    fires = (order > when.threshold).tolist()
    assert sum(fires) == 1

    def generated(**steering: object) -> torch.Tensor:
        with edit.hooks(model, **steering):
            return model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=9,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )

    off, on = generated(strength=0.0), generated()
    found = generated(when=when)
    for row, fired in enumerate(fires):
        assert torch.equal(found[row], (on if fired else off)[row])
    assert not torch.equal(on, off)
    # A new prompt within the same block is decided anew.
    with edit.hooks(model, when=when):
        one, other = logits(model, ids), logits(model, ids.flip(0))
    torch.testing.assert_close(one, other.flip(0), **SUMS)


def test_conditions_and_strengths_by_row_together() -> None:
    model, ids = zoo_model("llama"), zoo_tokens()
    edit = edit_of(model)
    direction = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(9))
    never, always = (Condition(direction, layer=2, threshold=value) for value in (1e6, -1e6))
    with edit.hooks(model, strength=STRENGTHS):
        rows = logits(model, ids)
    with edit.hooks(model, strength=STRENGTHS, when=always):
        torch.testing.assert_close(logits(model, ids), rows, **SUMS)
    with edit.hooks(model, strength=STRENGTHS, when=never):
        assert torch.equal(logits(model, ids), logits(zoo_model("llama"), ids))


def test_what_cannot_be_done_by_row_is_refused_by_name(unchecked) -> None:
    model = zoo_model("llama")
    edit = edit_of(model)
    with (
        edit.hooks(model, strength=[1.0, 0.5]),
        pytest.raises(EditError, match="2 strengths, and the batch has 3 rows"),
    ):
        logits(model, zoo_tokens())
    with pytest.raises(EditError, match="list of finite numbers"):
        edit.hooks(model, strength=[[1.0]]).__enter__()
    with pytest.raises(EditError, match="not zero"):
        Condition(torch.zeros(D_MODEL), 1, 0.0)
    with pytest.raises(ArchitectureError, match="layer"):
        edit.hooks(model, when=Condition(torch.ones(D_MODEL), 99, 0.0)).__enter__()
    experts = zoo_model("qwen3_moe")
    writer = next(w for w in architecture_of(experts).writers if w.component == "experts")
    one = Edit(
        edit_of(experts).base,
        (Operation("experts", writer.layer, torch.eye(1, D_MODEL), torch.ones(1), expert=1),),
    )
    with pytest.raises(EditError, match="all rows of a batch share"):
        one.hooks(experts, strength=STRENGTHS).__enter__()
    state_space = zoo_model("mamba")
    with pytest.raises(EditError, match="all rows of a batch share"):
        edit_of(state_space).hooks(state_space, strength=STRENGTHS).__enter__()
    assert not hooked(model) + hooked(experts) + hooked(state_space)


def test_strengths_by_row_are_the_dial() -> None:
    """The embedding and positions too: rows of a table that all rows of the batch look up."""
    model, ids = zoo_model("gpt2"), zoo_tokens()
    edit = edit_of(model).only(components=OUTSIDE)
    with edit.hooks(model, strength=STRENGTHS):
        found = logits(model, ids)
    for row, strength in enumerate(STRENGTHS):
        with (edit * strength).hooks(model):
            torch.testing.assert_close(found[row], logits(model, ids)[row], **SUMS)
