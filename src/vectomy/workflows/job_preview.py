"""What a command would read and write, found out without changing anything (`--dry-run`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.gguf import is_gguf
from vectomy.checkpoint.quantization import count_written_bytes
from vectomy.core.byte_count import write_bytes
from vectomy.core.choices import ExportFormat
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Log, Progress, duration, ignore, silent
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import RunFolder, hash_of
from vectomy.core.versions import versions
from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import HealConfig
from vectomy.models import is_local
from vectomy.models.demo import is_built, is_demo
from vectomy.models.precision import stored_dtype, working_dtype
from vectomy.models.weights import read_model_config
from vectomy.workflows.distill_workflow import DistillWorkflow
from vectomy.workflows.edited_size import count_edited_bytes
from vectomy.workflows.heal.heal_inputs import open_inputs
from vectomy.workflows.heal.heal_stages import HealWorkflow, list_heal_stages
from vectomy.workflows.named_model import open_base
from vectomy.workflows.preflight import check_ready
from vectomy.workflows.run import list_distill_stages, list_stages, open_workflow
from vectomy.workflows.run_plan import explain_uncounted, find_device, plan_run
from vectomy.workflows.run_workflow import RunWorkflow
from vectomy.workflows.stages import Stage

__all__ = ["JobPreview", "StagePreview", "preview_export", "preview_healing", "preview_run"]


@dataclass(frozen=True)
class StagePreview:
    """A stage of a job, and whether the folder has its results already."""

    name: str
    writes: tuple[str, ...]
    done: bool


@dataclass(frozen=True)
class JobPreview:
    """What a command would read and write."""

    out: Path
    exists: bool
    reads: tuple[str, ...]
    """Each with its size or count."""
    stages: tuple[StagePreview, ...] = ()
    written_bytes: int | None = None
    """Of weights; None where nothing is known before the work."""
    free_bytes: int | None = None
    """Of the disk that `out` is on."""
    notes: tuple[str, ...] = ()
    how: str | None = None
    """Recipe, data type and device of a run, and how long it is estimated to take."""
    beside_bytes: int | None = None
    """Of the files beside the weights."""

    def to_json(self) -> JsonObject:
        return {**asdict(self), "out": str(self.out)}


def preview_run(
    config: RunConfig, out: Path, until: str, progress: Progress = silent, log: Log = ignore
) -> JobPreview:
    """Check the model folder, the prompts and the settings of a run as it would itself.

    A model that would be downloaded or built is not looked at.

    Raises:
        VectomyError: what the run would raise before its first stage.
    """
    folder = RunFolder(out)
    exists = out.exists()
    if not _is_here(config.model):
        return _preview_absent(out, [config.model], _list_sources(config))
    work = open_workflow(config, folder, progress=progress, log=log)
    digest = work.prepare()
    check_ready(work, work.list_checks())
    distills = isinstance(work, DistillWorkflow)
    stages: Sequence[Stage[Any]] = list_distill_stages(work) if distills else list_stages(work)  # type: ignore[arg-type]
    names = [stage.name for stage in stages]
    asked = stages[: names.index(until) + 1]
    done = folder.list_done([(stage.name, stage.needs) for stage in asked], digest)
    bakes = config.bake and "apply" in [stage.name for stage in asked]
    arch = architecture_in(work.checkpoint)
    size = count_edited_bytes(work.checkpoint, arch, embeddings=config.embeddings) if bakes else None
    shape = f"{arch.model_type} of {arch.n_layers} layers and width {arch.d_model}"
    beside = ("the GGUF file itself is edited to edited.gguf, in its own types",) if work.writes_gguf else ()
    return JobPreview(
        out,
        exists,
        (
            f"{config.model}: {write_bytes(work.checkpoint.bytes)} of weights, {shape}",
            *_list_prompts(work),
        ),
        tuple(StagePreview(stage.name, tuple(stage.writes), stage.name in done) for stage in asked),
        None if size is None else size.weights,
        _free_bytes(out),
        beside,
        _describe_work(work, [stage.name for stage in asked if stage.name not in done]),
        None if size is None else size.beside,
    )


def _describe_work(work: RunWorkflow, names: Sequence[str]) -> str:
    """Args:
    names: of the stages that are not done.
    """
    config, device = work.config, find_device(work.runtime.device)
    asked = work.runtime.dtype
    model = read_model_config(work.checkpoint, work.runtime.trust_remote_code)
    whole = work.runtime.load_in is None
    dtype = working_dtype(asked, model, work.checkpoint, device.type, whole) or stored_dtype(
        model, work.checkpoint
    )
    bits = "" if work.runtime.load_in is None else f" in {work.runtime.load_in.replace('bit', ' bit')}"
    read = ", block by block" if work.layerwise else ""
    time = ""
    if work.planned is not None and explain_uncounted(config.recipe) is None:
        spent = [stage.seconds for stage in plan_run(work.planned, device=device) if stage.name in names]
        time = f", about {duration(sum(spent))} (an estimate, as by `vectomy plan`)" if spent else ""
    return (
        f"recipe {config.recipe}, {str(dtype).removeprefix('torch.')}{bits}, on {device}{read}, answers of "
        f"up to {config.answer_tokens} tokens{time}"
    )


def preview_healing(
    model: str,
    out: Path,
    config: HealConfig,
    *,
    edit: Edit | None = None,
    base: str | None = None,
    trained: Path | None = None,
    until: str = "report",
    progress: Progress = silent,
    log: Log = ignore,
) -> JobPreview:
    """Check models, Edit and prompts of a healing as it would itself; arguments as of `heal_model`.

    Models that would be downloaded or built are not looked at.

    Raises:
        VectomyError: what the healing would raise before its first stage.
    """
    models = [name for name in (model, base) if name is not None]
    if not all(map(_is_here, models)):
        return _preview_absent(out, models, [f"preferences: {config.preferences}"])
    trust = config.runtime.trust_remote_code
    inputs = open_inputs(
        model, base, edit, project=config.project, trust_remote_code=trust, progress=progress
    )
    folder = RunFolder(out)
    work = HealWorkflow(
        model=inputs.name,
        runtime=config.runtime,
        folder=folder,
        progress=progress,
        log=log,
        config=config,
        inputs=inputs,
        trained=trained,
        launcher=None,
        processes=None,
    )
    work.check_prompts(work.sets.prompts, config.answer_tokens)
    check_ready(work, work.list_checks())
    stages = list_heal_stages(work)
    asked = stages[: [stage.name for stage in stages].index(until) + 1]
    digest = hash_of([versions()["vectomy"], inputs.identity])
    done = folder.list_done([(stage.name, stage.needs) for stage in asked], digest)
    unedited = Checkpoint.open(inputs.base)
    # What is baked, and what is merged.
    makers = [stage for stage in asked if {"edited", "checkpoint"} & set(stage.writes)]
    edited = () if inputs.edited is None else (f"{inputs.edited}: the edited model",)
    return JobPreview(
        out,
        out.exists(),
        (
            f"{inputs.base}: {write_bytes(unedited.bytes)} of weights",
            *edited,
            f"preferences: {config.preferences}",
        ),
        tuple(StagePreview(stage.name, tuple(stage.writes), stage.name in done) for stage in asked),
        len(makers) * count_written_bytes(unedited),
        _free_bytes(out),
    )


def preview_export(
    edit: Edit,
    name: str,
    model: str,
    out: Path,
    form: ExportFormat,
    *,
    trust_remote_code: bool = False,
) -> JobPreview:
    """What `vectomy apply` would write. A model that would be downloaded or built is not looked at.

    Args:
        name: the Edit as a person named it.
        model: the model that is edited.
        trust_remote_code: run Python code that the model's folder contains.

    Raises:
        EditError: the model is not the Edit's base.
        UsageError, CheckpointError: `model` is no unedited model.
    """
    if not _is_here(model):
        return _preview_absent(out, [model], [f"{name}: {len(edit.operations)} operations on writers"])
    written = None
    if form == "gguf" and is_gguf(model):
        read = written = Path(model).stat().st_size
    else:
        checkpoint = Checkpoint.open(open_base(model, trust_remote_code=trust_remote_code))
        edit.check_base(checkpoint)
        read = checkpoint.bytes
        written = count_written_bytes(checkpoint) if form == "checkpoint" else None
    return JobPreview(
        out,
        out.exists(),
        (f"{model}: {write_bytes(read)} of weights", f"{name}: {len(edit.operations)} operations on writers"),
        written_bytes=written,
        free_bytes=_free_bytes(out),
        notes=() if written else (f"the size of a {form} file is known when it is written",),
    )


def _is_here(model: str) -> bool:
    """Whether a model can be opened without being downloaded or built."""
    return is_built(model) if is_demo(model) else is_local(model)


def _preview_absent(out: Path, models: Sequence[str], other: Sequence[str]) -> JobPreview:
    """Of a job whose models are not on this machine; nothing is fetched to look at them."""
    places = {
        name: "built in the cache when the command runs" if is_demo(name) else "from the Hub, or its cache"
        for name in models
        if is_demo(name) or not is_local(name)
    }
    return JobPreview(
        out,
        out.exists(),
        (*(f"{name}: {places.get(name, 'a folder')}" for name in models), *other),
        free_bytes=_free_bytes(out),
        notes=("sizes and stages are known when the models are on this machine",),
    )


def _list_sources(config: RunConfig) -> tuple[str, ...]:
    contrast = config.contrast
    return tuple(f"{side} prompts: {getattr(contrast, side).prompts}" for side in ("positive", "negative"))


def _list_prompts(work: RunWorkflow) -> tuple[str, ...]:
    return tuple(
        f"{name} prompts: {len(side.fit)} to fit, {len(side.search)} to choose, {len(side.test)} to test on"
        for name, side in work.prompt_sets.items()
    )


def _free_bytes(out: Path) -> int:
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    return shutil.disk_usage(folder).free
