"""A control vector does what the Edit does: the same vectors behind the same blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf_files import read
from llama_cpp_loader import read_control_vector
from tiny import LAYERS, WIDTH, Tiny, logits, unit

from vectomy.architecture import architecture_of
from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import ArtifactError, EditError
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export import write_control_vector
from vectomy.edits.operation import Component

TIER = "tiny"


def added(tiny: Tiny, *layers: int, component: Component = "mlp") -> Edit:
    """An Edit that adds a vector of its own behind each of these blocks."""
    operations = [
        Operation(component, layer, unit()[None], torch.zeros(1), addition=3 * unit(layer))
        for layer in layers
    ]
    return Edit(BaseModelRef.of(Checkpoint.open(tiny.folder)), tuple(operations), {"behaviour": "a style"})


@torch.no_grad()
def logits_with(tiny: Tiny, vectors: dict[int, torch.Tensor], scale: float) -> torch.Tensor:
    """What llama.cpp's rule gives: behind block N the vector N is added to the stream."""
    architecture, handles = architecture_of(tiny.model), []
    for layer, vector in vectors.items():

        def add(module: Any, inputs: Any, output: Any, vector: torch.Tensor = vector) -> Any:
            stream = output[0] if isinstance(output, tuple) else output
            return (
                (stream + scale * vector, *output[1:])
                if isinstance(output, tuple)
                else stream + scale * vector
            )

        handles.append(tiny.model.get_submodule(architecture.block(layer)).register_forward_hook(add))
    try:
        return logits(tiny.model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
def test_the_file_is_the_edit_at_every_scale(tiny_of: Any, tmp_path: Path, scale: float) -> None:
    tiny = tiny_of("llama")
    edit = added(tiny, 1, 3)
    write_control_vector(edit, tiny.folder, tmp_path / "v.gguf")
    stored = {
        name: torch.from_numpy(np.array(tensor.data)) for name, tensor in read(tmp_path / "v.gguf").items()
    }
    assert set(stored) == {"direction.1", "direction.3"}
    vectors = {int(name.partition(".")[2]): value for name, value in stored.items()}
    with edit.hooks(tiny.model, strength=scale):
        wanted = logits(tiny.model)
    torch.testing.assert_close(logits_with(tiny, vectors, scale), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted, logits(tiny.model), atol=1e-2)


def test_llama_cpp_reads_the_vectors_at_their_blocks(tiny_of: Any, tmp_path: Path) -> None:
    tiny = tiny_of("qwen3")
    edit = added(tiny, 1, 3)
    write_control_vector(edit * 0.5, tiny.folder, tmp_path / "v.gguf")
    held = read_control_vector(tmp_path / "v.gguf", 4.0)
    assert held.shape == (3, WIDTH)
    expected = torch.stack([unit(1), torch.zeros(WIDTH), unit(3)]) * 3 * 0.5 * 4.0
    torch.testing.assert_close(torch.from_numpy(held), expected)
    fields = gguf.GGUFReader(tmp_path / "v.gguf").fields
    assert fields["general.architecture"].contents() == "controlvector"
    assert fields["controlvector.model_hint"].contents() == "qwen3"
    assert fields["controlvector.layer_count"].contents() == 2
    assert "a style" in fields["general.name"].contents()


def test_what_no_control_vector_is_is_refused_by_name(tiny_of: Any, tmp_path: Path) -> None:
    tiny = tiny_of("llama")
    out = tmp_path / "v.gguf"
    for edit, message in (
        (Edit.ablation(tiny.folder, unit()), "removes a direction, .*--as gguf-lora"),
        (added(tiny, 0), "from block 1 on"),
        (added(tiny, 2, component="attention"), "layer 2 attention: .*MLP outputs"),
        (Edit.ablation(tiny.folder, unit(), 0.0), "changes nothing"),
    ):
        with pytest.raises(EditError, match=message):
            write_control_vector(edit, tiny.folder, out)
        assert not out.exists()
    out.write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="exists"):
        write_control_vector(added(tiny, *range(1, LAYERS)), tiny.folder, out)
    assert out.read_bytes() == b"mine"
