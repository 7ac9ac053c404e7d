"""summary.json: the results of a run in one object, for scripts, the report and the card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl
from vectomy.core.repo_name import split_revision
from vectomy.core.results import (
    ContrastRecord,
    EditFile,
    FormMetrics,
    JudgeRecord,
    RateName,
    ReceiptRecord,
    RunResults,
    RunTrait,
    SearchResults,
    StrengthRange,
)
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import RunFolder, read_json
from vectomy.core.versions import versions
from vectomy.data.splits import Splits
from vectomy.data.trait_file import Trait
from vectomy.edits.edit import Edit
from vectomy.edits.strength import strength_of
from vectomy.models.demo import DEMO_BASE, DEMO_NOTE, is_demo
from vectomy.report import safety_text
from vectomy.workflows.larger_than_memory import TEACHER_FORCED
from vectomy.workflows.run_outcome import compute_run_outcome
from vectomy.workflows.transfer import explain_transfer

__all__ = ["build_summary"]

# With fewer test prompts on a side, a note says that the intervals are wide.
FEW = 30
LOUD_NOTE = "a coordinate of the stream is far louder than the others: directions are estimated without it"
SPLITS = ("fit", "search", "test")
# The settings by which a recipe that chooses among whole edits chose.
RULES = {
    "gradient": {"target_rate", "kl_budget", "max_degenerate", "steps", "rank", "per_layer"},
    "selective": {"target_rate", "kl_budget", "max_degenerate", "steps", "rank", "per_layer"},
    "tpe": {"target_rate", "kl_budget", "trials", "startup_trials"},
}


def build_summary(
    config: RunConfig,
    splits: tuple[Splits, Splits],
    judge: JudgeRecord,
    folder: RunFolder,
    *,
    command: str,
    stages: Sequence[str],
    revision: str | None = None,
    licence: dict[str, str] | None = None,
    trait: Trait | None = None,
    planned: JsonObject | None = None,
) -> RunResults:
    """Read what the stages wrote. `edited` is the baked form where there is one, else the hooks.

    Args:
        revision: the base's commit on the Hub.
        licence: the base's.
        trait: what a recipe `distill` was run for.
        planned: what a plan counts the stages as.

    Raises:
        ArtifactError: a stage has not been run.
    """
    costs = folder.costs()
    missing = [stage for stage in stages if stage not in costs]
    if missing:
        raise ArtifactError(
            f"{folder.path} lacks the stages {', '.join(missing)}; run the whole command again"
        )
    measured = read_json(folder.file("evaluation.json"))
    forms = {form: FormMetrics.from_json(metrics) for form, metrics in measured.items()}
    base = forms.pop("base")
    scores = SearchResults.from_json(read_json(folder.file("scores.json")))
    baseline = read_json(folder.file("baseline.json"))
    edit = Edit.load(folder.file("edit.safetensors"))
    estimator = str(edit.about.get("estimator", config.direction_estimator))
    kept = _count_kept(folder)
    rate: RateName = "harmless_refusal" if trait and trait.operation == "induce" else "refusal"
    results = RunResults(
        format="vectomy-summary",
        version=1,
        model=config.model,
        base_model=_base_name(config.model),
        revision=revision,
        license=licence,
        behaviour=config.contrast.behaviour,
        recipe=config.recipe,
        estimator=estimator,
        seed=config.seed,
        command=command,
        versions=versions(),
        contrast=_contrast(config, splits, kept),
        settings=_settings(config, baseline["measured_with"], trait),
        judge=judge,
        base=base,
        edited=_at_strength(forms.get("baked", forms["hooks"]), scores),
        forms=forms,
        direction=scores.chosen,
        strength=_strength(edit, scores, trait),
        notes=(
            *baseline.get("notes", ()),
            *([TEACHER_FORCED] if baseline.get("layerwise") else ()),
            *(
                [transfer]
                if (transfer := explain_transfer(config.runtime.load_in, base, forms, rate))
                else ()
            ),
            *([LOUD_NOTE] if estimator != config.direction_estimator else ()),
            *_notes(config, splits, kept, scores.note),
        ),
        receipt=ReceiptRecord.from_json(read_json(folder.file("receipt.json"))) if config.bake else None,
        stages={stage: seconds for stage in stages if (seconds := costs[stage].seconds) is not None},
        costs={stage: costs[stage] for stage in stages},
        searched_on=baseline.get("searched_on") or baseline["measured_with"].get("dtype"),
        edit=EditFile(path="edit.safetensors", sha256=edit.sha256),
        checkpoint="checkpoint" if config.bake else None,
    )
    if trait:
        described = {**trait.model_dump(mode="json"), "writers": len(edit.operations)}
        results = results.model_copy(update={"trait": RunTrait.from_json(described)})
    if planned:
        results = results.model_copy(update={"planned": planned})
    outcome = compute_run_outcome(results, read_jsonl(folder.file("completions.jsonl")))
    results = results.model_copy(update={"outcome": outcome})
    return results.model_copy(update={"safety": safety_text(results)})


def _settings(config: RunConfig, measured_with: JsonObject, trait: Trait | None) -> JsonObject:
    chosen_by: JsonObject = config.selection.model_dump(
        mode="json", include=RULES.get(config.recipe, set()), exclude_none=True
    )
    if trait is not None:
        chosen_by |= {"target_rate": trait.target}
        chosen_by |= {} if trait.kl_budget is None else {"kl_budget": trait.kl_budget}
    return {
        **measured_with,
        "answer_tokens": config.answer_tokens,
        "thinking": config.runtime.thinking,
        **chosen_by,
    }


def _at_strength(metrics: FormMetrics, scores: SearchResults) -> FormMetrics:
    """Metrics of the edited model, with the strength of the dial that the search chose, if it
    turned one.
    """
    chosen = scores.chosen
    if chosen is None or chosen.step is None or chosen.strength is None:
        return metrics
    return metrics.model_copy(update={"strength": chosen.strength})


def _strength(edit: Edit, scores: SearchResults, trait: Trait | None) -> float | StrengthRange | None:
    if trait and scores.chosen:
        return scores.chosen.strength
    strength = strength_of(edit)
    return StrengthRange.from_json(strength) if isinstance(strength, dict) else strength


def _count_kept(folder: RunFolder) -> dict[str, int] | None:
    """The prompts to keep by split; None where there is no preserve set."""
    kept = read_json(folder.file("prompts.json")).get("keep")
    return {split: len(kept[split]) for split in SPLITS} if kept else None


def _contrast(
    config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, int] | None
) -> ContrastRecord:
    sources = {
        name: source
        for name, source in config.contrast.model_dump(mode="json").items()
        if isinstance(source, dict)
    }
    counts = {
        side: {split: len(getattr(prompts, split)) for split in SPLITS}
        for side, prompts in zip(("positive", "negative"), splits, strict=True)
    }
    if kept:
        counts["keep"] = kept
    return ContrastRecord.from_json(
        {
            **{name: source["prompts"] for name, source in sources.items()},
            "sources": sources,
            "counts": counts,
        }
    )


def _notes(
    config: RunConfig, splits: tuple[Splits, Splits], kept: dict[str, int] | None, chosen: str | None
) -> list[str]:
    """Notes that a reader of the numbers must know."""
    notes = [chosen] if chosen else []
    if config.model == "demo":
        notes.append(DEMO_NOTE)
    fewest = min(*(len(side.test) for side in splits), kept["test"] if kept else FEW)
    if fewest < FEW:
        notes.append(f"only {fewest} test prompts on a side: the intervals are wide")
    return notes


def _base_name(model: str) -> str:
    if is_demo(model):
        return DEMO_BASE
    return Path(model).resolve().name if Path(model).exists() else split_revision(model)[0]
