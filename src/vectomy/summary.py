"""summary.json: what a finished run folder says in one object; scripts, the report and the card read it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vectomy.artifacts import RunFolder, read_json
from vectomy.config import RunConfig
from vectomy.errors import ArtifactError
from vectomy.judges import Judge
from vectomy.prompts import Splits

__all__ = ["build_summary", "plain_source", "versions"]

DEMO_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Below this many test prompts on a side the intervals say little.
FEW = 30
SAFETY = {
    "refusal": (
        "This edit removes refusal. The edited model answers requests that its base declines, harmful ones included; it has no "
        "other safeguard than the ones around it. Do not deploy it where its base's refusals were relied on."
    )
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
) -> dict[str, Any]:
    """Read what the stages wrote. `edited` is the baked form where there is one, else the hooks.

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
    return {
        "format": "vectomy-summary",
        "version": 1,
        "model": config.model,
        "base_model": _base_name(config.model),
        "behaviour": behaviour,
        "recipe": config.recipe,
        "estimator": config.direction_estimator,
        "seed": config.seed,
        "command": command,
        "versions": versions(),
        "contrast": _contrast(config, splits),
        "settings": {**measured_with, "answer_tokens": config.answer_tokens, "thinking": config.thinking},
        "judge": {"name": judge.name, "version": judge.version, "note": judge.note},
        "base": base,
        "edited": forms.get("baked", forms["hooks"]),
        "forms": forms,
        "direction": scores["chosen"],
        "strength": 1.0,
        "notes": _notes(config, splits, scores.get("note")),
        "receipt": read_json(folder.file("receipt.json")) if config.bake else None,
        "stages": {stage: seconds[stage] for stage in stages},
        "edit": {"path": "edit.safetensors", "sha256": edit_sha256},
        "checkpoint": "checkpoint" if config.bake else None,
        "safety": SAFETY.get(
            behaviour, f"This edit removes the behaviour '{behaviour}'; what else it changes is measured here."
        ),
    }


def _contrast(config: RunConfig, splits: tuple[Splits, Splits]) -> dict[str, Any]:
    sources = {name: held for name, held in config.contrast.model_dump(mode="json").items() if isinstance(held, dict)}
    counts = {
        side: {split: len(getattr(held, split)) for split in ("fit", "search", "test")}
        for side, held in zip(("positive", "negative"), splits, strict=True)
    }
    return {**{name: source["prompts"] for name, source in sources.items()}, "sources": sources, "counts": counts}


def _notes(config: RunConfig, splits: tuple[Splits, Splits], chosen: str | None) -> list[str]:
    """What a reader of the numbers must know besides them."""
    notes = [chosen] if chosen else []
    if config.model == "demo":
        notes.append(
            f"the base is {DEMO_BASE} with a small adapter merged that taught it to refuse; by itself it refuses nothing"
        )
    fewest = min(len(side.test) for side in splits)
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
