"""Models that do not fit the card: with weights in memory or on disk, a run gives the same Edit."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from offloaded import Place, offloading
from tiny import orthonormal

from vectomy.core.placed_module import read_parameter
from vectomy.edits.edit import Edit
from vectomy.models import load_model
from vectomy.search.gradient.pass_memory import PassMemory
from vectomy.workflows.run import run

TIER = "chat"
pytestmark = pytest.mark.usefixtures("unchecked")


def learn(recipe: str, **options: Any) -> Edit:
    out = tiny_chat.scratch() / "run"
    sizes = {"n_fit": 24, "n_search": 8, "n_test": 8, "answer_tokens": 8, "layer_fraction": 1.0}
    settings = {**tiny_chat.sources(), **sizes, "device": "cpu", "dtype": "float32", "recipe": recipe}
    run(str(tiny_chat.folder()), out, **{**settings, **options})
    return Edit.load(out / "edit.safetensors")


@cache
def learned_whole(recipe: str) -> Edit:
    return learn(recipe, until="select", steps=8)


@pytest.mark.parametrize(
    ("recipe", "place", "options"),
    [
        ("gradient", "memory", {"until": "select"}),
        ("gradient", "disk", {}),
        ("arditi", "memory", {}),
        ("arditi", "disk", {"until": "select"}),
    ],
)
def test_an_offloaded_model_gives_the_same_edit(recipe: str, place: Place, options: dict[str, Any]) -> None:
    whole = learned_whole(recipe)
    with offloading(place) as models:
        edit = learn(recipe, steps=8, **options)
    assert models
    for mine, its in zip(edit.operations, whole.operations, strict=True):
        torch.testing.assert_close(mine.basis, its.basis, rtol=0, atol=1e-6)
        torch.testing.assert_close(mine.strengths, its.strengths, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "row", "column"])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_hooks_on_an_offloaded_model_are_those_on_a_whole_one(norm: Any, place: Place) -> None:
    chat = tiny_chat.chat()
    ids = torch.tensor(chat.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 1)))
    edit = Edit.ablation(tiny_chat.folder(), orthonormal(2), norm=norm)
    with edit.hooks(chat.model), torch.no_grad():
        wanted = chat.model(ids).logits
    with offloading(place):
        there = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    assert there.offloaded
    assert there.device == torch.device("cpu")
    with edit.hooks(there.model), torch.no_grad():
        torch.testing.assert_close(there.model(ids).logits, wanted)


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_weights_that_an_edit_changes_in_place_are_changed_where_they_are(
    place: Place, zoo_of: Callable[[str], Path]
) -> None:
    """Fused experts take their weights themselves: no hook on an output reaches one of them."""
    folder = zoo_of("mixtral")
    ids = torch.arange(3, 12)[None]
    whole = load_model(folder, device="cpu", dtype="float32", tokenizer=False)
    edit = Edit.ablation(folder, torch.eye(1, whole.architecture.d_model)[0], norm="column")
    assert any(
        writer.slot.functional or writer.component == "experts"
        for writer, _ in edit.writers(whole.architecture)
    )
    with edit.hooks(whole.model), torch.no_grad():
        wanted = whole.model(ids).logits
    with torch.no_grad():
        base = whole.model(ids).logits
    with offloading(place):
        there = load_model(folder, device="cpu", dtype="float32", tokenizer=False)
    with edit.hooks(there.model), torch.no_grad():
        torch.testing.assert_close(there.model(ids).logits, wanted, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(there.model(ids).logits, base, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(base, wanted, atol=1e-2)


def test_the_backward_pass_of_an_offloaded_model_recomputes_its_blocks() -> None:
    """Or the weights of all blocks would stay on the card until it ends."""
    with offloading("memory"):
        there = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    assert PassMemory(there).recompute
    assert not PassMemory(tiny_chat.chat()).recompute


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_an_offloaded_parameter_is_read_from_where_it_is(place: Place) -> None:
    with offloading(place):
        there = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    for name, value in tiny_chat.chat().model.named_parameters():
        assert torch.equal(read_parameter(there.model, name), value), name
