"""What an edit of a zoo model does to its stream, measured: shared by tests/test_families.py and
benchmarks/architectures.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tiny import orthonormal
from torch import Tensor
from transformers import PreTrainedModel
from zoo import zoo_load, zoo_model, zoo_tokens

from vectomy.architecture import Architecture, architecture_of
from vectomy.architecture.probe import ProbedWriter, probe
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.module_io import first_input, first_output
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.edits.export.receipt import Receipt


@torch.no_grad()
def stream_share(model: PreTrainedModel, architecture: Architecture, rows: Tensor) -> tuple[float, Tensor]:
    """The largest |B x| / |x| over tokens, of what enters the first block and leaves each one; and
    the logits.
    """
    shares: list[float] = []

    def look(x: Tensor) -> None:
        shares.append(float(((x.float() @ rows.T).norm(dim=-1) / x.float().norm(dim=-1)).max()))

    with ExitStack() as hooks:
        for layer in range(architecture.n_layers):
            block = model.get_submodule(architecture.block(layer))
            if layer == 0:
                enters = block.register_forward_pre_hook(
                    lambda _m, a, k: look(first_input(a, k)), with_kwargs=True
                )
                hooks.callback(enters.remove)
            hooks.callback(block.register_forward_hook(lambda _m, _a, out: look(first_output(out))).remove)
        logits = model(input_ids=zoo_tokens(), use_cache=False).logits
    assert len(shares) == architecture.n_layers + 1
    return max(shares), logits


def far(one: Tensor, other: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((one - other).abs().max() / other.abs().max())


Row = tuple[int | None, str, int, tuple[str, ...]]


def table_rows(architecture: Architecture) -> set[Row]:
    """(layer, parameter, stream axis, norms passed) of every live parameter that an edit of all
    writers changes.
    """
    rows: set[Row] = set()
    for writer in architecture.writers:
        norms = tuple(passed.module for passed in writer.norms)
        rows.add((writer.layer, writer.weight, writer.slot.axis, norms))
        if writer.bias is not None:
            axis = writer.biases[0].axis % len(architecture.shapes[writer.bias])
            rows.add((writer.layer, writer.bias, axis, norms))
        for passed in writer.norms[-1:]:
            if passed.norm.centred and passed.norm.learned and passed.bias in architecture.shapes:
                rows.add((writer.layer, f"{passed.module}.bias", 0, ()))
    return rows


def probe_rows(found: Iterable[ProbedWriter]) -> set[Row]:
    return {(row.layer, f"{row.module}.{row.parameter}", row.axis, row.norms) for row in found}


@dataclass
class Case:
    """One label of the zoo: its model, the folder that holds it, and what an ablation of one
    direction makes of both.
    """

    label: str
    folder: Path
    out: Path

    @cached_property
    def model(self) -> PreTrainedModel:
        return zoo_model(self.label)

    @cached_property
    def live(self) -> Architecture:
        return architecture_of(self.model)

    @cached_property
    def stored(self) -> Architecture:
        return architecture_in(self.checkpoint)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        self.model.save_pretrained(self.folder)
        return Checkpoint.open(self.folder)

    @cached_property
    def found(self) -> list[ProbedWriter]:
        return probe(self.model)

    @cached_property
    def rows(self) -> Tensor:
        return orthonormal(1, width=self.live.d_model)

    @property
    def bakes_embeddings(self) -> bool:
        """A tied head that cannot be untied leaves the embedding to hooks."""
        return not (self.stored.tied and self.stored.family.ties_more)

    def edit(self, **how: Any) -> Edit:
        return Edit.ablation(self.checkpoint, self.rows, **how)

    @cached_property
    def receipt(self) -> Receipt:
        return bake(self.edit(embeddings=self.bakes_embeddings), self.checkpoint, self.out)

    @cached_property
    def before(self) -> tuple[float, Tensor]:
        return stream_share(self.model, self.live, self.rows)

    @cached_property
    def hooks(self) -> tuple[float, Tensor]:
        with self.edit().hooks(self.model):
            return stream_share(self.model, self.live, self.rows)

    @cached_property
    def baked(self) -> tuple[float, Tensor]:
        assert self.receipt.edited
        loaded = zoo_load(self.label, self.out)
        return stream_share(loaded, architecture_of(loaded), self.rows)

    @cached_property
    def hooks_as_baked(self) -> tuple[float, Tensor]:
        """The same edit as the baked one, where that leaves the embedding alone."""
        if self.bakes_embeddings:
            return self.hooks
        with self.edit(embeddings=False).hooks(self.model):
            return stream_share(self.model, self.live, self.rows)


def quiet() -> AbstractContextManager[None]:
    """No warnings and bars of transformers."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return nullcontext()
