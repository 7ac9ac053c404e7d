"""summary.json: the results of a run in one object, for scripts, the report and the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectomy.core.config import RunConfig
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import RunFolder, read_json
from vectomy.core.versions import versions
from vectomy.data.splits import Splits
from vectomy.data.trait_file import Trait
from vectomy.edits.edit import Edit
from vectomy.edits.strength import strength_of
from vectomy.models.demo import DEMO_BASE, DEMO_NOTE, is_demo

__all__ = ["build_summary"]

# With fewer test prompts on a side, a note says that the intervals are wide.
FEW = 30
SAFETY = {
    "refusal": (
        "This edit removes refusal. The edited model answers requests that its base declines, harmful ones "
        "included; it has no other safeguard than the ones around it. Do not deploy it where its base's "
        "refusals were relied on."
    )
}
# With a third set, the behaviour is to be removed only in part.
SELECTIVE = (
    "This edit removes refusal of prompts like the positive ones and is meant to leave it on prompts like "
    "those to keep; how far it does is measured here. Beyond that the edited model answers requests that its "
    "base declines, harmful ones included. Do not deploy it where its base's refusals were relied on."
)
# The settings by which a recipe that chooses among whole edits chose.
LEARNED = ("gradient", "selective")
RULES = {
    "gradient": {"target_rate", "kl_budget", "steps", "rank", "per_layer"},
    "selective": {"target_rate", "kl_budget", "steps", "rank", "per_layer"},
    "tpe": {"target_rate", "kl_budget", "trials", "startup_trials"},
}


def build_summary(
    config: RunConfig,
    splits: tuple[Splits, Splits],
    judge: dict[str, Any],
    folder: RunFolder,
    *,
    command: str,
    stages: Sequence[str],
    licence: dict[str, str] | None = None,
    trait: Trait | None = None,
) -> dict[str, Any]:
    """Read what the stages wrote. `edited` is the baked form where there is one, else the hooks.
    `licence` is the base's; `trait` what a recipe `distill` was run for.

    Raises:
        ArtifactError: a stage has not been run.
    """
    seconds = folder.seconds()
    missing = [stage for stage in stages if stage not in seconds]
    if missing:
        raise ArtifactError(
            f"{folder.path} lacks the stages {', '.join(missing)}; run the whole command again"
        )
    forms = read_json(folder.file("evaluation.json"))
    base = forms.pop("base")
    scores = read_json(folder.file("scores.json"))
    baseline = read_json(folder.file("baseline.json"))
    behaviour = config.contrast.behaviour
    edit = Edit.load(folder.file("edit.safetensors"))
    chosen_by = config.selection.model_dump(
        mode="json", include=RULES.get(config.recipe, set()), exclude_none=True
    )
    if trait is not None:
        chosen_by |= {"target_rate": trait.target}
        chosen_by |= {} if trait.kl_budget is None else {"kl_budget": trait.kl_budget}
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
            **baseline["measured_with"],
            "answer_tokens": config.answer_tokens,
            "thinking": config.runtime.thinking,
            **chosen_by,
        },
        "judge": judge,
        "base": base,
        "edited": forms.get("baked", forms["hooks"]),
        "forms": forms,
        "direction": scores["chosen"],
        "strength": scores["chosen"]["strength"] if trait else strength_of(edit),
        "notes": [*baseline.get("notes", ()), *_notes(config, splits, kept, scores.get("note"))],
        "receipt": read_json(folder.file("receipt.json")) if config.bake else None,
        "stages": {stage: seconds[stage] for stage in stages},
        "edit": {"path": "edit.safetensors", "sha256": edit.sha256},
        "checkpoint": "checkpoint" if config.bake else None,
        "safety": trait.safety
        if trait
        else _safety(behaviour, kept is not None and config.recipe in LEARNED),
        **({"trait": {**trait.model_dump(mode="json"), "writers": len(edit.operations)}} if trait else {}),
    }


def _safety(behaviour: str, selective: bool) -> str:
    if behaviour == "refusal" and selective:
        return SELECTIVE
    return SAFETY.get(
        behaviour, f"This edit removes the behaviour '{behaviour}'; what else it changes is measured here."
    )


def _contrast(
    config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, list[Any]] | None
) -> JsonObject:
    sources = {
        name: source
        for name, source in config.contrast.model_dump(mode="json").items()
        if isinstance(source, dict)
    }
    counts = {
        side: {split: len(getattr(prompts, split)) for split in ("fit", "search", "test")}
        for side, prompts in zip(("positive", "negative"), splits, strict=True)
    }
    if kept:
        counts["keep"] = {split: len(kept[split]) for split in ("fit", "search", "test")}
    return {
        **{name: source["prompts"] for name, source in sources.items()},
        "sources": sources,
        "counts": counts,
    }


def _notes(
    config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, list[Any]] | None, chosen: str | None
) -> list[str]:
    """Notes that a reader of the numbers must know."""
    notes = [chosen] if chosen else []
    if config.model == "demo":
        notes.append(DEMO_NOTE)
    fewest = min(*(len(side.test) for side in splits), len(kept["test"]) if kept else FEW)
    if fewest < FEW:
        notes.append(f"only {fewest} test prompts on a side: the intervals are wide")
    return notes


def _base_name(model: str) -> str:
    if is_demo(model):
        return DEMO_BASE
    return Path(model).resolve().name if Path(model).exists() else model
