"""What a run of a model takes on this machine: its stages with seconds and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vectomy.architecture import architecture_of
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.config import LoadIn
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import MARK, read_json
from vectomy.data.splits import split_contrast
from vectomy.models import ChatModel, available_memory, check_device, is_local, shared_beginning
from vectomy.models.loading import load_without_weights
from vectomy.models.memory import SHARE
from vectomy.models.model_shape import ModelShape, build_on_meta
from vectomy.models.precision import capabilities, computes
from vectomy.models.speed_probe import Speeds, measure_speeds
from vectomy.workflows.cost_model import PlannedStage, count_run_stages
from vectomy.workflows.planned_work import Place, Workload

__all__ = [
    "PlannedRun",
    "configured_workload",
    "count_workload",
    "estimate_workload",
    "explain_uncounted",
    "find_device",
    "is_config_alone",
    "measure_shape",
    "plan_run",
]

# Recipes whose search the cost model counts.
COUNTED = ("gradient", "tpe")
# Files that hold weights: where one is there, the folder is no configuration alone.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".index.json")


def is_config_alone(folder: str | Path) -> bool:
    """Whether a folder has a model's config.json and nothing that could be weights. A folder of a
    run has a config.json, too: its own.
    """
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file() or (path / MARK).exists():
        return False
    return not any(file.name.endswith(WEIGHTS) for file in path.iterdir())


def find_device(asked: str = "auto") -> torch.device:
    """The first device of this machine that a name means.

    Raises:
        ModelError: it has no such device.
    """
    if asked != "auto":
        check_device(asked)
        return torch.device(asked)
    kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(kind)


def measure_shape(
    source: Path | Checkpoint,
    device: torch.device,
    trust_remote_code: bool = False,
    load_in: LoadIn | None = None,
) -> ModelShape:
    """The shape of a model folder, in the dtype that it is computed in on a device.

    Args:
        load_in: how the weights are quantised in memory.

    Raises:
        ModelError: transformers cannot build the model.
    """
    if isinstance(source, Checkpoint):
        model = build_on_meta(source.path, trust_remote_code)
        architecture = architecture_in(source)
        shape = ModelShape.of(model, source.bytes, architecture)
    else:
        model = build_on_meta(source, trust_remote_code)
        architecture = architecture_of(model)
        shape = ModelShape.of(model, architecture=architecture)
    slow = device.type == "cpu" and model.dtype != torch.float32 and not computes(model.dtype, capabilities())
    shape = shape.in_dtype(4) if slow else shape
    return shape if load_in is None else shape.quantise(load_in, architecture)


def count_workload(config: RunConfig, chat: ChatModel, sides: Sequence[Any]) -> Workload:
    """The work of a configured run, from its own prompts.

    Args:
        chat: the model, which needs no weights.
        sides: `Splits` of the positive and of the negative prompts.
    """
    tokens = [chat.tokens([*side.fit, *side.search, *side.test]) for side in sides]
    rows = [ids for side in tokens for ids in side]
    shared = shared_beginning(rows)
    fit, search, test = (
        max(len(getattr(side, split)) for side in sides) for split in ("fit", "search", "test")
    )
    return replace(
        configured_workload(config),
        fit=fit,
        search=search,
        test=test,
        shared=shared,
        own=round(sum(len(ids) - shared for ids in rows) / len(rows)),
        longest=max(len(ids) - shared for ids in rows),
    )


def estimate_workload(config: RunConfig, folder: Path) -> Workload:
    """The work of a configured run: from its prompts, if they are on this machine (a file, or a
    bundled set), else from their greatest numbers and usual lengths.

    Args:
        folder: of the model; its template and tokenizer are read.

    Raises:
        PromptError: the prompts are too few, or damaged.
        ModelError: the folder has no tokenizer or no template.
    """
    contrast = config.contrast
    sources = [contrast.positive.prompts, contrast.negative.prompts]
    if not all(name.startswith("bundled:") or is_local(name) for name in sources):
        return configured_workload(config)
    chat = load_without_weights(folder, runtime=config.runtime, name=config.model)
    return count_workload(config, chat, split_contrast(contrast, config.seed))


def explain_uncounted(recipe: str) -> str | None:
    """Why the work of a recipe is not counted; None if it is."""
    if recipe in COUNTED:
        return None
    return (
        f"the work of recipe {recipe} is not counted, only that of {' and '.join(COUNTED)}; `vectomy run "
        f"MODEL --recipe {recipe} --dry-run` names its stages"
    )


def configured_workload(config: RunConfig) -> Workload:
    """The work of a configured run whose prompts are not read: as many as it takes at most."""
    batch = config.runtime.batch_tokens
    plain = Workload()
    return replace(
        plain,
        fit=config.contrast.n_fit,
        search=config.contrast.n_search,
        test=config.contrast.n_test,
        answer_tokens=config.answer_tokens,
        steps=config.steps,
        learned=config.recipe in ("gradient", "selective", "distill"),
        screened=config.selection.direction is None,
        tried=config.selection.trials if config.recipe == "tpe" else config.selection.candidates,
        judged=config.contrast.behaviour == "refusal",
        bake=config.bake,
        lora=config.lora,
        passes=plain.passes if batch == "auto" else batch,
    )


@dataclass(frozen=True)
class PlannedRun:
    """A model and the work of a run, as counted. A finished run stores it in its summary, with what
    its stages took; both together correct later plans.
    """

    shape: ModelShape
    work: Workload

    def to_json(self) -> JsonObject:
        return {"shape": self.shape.to_json(), "work": self.work.to_json()}

    def stages(self, speeds: Speeds, device: torch.device) -> list[PlannedStage]:
        card = device.type != "cpu"
        free = available_memory(device) if card else available_memory()
        cards = torch.cuda.device_count() if device.type == "cuda" else 1
        room = SHARE * free * cards
        whole, in_full = (s.loaded_bytes <= room for s in (self.shape, self.shape.in_full))
        place = Place(card, whole, free * cards, in_full)
        return count_run_stages(self.shape, self.work, speeds, place)


def plan_run(
    planned: PlannedRun,
    *,
    device: torch.device,
    speeds: Speeds | None = None,
    from_run: Path | None = None,
) -> list[PlannedStage]:
    """The stages of a run.

    Args:
        speeds: of this model on this machine; measured for some seconds unless given.
        from_run: a finished run, whose measured seconds correct those of each stage.

    Raises:
        ArtifactError: the run is not finished, or of a version that did not measure its stages.
    """
    stages = planned.stages(speeds or measure_speeds(planned.shape, device), device)
    if from_run is None:
        return stages
    factors = _compare_run(from_run, device, speeds)
    return [replace(s, seconds=round(s.seconds * factors.get(s.name, 1.0), 3)) for s in stages]


def _compare_run(folder: Path, device: torch.device, speeds: Speeds | None) -> dict[str, float]:
    """By stage, the seconds that a run took over those that its plan says."""
    summary = read_json(folder / "summary.json")
    planned, costs = (
        (summary.get(key) for key in ("planned", "costs")) if isinstance(summary, dict) else (0, 0)
    )
    if not isinstance(planned, dict) or not isinstance(costs, dict):
        raise ArtifactError(
            f"{folder / 'summary.json'} does not say what its stages took; run the command again with this "
            "version"
        )
    run = PlannedRun(
        ModelShape.from_json(planned.get("shape")), Workload.from_json(planned.get("work") or {})
    )
    said = run.stages(speeds or measure_speeds(run.shape, device), device)
    took = {name: cost.get("seconds") for name, cost in costs.items() if isinstance(cost, dict)}
    return {
        stage.name: seconds / stage.seconds
        for stage in said
        if (seconds := took.get(stage.name)) and stage.seconds
    }
