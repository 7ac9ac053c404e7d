"""summary.json: what a finished run folder says in one object; scripts, the report and the card read it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from vectomy.artifacts import RunFolder, read_json
from vectomy.config import RunConfig
from vectomy.edit import Edit
from vectomy.errors import ArtifactError
from vectomy.judges import Judge, describe
from vectomy.prompts import Splits

__all__ = ["DEMO_BASE", "DEMO_LICENCE", "DEMO_NOTE", "build_summary", "plain_source", "strength_of", "versions"]

DEMO_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_NOTE = (
    f"the base is {DEMO_BASE} with a small adapter merged that taught it to refuse; by itself it refuses nothing"
)
# As its card has it, and that of the package that the demo comes from.
DEMO_LICENCE = {"license": "apache-2.0"}
# Below this many test prompts on a side the intervals say little.
FEW = 30
SAFETY = {
    "refusal": (
        "This edit removes refusal. The edited model answers requests that its base declines, harmful ones included; it has no "
        "other safeguard than the ones around it. Do not deploy it where its base's refusals were relied on."
    )
}
# With prompts to keep the behaviour is meant to go in part.
SELECTIVE = (
    "This edit removes refusal of prompts like the positive ones and is meant to leave it on prompts like those to keep; how far "
    "it does is measured here. Beyond that the edited model answers requests that its base declines, harmful ones included. Do not "
    "deploy it where its base's refusals were relied on."
)
# What recipes that choose a whole edit chose it by.
RULES = {
    "gradient": {"target_rate", "kl_budget", "steps", "rank", "per_layer"},
    "selective": {"target_rate", "kl_budget", "steps", "rank", "per_layer"},
    "tpe": {"target_rate", "kl_budget", "trials", "startup_trials"},
}


def build_summary(
    config: RunConfig,
    splits: tuple[Splits, Splits],
    judge: Judge,
    folder: RunFolder,
    *,
    edit_sha256: str,
    command: str,
    stages: Sequence[str],
    licence: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Read what the stages wrote. `edited` is the baked form where there is one, else the hooks. `licence` is the base's.

    Raises:
        ArtifactError: a stage has not been run.
    """
    seconds = folder.seconds()
    missing = [stage for stage in stages if stage not in seconds]
    if missing:
        raise ArtifactError(f"{folder.path} lacks the stages {', '.join(missing)}; run the whole command again")
    forms = read_json(folder.file("evaluation.json"))
    base = forms.pop("base")
    scores = read_json(folder.file("scores.json"))
    measured_with = read_json(folder.file("baseline.json"))["measured_with"]
    behaviour = config.contrast.behaviour
    chosen_by = config.selection.model_dump(mode="json", include=RULES.get(config.recipe, set()), exclude_none=True)
    kept = read_json(folder.file("prompts.json")).get("keep")
    return {
        "format": "vectomy-summary",
        "version": 1,
        "model": config.model,
        "base_model": _base_name(config.model),
        "license": licence,
        "behaviour": behaviour,
        "recipe": config.recipe,
        "estimator": config.direction_estimator,
        "seed": config.seed,
        "command": command,
        "versions": versions(),
        "contrast": _contrast(config, splits, kept),
        "settings": {
            **measured_with,
            "answer_tokens": config.answer_tokens,
            "thinking": config.thinking,
            **chosen_by,
        },
        "judge": describe(judge),
        "base": base,
        "edited": forms.get("baked", forms["hooks"]),
        "forms": forms,
        "direction": scores["chosen"],
        "strength": strength_of(Edit.load(folder.file("edit.safetensors"))),
        "notes": _notes(config, splits, kept, scores.get("note")),
        "receipt": read_json(folder.file("receipt.json")) if config.bake else None,
        "stages": {stage: seconds[stage] for stage in stages},
        "edit": {"path": "edit.safetensors", "sha256": edit_sha256},
        "checkpoint": "checkpoint" if config.bake else None,
        "safety": _safety(behaviour, kept is not None and config.recipe in ("gradient", "selective")),
    }


def _safety(behaviour: str, selective: bool) -> str:
    if behaviour == "refusal" and selective:
        return SELECTIVE
    return SAFETY.get(
        behaviour, f"This edit removes the behaviour '{behaviour}'; what else it changes is measured here."
    )


def strength_of(edit: Edit) -> float | dict[str, Any] | None:
    """The strength of the whole edit; of one with several their range, in how many writers, and along how many directions
    each, the same in all of them or not."""
    found = [strength for op in edit.operations for strength in op.strengths.tolist()]
    if len(set(found)) < 2:
        return found[0] if found else None
    return {
        "lowest": min(found),
        "highest": max(found),
        "writers": len(edit.operations),
        "directions": max(len(op.basis) for op in edit.operations),
        "shared": all(torch.equal(op.basis, edit.operations[0].basis) for op in edit.operations),
    }


def _contrast(config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, list[Any]] | None) -> dict[str, Any]:
    sources = {name: held for name, held in config.contrast.model_dump(mode="json").items() if isinstance(held, dict)}
    counts = {
        side: {split: len(getattr(held, split)) for split in ("fit", "search", "test")}
        for side, held in zip(("positive", "negative"), splits, strict=True)
    }
    if kept:
        counts["keep"] = {split: len(kept[split]) for split in ("fit", "search", "test")}
    return {**{name: source["prompts"] for name, source in sources.items()}, "sources": sources, "counts": counts}


def _notes(
    config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, list[Any]] | None, chosen: str | None
) -> list[str]:
    """What a reader of the numbers must know besides them."""
    notes = [chosen] if chosen else []
    if config.model == "demo":
        notes.append(DEMO_NOTE)
    fewest = min(*(len(side.test) for side in splits), len(kept["test"]) if kept else FEW)
    if fewest < FEW:
        notes.append(f"only {fewest} test prompts on a side: the intervals are wide")
    return notes


def plain_source(spec: str) -> str:
    """A prompt source without the folders of this machine."""
    return Path(spec).name if os.path.exists(spec.partition("#")[0]) else spec


def _base_name(model: str) -> str:
    if model == "demo":
        return DEMO_BASE
    return Path(model).resolve().name if Path(model).exists() else model


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("vectomy", "torch", "transformers", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
