"""The stages of a run as functions of its workflow; they meet in the files of the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from vectomy.architecture import Writer
from vectomy.checkpoint import architecture_in
from vectomy.checkpoint.gguf import gguf_mark, is_gguf
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.core.results import FormMetrics, JudgeRecord
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import Journal, hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.core.settings_change import RunSettings
from vectomy.core.types import SITES, Site
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt
from vectomy.data.sources import plain_source
from vectomy.data.splits import Splits, split_contrast, split_preserve
from vectomy.data.trait_file import Trait
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.export import bake, edit_gguf, write_lora
from vectomy.hub import licence_in
from vectomy.hub.provenance import Form, write_record
from vectomy.metrics.baseline import measure_baseline
from vectomy.metrics.judges import DEFAULT_JUDGE, JUDGES, Judge, describe
from vectomy.metrics.variants import BaseAnswers, VariantResult, answer_base, evaluate_variant, separation
from vectomy.metrics.verify import with_measurement
from vectomy.models import ChatModel, check_known, is_local, with_adapter
from vectomy.models.demo import DEMO_LICENCE, is_demo
from vectomy.report import render_card, render_page
from vectomy.search.activation_stats import ActivationStats
from vectomy.search.collect import collect
from vectomy.search.estimators import NEEDS_SAMPLES, Directions, fit_directions
from vectomy.search.recipe import Ask, RecipeInput
from vectomy.search.recipes import RECIPES
from vectomy.workflows.run_settings import hash_prompts, list_values, read_earlier_settings
from vectomy.workflows.stages import Workflow
from vectomy.workflows.summary import build_summary

__all__ = [
    "STAGES",
    "RunWorkflow",
    "StageName",
    "digest_given_direction",
    "run_apply",
    "run_baseline",
    "run_collect",
    "run_directions",
    "run_evaluate",
    "run_report",
    "run_select",
]

StageName = Literal["baseline", "collect", "directions", "select", "apply", "evaluate", "report"]
STAGES: tuple[StageName, ...] = ("baseline", "collect", "directions", "select", "apply", "evaluate", "report")
# Recipes that compare whole template endings read all tokens behind the instruction.
WHOLE_ENDING = ("arditi", "cosmic")


@dataclass(kw_only=True)
class RunWorkflow(Workflow):
    """One run: its configuration, prompts and judge."""

    config: RunConfig
    ask_user: Ask | None = None

    @cached_property
    def splits(self) -> tuple[Splits, Splits]:
        """Positive and negative prompts, each split into fit, search and test."""
        return split_contrast(self.config.contrast, self.config.seed, self.log)

    @cached_property
    def keep(self) -> Splits | None:
        """The third set, whose behaviour the edit must preserve (recipe `selective`)."""
        return split_preserve(self.config.contrast, self.config.seed, self.log)

    @property
    def prompt_sets(self) -> dict[str, Splits]:
        positive, negative = self.splits
        return {"positive": positive, "negative": negative} | ({"keep": self.keep} if self.keep else {})

    @cached_property
    def judge(self) -> Judge:
        return JUDGES[DEFAULT_JUDGE]()

    @property
    def samples(self) -> bool:
        """Whether every activation is stored, not only their moments."""
        return self.config.keep_activations or self.config.direction_estimator in NEEDS_SAMPLES

    @property
    def writers(self) -> list[Writer]:
        """The writers that may be edited."""
        embeddings = self.config.embeddings
        return [w for w in self.chat.architecture.writers if embeddings or w.component not in OUTSIDE]

    @property
    def writes_gguf(self) -> bool:
        """Whether a model that is a GGUF file is edited in its own types as well."""
        return self.config.bake and is_gguf(self.model)

    @property
    def trait(self) -> Trait | None:
        """What recipe `distill` is run for."""
        return None

    @property
    def described_judge(self) -> JsonObject:
        """What results say of their judge."""
        return describe(self.judge)

    @property
    def base(self) -> BaseModelRef:
        """What an Edit records of its base."""
        name = self.model if is_demo(self.model) else Path(self.model).name
        return BaseModelRef.of(self.checkpoint, name)

    def measured_with(self) -> dict[str, str]:
        """The dtype and device of the live model, and the date that its template writes, if any."""
        dtype = str(self.chat.model.dtype).removeprefix("torch.")
        date = self.chat.template.date
        dated = {} if date is None else {"template_date": date}
        return {"dtype": dtype, "device": str(self.chat.device), **dated}

    @property
    def edit(self) -> Edit:
        return Edit.load(self.folder.file("edit.safetensors"))

    def kept_prompts(self, side: str, split: str) -> list[Prompt]:
        """The prompts of a split that the base treats as the contrast says."""
        kept = read_json(self.folder.file("baseline.json"))[f"{side}_kept"][split]
        prompts = getattr(self.prompt_sets[side], split)
        return [prompt for prompt, keep in zip(prompts, kept, strict=True) if keep]

    @cached_property
    def settings(self) -> RunSettings:
        weights, others = self.model_digest()
        prompts = {name: side.to_json() for name, side in self.prompt_sets.items()}
        contents = {
            "the weights of the model": weights,
            "the other files of the model": others,
            **hash_prompts(prompts),
        }
        if direction := digest_given_direction(self.config):
            contents["the file of --direction"] = direction
        return RunSettings({"vectomy": versions()["vectomy"], **list_values(self.config)}, contents)

    def stored_settings(self) -> RunSettings | None:
        return super().stored_settings() or read_earlier_settings(self.folder.path)

    def write_inputs(self) -> None:
        prompts = {name: side.to_json() for name, side in self.prompt_sets.items()}
        write_json(self.folder.file("prompts.json"), prompts)
        write_json(self.folder.file("config.json"), self.config.model_dump(mode="json"))

    def prepare(self) -> str:
        """Check the prompts and the model folder before anything heavy.

        Returns:
            The hash that all stages depend on.
        """
        if is_local(self.model) and not is_demo(self.model):
            # A wrong folder is reported before prompts are fetched. A download, or unpacking the
            # demo model, comes after the prompts are known to be good.
            _ = self.checkpoint
        elif not is_demo(self.model):
            check_known(self.model)
        sets = self.prompt_sets
        if self.config.recipe == "selective" and self.keep is None:
            raise PromptError(
                "the recipe selective needs a third set: prompts whose behaviour the edit must preserve; "
                "give it with --keep SRC"
            )
        self.check_architecture()
        prompts = [
            prompt for side in sets.values() for part in (side.fit, side.search, side.test) for prompt in part
        ]
        self.check_prompts(prompts, self.config.answer_tokens)
        c = self.config
        shared = {
            # A stage made by another version may mean something else.
            "vectomy": versions()["vectomy"],
            "model": self.model_digest(),
            # Test prompts are seen by `evaluate` alone.
            "prompts": [
                {split: rows for split, rows in side.to_json().items() if split != "test"}
                for side in sets.values()
            ],
            # Not batch_tokens: lowering it when memory is short must not throw away what is done.
            "settings": [c.recipe, c.seed, c.runtime.device, c.runtime.dtype, c.runtime.thinking],
        }
        return hash_of(shared)

    def describe(self) -> str:
        """What the run will read and write, in a sentence."""
        arch = architecture_in(self.checkpoint)
        counts = [f"{len(side.fit)} + {len(side.search)} + {len(side.test)}" for side in self.splits]
        size = self.checkpoint.bytes / 2**20
        disk = f"; the edited checkpoint takes {size:.0f} MiB of disk" if self.config.bake else ""
        if self.writes_gguf:
            disk += ", and the file itself is edited to edited.gguf, in its own types"
        return (
            f"{arch.model_type} of {arch.n_layers} layers and width {arch.d_model}, {size:.0f} MiB; prompts "
            f"to fit + choose + test on: {counts[0]} positive, {counts[1]} negative, up to "
            f"{self.config.answer_tokens} tokens an answer{disk}"
        )


def digest_given_direction(config: RunConfig) -> str | None:
    """The hash of a given direction file: its name alone does not say whether it changed."""
    given = config.selection.direction
    return sha256_file(Path(given)) if given is not None and Path(given).is_file() else None


def run_baseline(work: RunWorkflow) -> None:
    """Measure what the base does."""
    result = measure_baseline(work.chat, *work.splits, work.judge, work.config, work.progress)
    baseline = {**result.to_json(), "measured_with": work.measured_with()}
    write_json(work.folder.file("baseline.json"), baseline)
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
        statistics.save(work.folder.file(f"activations-{side}.safetensors"))


def run_directions(work: RunWorkflow) -> None:
    """Fit a direction per site, layer and position."""
    positive, negative = (
        ActivationStats.load(work.folder.file(f"activations-{side}.safetensors"))
        for side in ("positive", "negative")
    )
    fitted = fit_directions(positive, negative, work.config.direction_estimator)
    fitted.save(work.folder.file("directions.safetensors"))


def run_select(work: RunWorkflow) -> None:
    """Let the recipe choose an Edit."""
    c = work.config
    scores, edit, others = RECIPES[c.recipe](_recipe_input(work))
    contrast = [plain_source(c.contrast.positive.prompts), plain_source(c.contrast.negative.prompts)]
    about = {
        "behaviour": c.contrast.behaviour,
        "recipe": c.recipe,
        "estimator": c.direction_estimator,
        "seed": c.seed,
        "direction": scores["chosen"],
        "contrast": contrast,
        **gguf_mark(c.model),
    }
    replace(edit, about=about).save(work.folder.file("edit.safetensors"))
    shutil.rmtree(work.folder.file("frontier"), ignore_errors=True)
    for name, other in others.items():
        work.folder.file("frontier").mkdir(exist_ok=True)
        replace(other, about=about).save(work.folder.file(f"frontier/{name}"))
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
    baked = bake(edit, work.checkpoint, out, progress=progress)
    receipt = with_measurement(baked, out, edit, progress=progress)
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
        return _get_or_evaluate(
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
    write_json(work.folder.file("separation.json"), apart.to_json())
    write_jsonl(work.folder.file("completions.jsonl"), pair_completions(base, forms))
    write_json(
        work.folder.file("evaluation.json"),
        {form: result.metrics.to_json() for form, result in forms.items()},
    )


def _get_or_evaluate(journal: Journal, form: str, evaluate: Callable[[], VariantResult]) -> VariantResult:
    value = journal.get_or_compute(form, lambda: evaluate().to_json())
    return VariantResult(FormMetrics.from_json(value["metrics"]), value["answers"])


def pair_completions(base: BaseAnswers, forms: Mapping[str, VariantResult]) -> list[JsonObject]:
    """One row per test prompt, with the answer and verdict of every form."""
    return [
        {
            "set": side,
            "prompt": prompt.text,
            **{form: result.answers[side][row] for form, result in forms.items()},
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
            path.write_text(text, encoding="utf-8")
    # Scripts open these from any folder; the page and the card name no folder of this machine.
    here = work.folder.path.resolve()
    edit = results.edit.model_copy(update={"path": str(here / str(results.edit.path))})
    checkpoint = results.checkpoint and str(here / results.checkpoint)
    results = results.model_copy(update={"edit": edit, "checkpoint": checkpoint})
    write_json(file("summary.json"), results.to_json())
