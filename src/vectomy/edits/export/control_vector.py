"""An Edit of added vectors as a control vector for llama.cpp, in the format that repeng writes too.

A file holds tensors `direction.N` [d_model] in float32. llama.cpp (common_control_vector_load,
llama_adapter_cvec::apply_to in src/llama-adapter.cpp) adds the vector N, times a scale, to the
stream behind block N, counted from 0; behind block 0 it adds nothing. So exactly those Edits can
be written that add vectors to MLP outputs of later blocks and remove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vectomy.architecture import Architecture, Writer, check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in
from vectomy.checkpoint.gguf import ARCHITECTURES, check_installed, check_new
from vectomy.core.errors import EditError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import write_whole
from vectomy.core.types import Vector
from vectomy.edits.edit import Edit
from vectomy.edits.export.receipt import Receipt
from vectomy.edits.operation import Operation

__all__ = ["write_control_vector"]


def write_control_vector(
    edit: Edit, checkpoint: ModelSource, out: str | Path, *, progress: Progress = silent
) -> Receipt:
    """Write the file `out`. At scale 1 (`--control-vector FILE`) it is the edit, at scale s the
    edit times s.

    Raises:
        FingerprintError: the folder is not the edit's base.
        EditError: an edit that no control vector is; it names the writer and the remedy.
        ArtifactError: `out` exists.
    """
    check_installed()
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    edit.check_base(opened)
    out = Path(out).expanduser().absolute()
    check_new(out)
    pairs = edit.writers(arch)
    if not pairs:
        raise EditError("the edit changes nothing, so there is no vector to write; use the base model")
    vectors = {_layer_of(writer, operation): operation.addition for writer, operation in pairs}
    with progress("control vector", len(vectors), "vectors") as update, write_whole(out) as beside:
        _write(beside, {layer: value for layer, value in vectors.items() if value is not None}, edit, arch)
        update(len(vectors))
    notes = ["at llama.cpp's --control-vector-scaled FILE:S the edit has S times its strength"]
    return Receipt.of(opened, arch, [writer.weights[0].name for writer, _ in pairs], notes=notes)


def _layer_of(writer: Writer, operation: Operation) -> int:
    """The block behind which the vector is added. Raises EditError where that is not the edit."""
    name = operation.writer_name
    if operation.strengths.any():
        raise EditError(
            f"{name}: the edit removes a direction, by as much as the stream holds of it, and a control "
            "vector adds the same vector everywhere; apply the edit with --as gguf-lora or --as gguf"
        )
    if writer.component != "mlp" or writer.norms or not writer.layer:
        raise EditError(
            f"{name}: llama.cpp adds control vectors behind whole blocks from block 1 on, so only vectors of "
            "MLP outputs there are the same; apply the edit with --as gguf"
        )
    return writer.layer


def _write(path: Path, vectors: Mapping[int, Vector], edit: Edit, arch: Architecture) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    writer.add_string("general.name", f"{edit.about.get('behaviour', 'an edit')}, by vectomy")
    writer.add_string("controlvector.model_hint", ARCHITECTURES.get(arch.model_type, arch.model_type))
    writer.add_uint32("controlvector.layer_count", len(vectors))
    for layer in sorted(vectors):
        writer.add_tensor(f"direction.{layer}", vectors[layer].detach().float().cpu().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
