"""Plan an edit before any weight is read: the tensors it changes, its memory, disk and time."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from vectomy.architecture import Architecture, Writer, check_covered, excluded_tensors
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.component import OUTSIDE, Component
from vectomy.core.json_value import JsonObject
from vectomy.models import list_template_faults
from vectomy.models.memory import fits, layerwise_memory

__all__ = ["Plan", "PlannedWriter", "plan"]

# Memory of the interpreter and torch in a bake.
PROGRAM = 350 << 20
# Bytes per second of a plain disk: an assumption that the table states.
DISK = 400e6
# How configurations call the number of experts of a token, and of a block.
TAKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Tokens of a usual contrast: 512 prompts of 64 tokens, templates included.
TOKENS = 512 * 64


@dataclass(frozen=True)
class PlannedWriter:
    """One writer that an edit of the whole model changes."""

    name: str
    """Of the tensor in the checkpoint; with {expert} if there is one tensor for each expert."""
    component: Component
    layer: int | None
    axis: int
    """Of the stream, in that tensor."""
    through_norm: list[str]
    """Names of the norms between the writer and the stream."""
    bias: list[str]
    experts: int | None
    """Number of tensors, if there is one for each expert."""
    parameters: int


@dataclass(frozen=True)
class Plan:
    """What an edit of every writer of a model changes and costs.

    `left` are tensors that no edit touches, with the reason. `memory_bytes` is the peak of a bake,
    `disk_bytes` what it writes.
    """

    model_type: str
    layers: int
    d_model: int
    writers: tuple[PlannedWriter, ...]
    left: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    parameters: int
    memory_bytes: int
    disk_bytes: int
    memory: dict[str, int]
    """Bytes by job: bake, collect_whole (model in memory), collect_streamed (block by block)."""
    seconds: dict[str, float]
    """bake: on a disk of `DISK` bytes a second, which nobody measured. collect: the least time that
    this machine needs for 512 prompts of 64 tokens.
    """
    fits: bool
    """Whether the model fits into the free memory; if not, collect reads it block by block."""

    def to_json(self) -> JsonObject:
        return {
            **vars(self),
            "writers": [vars(writer) for writer in self.writers],
            "left": [{"name": name, "reason": reason} for name, reason in self.left],
        }


def plan(
    checkpoint: str | Path | Checkpoint,
    *,
    embeddings: bool = True,
    components: Collection[str] | None = None,
    name: str | None = None,
) -> Plan:
    """The writers that an edit would change, and the memory, disk and seconds that a run needs.

    Reads config.json, the headers of the weights and the chat template, no weights.

    Args:
        embeddings: edit token and position embeddings too.
        components: edit only these kinds of writers; None: all.
        name: the name in messages; the path unless given.

    Raises:
        CheckpointError, UnsafeCheckpointError: the folder is incomplete.
        ArchitectureError: the model type or one of its tensors is not known.
    """
    opened = Checkpoint.of(checkpoint)
    arch = architecture_in(opened)
    check_covered(arch)
    rows, left = [], []
    for writer in arch.writers:
        wanted = (embeddings or writer.component not in OUTSIDE) and (
            components is None or writer.component in components
        )
        if wanted:
            rows.append(_plan_writer(arch, writer))
        else:
            left += [(name, "not asked for") for name in writer.tensors]
    edits_embedding = any(row.component == "embedding" for row in rows)
    untied = arch.tied and edits_embedding and arch.head not in opened.tensors
    copied = opened.tensors[arch.writer("embedding", None).weights[0].name] if untied else None
    disk = opened.bytes + (copied.end - copied.start if copied else 0)
    disk += sum((opened.path / name).stat().st_size for name in opened.sidecars)
    streamed = layerwise_memory(opened, arch, TOKENS)
    memory = {
        "bake": _bake_memory(opened, arch),
        "collect_whole": opened.bytes + PROGRAM,
        "collect_streamed": streamed,
    }
    return Plan(
        model_type=arch.model_type,
        layers=arch.n_layers,
        d_model=arch.d_model,
        writers=tuple(rows),
        left=(*left, *excluded_tensors(arch)),
        notes=(
            *_notes(arch, untied, edits_embedding),
            *opened.notes,
            *list_template_faults(opened.path, name=name),
        ),
        parameters=sum(row.parameters for row in rows),
        memory_bytes=memory["bake"],
        disk_bytes=disk,
        memory=memory,
        seconds={"bake": 2 * disk / DISK, "collect": _collect_seconds(arch)},
        fits=fits(opened),
    )


def _plan_writer(arch: Architecture, writer: Writer) -> PlannedWriter:
    first = writer.weights[0]
    name = first.name
    if first.expert is not None:
        before, _, behind = name.rpartition(f".{first.expert}.")
        name = f"{before}.{{expert}}.{behind}"
    return PlannedWriter(
        name=name,
        component=writer.component,
        layer=writer.layer,
        axis=first.axis,
        through_norm=[passed.stored for passed in writer.norms],
        bias=[stored.name for stored in writer.biases],
        experts=len(writer.weights) if first.expert is not None else None,
        parameters=sum(math.prod(arch.shapes[tensor]) for tensor in writer.tensors if tensor in arch.shapes),
    )


def _notes(arch: Architecture, untied: bool, edits_embedding: bool) -> list[str]:
    notes = []
    if untied and arch.family.ties_more:
        notes.append(
            "the embedding is tied to the head and cannot be untied in this type: bake without it "
            "(--no-embeddings)"
        )
    elif untied:
        notes.append(
            f"the head is tied to the embedding; a bake unties it ('{arch.head}' keeps the unedited values)"
        )
    elif arch.tied and not edits_embedding:
        notes.append("the head is tied to the embedding; both stay as they are")
    return notes


def _bake_memory(checkpoint: Checkpoint, arch: Architecture) -> int:
    """The program, and three times the largest writer: stored, decoded and new values."""
    written = {
        stored.name for writer in arch.writers if writer.component not in OUTSIDE for stored in writer.weights
    }
    largest = max((e.end - e.start for name, e in checkpoint.tensors.items() if name in written), default=0)
    return PROGRAM + 3 * largest


def _collect_seconds(arch: Architecture) -> float:
    """Two operations per weight and token, at the highest speed at which this processor or card
    multiplies matrices now: no collection is quicker. Attention, norms and waiting come on top.
    """
    return 2 * TOKENS * _count_multiplied(arch) / _measure_speed()


def _count_multiplied(arch: Architecture) -> float:
    """Weights that every token is multiplied with: matrices of the blocks. Of the experts, only the
    share that a token is sent to, or none where the configuration does not say it.
    """
    text = arch.text_config or {}
    taken, of = (next((text[key] for key in keys if key in text), None) for keys in (TAKEN, EXPERTS))
    share = taken / of if isinstance(taken, int) and isinstance(of, int) and of else 0.0
    blocks = f"{arch.stored(arch.family.blocks)}."
    sizes = [
        (name, shape, math.prod(shape))
        for name, shape in arch.shapes.items()
        if name.startswith(blocks) and len(shape) >= 2
    ]
    experts = sum(size for name, shape, size in sizes if ".experts." in name or len(shape) > 2)
    return sum(size for _, _, size in sizes) - (1 - share) * experts


def _measure_speed() -> float:
    """Operations a second of the quickest of several matrix products, in the quicker precision."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    best = math.inf
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, device=device, dtype=dtype)
        began = time.perf_counter()
        while time.perf_counter() - began < 0.05:
            start = time.perf_counter()
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / best
