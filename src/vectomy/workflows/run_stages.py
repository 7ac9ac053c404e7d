"""The stages of a run as functions of its workflow; they meet in the files of the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from vectomy.checkpoint.gguf import gguf_mark
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.core.ranks import current_ranks
from vectomy.core.results import FormMetrics, JudgeRecord, Separation
from vectomy.core.run_folder import Journal, RunFolder, read_json, write_json, write_whole
from vectomy.core.types import SITES, Site
from vectomy.core.versions import versions
from vectomy.data.sources import plain_source
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake, edit_gguf, write_lora
from vectomy.hub import licence_in
from vectomy.hub.provenance import Form, revision_of, write_record
from vectomy.metrics.baseline import measure_baseline
from vectomy.metrics.set_separation import separation
from vectomy.metrics.variants import BaseAnswers, VariantResult, answer_base, evaluate_variant
from vectomy.metrics.verify import with_measurement
from vectomy.models import ChatModel, explain_decoding, with_adapter
from vectomy.models.demo import DEMO_LICENCE, is_demo
from vectomy.report import render_card, render_page
from vectomy.search.activation_stats import ActivationStats
from vectomy.search.collect import collect
from vectomy.search.estimators import Directions, explain_loud, fit_directions
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.recipes import RECIPES
from vectomy.workflows.run_workflow import RunWorkflow
from vectomy.workflows.summary import build_summary
from vectomy.workflows.transfer import evaluate_in_full

__all__ = [
    "STAGES",
    "StageName",
    "get_or_evaluate",
    "run_apply",
    "run_baseline",
    "run_collect",
    "run_directions",
    "run_evaluate",
    "run_report",
    "run_select",
    "write_evaluation",
]

StageName = Literal["baseline", "collect", "directions", "select", "apply", "evaluate", "report"]
STAGES: tuple[StageName, ...] = ("baseline", "collect", "directions", "select", "apply", "evaluate", "report")
# Recipes that compare whole template endings read all tokens behind the instruction.
WHOLE_ENDING = ("arditi", "cosmic")


def run_baseline(work: RunWorkflow) -> None:
    """Measure what the base does."""
    result = measure_baseline(work.chat, *work.splits, work.judge, work.config, work.progress)
    setup = work.describe_setup()
    decoded = explain_decoding(work.checkpoint, str(setup["searched_on"]))
    if decoded is not None:
        result = replace(result, notes=(*result.notes, decoded))
    baseline = {**result.to_json(), **setup}
    current_ranks().on_first(partial(write_json, work.folder.file("baseline.json"), baseline))
    for note in result.notes:
        work.log(f"note: {note}")


def run_collect(work: RunWorkflow) -> None:
    """Collect activation statistics of both sides."""
    # The article looks at all sites of the last token, arditi and cosmic at the stream before each
    # block on all of the template's tokens; the others start from the last token.
    recipe = work.config.recipe
    sites: tuple[Site, ...] = SITES if recipe == "article" else ("resid_pre",)
    ending = len(work.chat.post_instruction()) if recipe in WHOLE_ENDING else 1
    for side in ("positive", "negative"):
        statistics = collect(
            work.chat,
            work.kept_prompts(side, "fit"),
            sites=sites,
            positions=list(range(-ending, 0)),
            covariance=work.config.covariance,
            samples=work.samples,
            batch_tokens=work.runtime.batch_tokens,
            packed=recipe not in (*WHOLE_ENDING, "article"),
            progress=work.progress,
        )
        file = work.folder.file(f"activations-{side}.safetensors")
        current_ranks().on_first(partial(statistics.save, file))


def run_directions(work: RunWorkflow) -> None:
    """Fit a direction per site, layer and position."""
    positive, negative = (
        ActivationStats.load(work.folder.file(f"activations-{side}.safetensors"))
        for side in ("positive", "negative")
    )
    name = work.config.direction_estimator
    if work.config.chooses_estimator and (note := explain_loud(negative, name)):
        name = "masked"
        work.log(f"note: {note}")
    fitted = fit_directions(positive, negative, name)
    fitted.save(work.folder.file("directions.safetensors"))


def run_select(work: RunWorkflow) -> None:
    """Let the recipe choose an Edit."""
    result = RECIPES[work.config.recipe](_recipe_input(work))
    current_ranks().on_first(partial(_write_selection, work, result))


def _write_selection(work: RunWorkflow, result: RecipeResult) -> None:
    c, (scores, edit, others) = work.config, result
    contrast = [plain_source(c.contrast.positive.prompts), plain_source(c.contrast.negative.prompts)]
    about = {
        "behaviour": c.contrast.behaviour,
        "recipe": c.recipe,
        "estimator": Directions.load(work.folder.file("directions.safetensors")).estimator,
        "seed": c.seed,
        "direction": scores["chosen"],
        "contrast": contrast,
        **gguf_mark(c.model),
    }
    replace(edit, about=about).save(work.folder.file("edit.safetensors"))
    shutil.rmtree(work.folder.file("frontier"), ignore_errors=True)
    rows = {row["edit"]: row for row in scores.get("frontier", ())}
    for name, other in others.items():
        work.folder.file("frontier").mkdir(exist_ok=True)
        row = rows[f"frontier/{name}"]
        # A step is of the same search; a trial has a place of its own.
        own = {key: row[key] for key in ("step", "strength") if key in row}
        place = row.get("direction") or {**scores["chosen"], **own}
        replace(other, about={**about, "direction": place}).save(work.folder.file(f"frontier/{name}"))
    write_json(work.folder.file("scores.json"), scores)


def _recipe_input(work: RunWorkflow) -> RecipeInput:
    c = work.config
    baseline = read_json(work.folder.file("baseline.json"))
    sides = ("positive", "negative")
    prompts = {side: {split: work.kept_prompts(side, split) for split in ("fit", "search")} for side in sides}
    answers = {
        side: [ids for ids, keep in zip(rows, baseline[f"{side}_kept"]["search"], strict=True) if keep]
        for side, rows in baseline["answers"].items()
    }
    return RecipeInput(
        config=c,
        chat=work.chat,
        base=work.base,
        writers=work.writers,
        directions=Directions.load(work.folder.file("directions.safetensors")),
        positive=prompts["positive"],
        negative=prompts["negative"],
        preserve=work.keep,
        answers=answers,
        tokens=baseline["tokens"],
        judge=work.judge if c.contrast.behaviour == "refusal" else None,
        journal=work.folder.journal("select"),
        ask=work.ask_user,
        progress=work.progress,
        log=work.log,
    )


def run_apply(work: RunWorkflow) -> None:
    """Write the Edit into the weights: a checkpoint, a PEFT adapter, a GGUF file."""
    out, adapter = work.folder.file("checkpoint"), work.folder.file("adapter")
    # An earlier run in this folder may have baked another edit.
    for folder in (out, adapter):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("receipt.json", "edited.gguf", "receipt-gguf.json"):
        work.folder.file(name).unlink(missing_ok=True)
    edit, progress = work.edit, work.progress
    if work.config.lora:
        write_lora(edit, work.checkpoint, adapter, progress=progress)
        _record(work, adapter, "adapter", edit)
    if not work.config.bake:
        return
    if work.layerwise:
        # Its blocks leave room for the writers, and for the blocks of the receipt.
        work.free()
    baked = bake(edit, work.checkpoint, out, progress=progress)
    trust = work.runtime.trust_remote_code
    device = work.runtime.device
    receipt = with_measurement(baked, out, edit, device=device, trust_remote_code=trust, progress=progress)
    _record(work, out, "checkpoint", edit)
    write_json(work.folder.file("receipt.json"), receipt.to_json())
    if work.writes_gguf:
        receipt = edit_gguf(edit, work.model, work.folder.file("edited.gguf"), progress=progress)
        write_json(work.folder.file("receipt-gguf.json"), receipt.to_json())


def _record(work: RunWorkflow, folder: Path, form: Form, edit: Edit) -> None:
    write_record(
        folder,
        form,
        edit,
        model=work.model,
        source=work.source,
        versions=versions(),
        progress=work.progress,
    )


def run_evaluate(work: RunWorkflow) -> None:
    """Measure the base and every form of the Edit on the test prompts."""
    c, journal = work.config, work.folder.journal("evaluate")
    positive, negative = (side.test for side in work.splits)
    limits = (c.answer_tokens, c.runtime.batch_tokens, work.progress)
    keep = work.keep.test if work.keep else ()
    answers = journal.get_or_compute(
        "answers", lambda: answer_base(work.chat, positive, negative, *limits, keep=keep).answers
    )
    base = answer_base(work.chat, positive, negative, *limits, answers=answers, keep=keep)
    chosen = read_json(work.folder.file("scores.json"))["chosen"]
    place = (chosen["site"], chosen["layer"], chosen["position"])
    direction = work.edit.main_direction

    def evaluate(form: str, open_model: Callable[[], ChatModel] = lambda: work.chat) -> VariantResult:
        return get_or_evaluate(
            journal,
            form,
            lambda: evaluate_variant(open_model(), base, work.judge, *limits, form=form, direction=direction),
        )

    forms = {"base": evaluate("base")}
    with work.edit.hooks(work.chat.model):
        forms["hooks"] = evaluate("hooks")
    apart = separation(work.chat, direction, *place, positive, negative, c.runtime.batch_tokens)
    if c.lora:
        forms["lora"] = evaluate("lora", partial(with_adapter, work.chat, work.folder.file("adapter")))
    work.free()
    if c.bake:
        checkpoint = work.folder.file("checkpoint")
        forms["baked"] = evaluate("baked", partial(work.load, checkpoint, "the baked checkpoint"))
        forms |= evaluate_in_full(work, journal)
    current_ranks().on_first(partial(write_evaluation, work.folder, apart, base, forms))


def write_evaluation(
    folder: RunFolder, apart: Separation, base: BaseAnswers, forms: Mapping[str, VariantResult]
) -> None:
    """Write the files of the evaluate stage."""
    write_json(folder.file("separation.json"), apart.to_json())
    write_jsonl(folder.file("completions.jsonl"), pair_completions(base, forms))
    metrics = {form: result.metrics.to_json() for form, result in forms.items()}
    write_json(folder.file("evaluation.json"), metrics)


def get_or_evaluate(journal: Journal, form: str, evaluate: Callable[[], VariantResult]) -> VariantResult:
    """The journalled result of a form, else that of `evaluate`."""
    value = journal.get_or_compute(form, lambda: evaluate().to_json())
    return VariantResult(FormMetrics.from_json(value["metrics"]), value["answers"])


def pair_completions(base: BaseAnswers, forms: Mapping[str, VariantResult]) -> list[JsonObject]:
    """One row per test prompt, with the answer and verdict of every form that answered."""
    return [
        {
            "set": side,
            "prompt": prompt.text,
            **{form: result.answers[side][row] for form, result in forms.items() if result.answers},
        }
        for side, prompts in base.sides.items()
        for row, prompt in enumerate(prompts)
    ]


def run_report(work: RunWorkflow, stages: Sequence[str] = STAGES[:-1]) -> None:
    """Write summary.json, the page and the card."""
    results = build_summary(
        work.config,
        work.splits,
        JudgeRecord.from_json(work.described_judge),
        work.folder,
        command=work.command,
        stages=stages,
        trait=work.trait,
        planned=None if work.planned is None else work.planned.to_json(),
        revision=revision_of(work.source),
        licence=DEMO_LICENCE if is_demo(work.model) else licence_in(work.source),
    )
    summary = results.to_json()
    file = work.folder.file
    rows = read_jsonl(file("completions.jsonl"))
    page = render_page(summary, read_json(file("scores.json")), read_json(file("separation.json")), rows)
    card = render_card(summary)
    targets = {"report.html": page, "MODEL_CARD.md": card}
    if work.config.bake:
        targets["checkpoint/README.md"] = card
    for name, text in targets.items():
        with write_whole(file(name)) as path:
            path.write_text(text, encoding="utf-8", newline="\n")
    # Scripts open these from any folder; the page and the card name no folder of this machine.
    here = work.folder.path.resolve()
    edit = results.edit.model_copy(update={"path": str(here / str(results.edit.path))})
    checkpoint = results.checkpoint and str(here / results.checkpoint)
    results = results.model_copy(update={"edit": edit, "checkpoint": checkpoint})
    write_json(file("summary.json"), results.to_json())
