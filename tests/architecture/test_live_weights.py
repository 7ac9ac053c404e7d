"""A live model whose linear layers are packed: its writers, its matrices and an Edit's hooks are
those of the same model unpacked.
"""

from dataclasses import replace

import pytest
import tiny_chat
import torch
from packed_layers import PackedLinear, pack_layers, unpack_layers
from tiny import unit

from vectomy.architecture import architecture_of
from vectomy.architecture.live_weights import is_packed, measure_matrix
from vectomy.core.errors import EditError
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.live_hooks import edit_writers
from vectomy.edits.operation import Operation

TIER = "chat"
PACKINGS = pytest.mark.parametrize("weight_first", [True, False], ids=["weight", "qweight"])


@PACKINGS
def test_the_writers_are_those_of_the_plain_model(weight_first: bool) -> None:
    chat = tiny_chat.chat()
    packed = pack_layers(chat, weight_first)
    assert sum(is_packed(module) for module in packed.model.modules()) == 7 * chat.architecture.n_layers
    plain, live = architecture_of(chat.model), architecture_of(packed.model)
    assert live.writers == plain.writers
    assert dict(live.shapes) == dict(plain.shapes)


@PACKINGS
def test_the_matrix_is_what_the_layer_multiplies_with(weight_first: bool) -> None:
    linear = torch.nn.Linear(32, 48)
    layer = PackedLinear(linear, weight_first)
    torch.testing.assert_close(measure_matrix(layer, torch.float32), layer.matrix(), rtol=1e-6, atol=1e-6)
    # Rounding to 15 levels is no small thing: the matrix is not the layer's before it was packed.
    assert float((layer.matrix() - linear.weight).detach().norm() / linear.weight.detach().norm()) > 0.02


@PACKINGS
@pytest.mark.parametrize("norm", ["none", "row", "column"])
def test_hooks_compute_what_they_compute_unpacked(weight_first: bool, norm: str) -> None:
    packed = pack_layers(tiny_chat.chat(), weight_first)
    plain = unpack_layers(packed)
    edit = Edit.ablation(packed.checkpoint, unit(5, packed.architecture.d_model), 0.8, norm=norm)
    ids = torch.tensor(packed.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 1)))
    results = []
    for chat in (packed, plain):
        with torch.no_grad(), edit.hooks(chat.model):
            results.append(chat.model(ids).logits)
        with torch.no_grad(), edit.hooks(chat.model, strength=[0.5]):
            results.append(chat.model(ids).logits)
        with torch.no_grad():
            assert not torch.allclose(chat.model(ids).logits, results[-1], atol=1e-3)
    for one, other in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_packed_weight_is_not_changed_in_place() -> None:
    """What only a changed parameter can do is refused with the layer's name."""
    chat = pack_layers(tiny_chat.chat())
    writer = architecture_of(chat.model).writer("mlp", 0)
    basis = unit(1, chat.architecture.d_model)[None]
    operation = Operation("mlp", 0, basis, torch.ones(1), "none")
    direct = replace(writer, slot=replace(writer.slot, functional=True))
    with (
        pytest.raises(EditError, match=r"layers\.0\.mlp\.down_proj' are packed"),
        edit_writers(chat.model, [(direct, operation)]),
    ):
        pass
    assert BaseModelRef.of(chat.checkpoint).same_shape(architecture_of(chat.model))
