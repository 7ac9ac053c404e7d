"""Plan an edit before any weight is read: the tensors it changes, its memory, disk and time."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vectomy.architecture import Architecture, Writer, architecture_of, check_covered, excluded_tensors
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in
from vectomy.core.byte_count import write_bytes
from vectomy.core.component import OUTSIDE, Component
from vectomy.core.config import LoadIn
from vectomy.core.errors import ModelError
from vectomy.core.json_value import JsonObject
from vectomy.models import list_template_faults
from vectomy.models.live_quantisation import missing_quantiser
from vectomy.models.memory import SHARE, available_memory, count_layerwise_bytes, fits, layerwise_memory
from vectomy.models.model_shape import ModelShape, build_on_meta
from vectomy.models.speed_probe import Speeds
from vectomy.workflows.cost_model import PlannedStage
from vectomy.workflows.edited_size import count_edited_bytes
from vectomy.workflows.planned_work import Workload
from vectomy.workflows.run_plan import PlannedRun, find_device, is_config_alone, measure_shape, plan_run
from vectomy.workflows.stage_memory import BAKING_PROGRAM

__all__ = ["Plan", "PlannedWriter", "plan"]


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


@dataclass(frozen=True, repr=False)
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
    """Of the stages apply (as bake) and collect."""
    fits: bool
    """Whether the model fits into the free memory; if not, collect reads it block by block."""
    stages: tuple[PlannedStage, ...]
    """Of a run, in their order."""
    work: Workload
    """What the stages are counted for."""

    def __repr__(self) -> str:
        fits = "fits into memory" if self.fits else "read block by block"
        return (
            f"<Plan for {self.model_type:.40}: {self.layers} layers of width {self.d_model}, "
            f"{len(self.writers)} writers, {fits}, {write_bytes(self.disk_bytes)} to write>"
        )

    def to_json(self) -> JsonObject:
        """The values that `vectomy plan --json` prints."""
        return {
            **vars(self),
            "writers": [vars(writer) for writer in self.writers],
            "left": [{"name": name, "reason": reason} for name, reason in self.left],
            "stages": [stage.to_json() for stage in self.stages],
            "work": self.work.to_json(),
        }


def plan(
    checkpoint: ModelSource,
    *,
    embeddings: bool = True,
    components: Collection[str] | None = None,
    name: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    load_in: LoadIn | None = None,
    work: Workload | None = None,
    speeds: Speeds | None = None,
    from_run: Path | None = None,
) -> Plan:
    """The writers that an edit would change, and the memory, disk and seconds that a run needs.

    Reads config.json, the headers of the weights and the chat template, no weights. A folder with
    config.json alone is planned for as transformers would build it.

    Args:
        embeddings: edit token and position embeddings too.
        components: edit only these kinds of writers; None: all.
        name: the name in messages; the path unless given.
        device: where the model would run.
        trust_remote_code: run Python code that the folder contains.
        load_in: how a run would quantise the weights in memory (`--load-in`).
        work: the prompts, tokens and steps of the run; the defaults unless given.
        speeds: of this model on this machine; measured for some seconds unless given.
        from_run: a finished run, whose measured stages correct the seconds of the plan.

    Raises:
        CheckpointError, UnsafeCheckpointError: the folder is incomplete.
        ArchitectureError: the model type or one of its tensors is not known.
        ModelError: `load_in` without bitsandbytes.
    """
    if missing := missing_quantiser(load_in):
        raise ModelError(missing)
    target = find_device(device)
    if not isinstance(checkpoint, str | Path) or not is_config_alone(checkpoint):
        opened = Checkpoint.of(checkpoint)
        arch = architecture_in(opened)
        check_covered(arch)
        shape = measure_shape(opened, target, trust_remote_code, load_in)
        files = _Files.of(opened, arch, name)
    else:
        folder = Path(checkpoint).expanduser()
        model = build_on_meta(folder, trust_remote_code)
        arch = architecture_of(model)
        shape = measure_shape(folder, target, trust_remote_code, load_in)
        files = _Files.imagined(shape)
    if load_in is not None:
        files = files.quantise(shape, target)
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
    untied = arch.tied and edits_embedding and arch.head not in files.names
    disk = files.written + (files.head if untied else 0) + files.beside
    work = work or Workload()
    stages = plan_run(PlannedRun(shape, work), device=target, speeds=speeds, from_run=from_run)
    seconds = {stage.name: stage.seconds for stage in stages}
    return Plan(
        model_type=arch.model_type,
        layers=arch.n_layers,
        d_model=arch.d_model,
        writers=tuple(rows),
        left=(*left, *excluded_tensors(arch)),
        notes=(*_notes(arch, untied, edits_embedding), *files.notes),
        parameters=sum(row.parameters for row in rows),
        memory_bytes=files.memory["bake"],
        disk_bytes=disk,
        memory=files.memory,
        seconds={"bake": seconds["apply"], "collect": seconds["collect"]},
        fits=files.fits,
        stages=tuple(stages),
        work=work,
    )


@dataclass(frozen=True)
class _Files:
    """What is known of the files of a model: names of its tensors, bytes of an edited copy's
    weights and of what lies beside them, memory by job.
    """

    names: Collection[str]
    written: int
    head: int
    """Bytes of a head of its own, where it is tied to the embedding."""
    beside: int
    memory: dict[str, int]
    fits: bool
    notes: tuple[str, ...]

    @classmethod
    def of(cls, opened: Checkpoint, arch: Architecture, name: str | None) -> _Files:
        memory = {
            "bake": _bake_memory(opened, arch),
            "collect_whole": opened.bytes + BAKING_PROGRAM,
            "collect_streamed": layerwise_memory(opened, arch, _count_collected()),
        }
        tied, edited = (count_edited_bytes(opened, arch, embeddings=choice) for choice in (False, True))
        notes = (*opened.notes, *list_template_faults(opened.path, name=name))
        head = edited.weights - tied.weights
        return cls(opened.tensors, tied.weights, head, tied.beside, memory, fits(opened), notes)

    @classmethod
    def imagined(cls, shape: ModelShape) -> _Files:
        """Of a configuration alone."""
        memory = {
            "bake": BAKING_PROGRAM + 3 * shape.largest_writer * shape.itemsize,
            "collect_whole": shape.bytes + BAKING_PROGRAM,
            "collect_streamed": count_layerwise_bytes(
                shape.largest_block, shape.sizes.d_model, _count_collected()
            ),
        }
        whole = shape.bytes <= SHARE * available_memory()
        head = shape.head_parameters * shape.itemsize
        return cls(
            (), shape.bytes, head, 0, memory, whole, ("the folder holds no weights: sizes are computed",)
        )

    def quantise(self, shape: ModelShape, device: torch.device) -> _Files:
        """The same files, when the model is read with its weights quantised in memory."""
        memory = {**self.memory, "collect_whole": shape.loaded_bytes + BAKING_PROGRAM}
        room = SHARE * available_memory(device)
        return replace(self, memory=memory, fits=shape.loaded_bytes <= room)


def _count_collected() -> int:
    """Tokens of the fit prompts of both sides, templates included."""
    work = Workload()
    return 2 * work.fit * (work.shared + work.own)


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
    return BAKING_PROGRAM + 3 * largest
