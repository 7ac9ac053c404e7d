"""The stages in their order, meeting in the run folder. The only module that knows two stages.

`run` does all of it; with `until` it stops behind a stage. A stage whose inputs have not changed is
not run again.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from vectomy.architecture import Writer
from vectomy.checkpoint import Checkpoint, architecture_in, fingerprint, sidecar_digest
from vectomy.checkpoint.gguf import gguf_mark, is_gguf
from vectomy.core.config import RunConfig, make_config
from vectomy.core.errors import ArtifactError, PromptError
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import RunFolder, hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.core.types import OUTSIDE, SITES, Site
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt, Splits, split_contrast, split_kept
from vectomy.data.sources import plain_source
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.export import bake, edit_gguf, write_lora
from vectomy.hub import licence_in
from vectomy.hub.provenance import Form, write_record
from vectomy.metrics.baseline import measure_baseline
from vectomy.metrics.judges import DEFAULT_JUDGE, JUDGES, Judge
from vectomy.metrics.variants import BaseAnswers, VariantResult, answer_base, evaluate_variant, separation
from vectomy.metrics.verify import with_measurement
from vectomy.models import (
    ChatModel,
    check_known,
    fetch,
    is_local,
    load_model,
    probe_architecture,
    with_adapter,
)
from vectomy.models.demo import DEMO_LICENCE, demo_folder
from vectomy.report import render_card, render_page
from vectomy.search.activation_stats import ActivationStats
from vectomy.search.article import Ask
from vectomy.search.collect import collect
from vectomy.search.estimators import NEEDS_SAMPLES, Directions, fit_directions
from vectomy.search.recipe import RecipeInput
from vectomy.search.recipes import RECIPES, SEARCHES
from vectomy.workflows.summary import build_summary

__all__ = ["STAGES", "StageName", "run"]

StageName = Literal["baseline", "collect", "directions", "select", "apply", "evaluate", "report"]
STAGES: tuple[StageName, ...] = ("baseline", "collect", "directions", "select", "apply", "evaluate", "report")


def run(
    model: str | RunConfig,
    out: str | Path,
    *,
    until: StageName = "report",
    ask: Ask | None = None,
    command: str = "",
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Run the stages into the folder `out` and return the summary (`{}` when stopped before the
    report).

    Args:
        model: a folder, a Hub id or `demo`; or a whole configuration.
        ask: shows candidates to a person and returns the picked rank (recipe `article`); None is
            headless.
        command: the command line, for the report.
        tell: takes lines for a person: what the run will take, which stages need not run again.
        options: short names of configuration keys (config.FLAT): positive, negative, recipe, seed,
            ...

    Raises:
        VectomyError: see errors.py; what was finished stays and is not done again.
    """
    config = model if isinstance(model, RunConfig) else make_config(model, options)
    source = Path(config.model).expanduser().resolve()
    if (
        config.model != "demo"
        and source.is_dir()
        and source in (Path(out).resolve(), *Path(out).resolve().parents)
    ):
        raise ArtifactError(
            f"the run folder {out} is the model folder or lies in it; the input is never touched, choose another --out"
        )
    with RunFolder(Path(out)) as folder:
        work = _Run(config, folder, ask, command, progress)
        digest = work.prepare()
        tell(work.plan())
        for stage in STAGES:
            digest = work.do(stage, digest)
            if stage in folder.reused:
                tell(f"{stage}: done before with the same inputs, not run again")
            if stage == until:
                break
        work.free()
        return dict(read_json(folder.file("summary.json"))) if until == "report" else {}


@dataclass
class _Run:
    """One run: what the stages share, loaded when first needed."""

    config: RunConfig
    folder: RunFolder
    ask: Ask | None
    command: str
    progress: Progress

    # What stages share

    @cached_property
    def source(self) -> Path:
        return demo_folder(self.progress) if self.config.model == "demo" else fetch(self.config.model)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.source)

    @cached_property
    def splits(self) -> tuple[Splits, Splits]:
        return split_contrast(self.config.contrast, self.config.seed)

    @cached_property
    def keep(self) -> Splits | None:
        return split_kept(self.config.contrast, self.config.seed)

    @cached_property
    def judge(self) -> Judge:
        return JUDGES[DEFAULT_JUDGE]()

    @property
    def chat(self) -> ChatModel:
        if self._chat is None:
            self._chat = self._load(self.source, self.config.model)
        return self._chat

    _chat: ChatModel | None = None

    def _load(self, path: Path, name: str) -> ChatModel:
        c = self.config
        return load_model(
            path,
            runtime=c.runtime,
            name=name,
        )

    def free(self) -> None:
        self._chat = None
        gc.collect()

    def prepare(self) -> str:
        """Check the prompts and the model folder before anything heavy; give the hash that all
        stages depend on.
        """
        if self.config.model != "demo" and is_local(self.config.model):
            # A wrong folder is said before prompts are fetched; a download or the demo comes after
            # they are known good.
            _ = self.checkpoint
        elif self.config.model != "demo":
            check_known(self.config.model)
        positive, negative = self.splits
        if self.config.recipe == "selective" and self.keep is None:
            raise PromptError(
                "the recipe selective needs a third set, of prompts that must go on to show the behaviour: give it with --keep SRC"
            )
        probe_architecture(
            self.source, trust_remote_code=self.config.runtime.trust_remote_code, progress=self.progress
        )
        architecture_in(self.checkpoint).check_covered()
        sides = {"positive": positive, "negative": negative} | ({"keep": self.keep} if self.keep else {})
        write_json(self.folder.file("prompts.json"), {name: side.to_json() for name, side in sides.items()})
        write_json(self.folder.file("config.json"), self.config.model_dump(mode="json"))
        c = self.config
        shared = {
            # A stage made by another version may mean something else.
            "vectomy": versions()["vectomy"],
            "model": [fingerprint(self.checkpoint), sidecar_digest(self.checkpoint)],
            # Test prompts are seen by `evaluate` alone.
            "prompts": [
                {k: v for k, v in side.to_json().items() if k != "test"}
                for side in (positive, negative, self.keep)
                if side is not None
            ],
            # Not batch_tokens: lowering it when memory is short must not throw away what is done.
            "settings": [c.recipe, c.seed, c.runtime.device, c.runtime.dtype, c.runtime.thinking],
        }
        return hash_of(shared)

    def plan(self) -> str:
        """What the run will read and write, in a sentence."""
        arch = architecture_in(self.checkpoint)
        counts = [f"{len(side.fit)} + {len(side.search)} + {len(side.test)}" for side in self.splits]
        size = self.checkpoint.bytes / 2**20
        disk = f"; the edited checkpoint takes {size:.0f} MiB of disk" if self.config.bake else ""
        if disk and is_gguf(self.config.model):
            disk += ", and the file itself is edited to edited.gguf, in its own types"
        return (
            f"{arch.model_type} of {arch.n_layers} layers and width {arch.d_model}, {size:.0f} MiB; prompts to fit + choose + test on: "
            f"{counts[0]} positive, {counts[1]} negative, up to {self.config.answer_tokens} tokens an answer{disk}"
        )

    def do(self, stage: StageName, before: str) -> str:
        return self.folder.stage(stage, before, *self._needs()[stage], getattr(self, f"_{stage}"))

    def _needs(self) -> dict[StageName, tuple[dict[str, Any], list[str]]]:
        """By stage: what it depends on besides the stages before, and what it writes."""
        c = self.config
        selection = c.selection.model_dump(mode="json")
        return {
            "baseline": (
                {
                    "answer_tokens": c.answer_tokens,
                    "force": c.force,
                    "behaviour": c.contrast.behaviour,
                    "judge": [self.judge.name, self.judge.version],
                    "selection": {key: selection.pop(key) for key in ("behaviour_tokens", "filter_prompts")},
                },
                ["baseline.json"],
            ),
            "collect": (
                {"covariance": c.covariance, "samples": self._samples},
                ["activations-positive.safetensors", "activations-negative.safetensors"],
            ),
            "directions": ({"estimator": c.direction_estimator}, ["directions.safetensors"]),
            "select": (
                {"selection": selection, "embeddings": c.embeddings, "direction": self._given_direction()},
                ["scores.json", "edit.safetensors", *(["frontier"] if c.recipe in SEARCHES else [])],
            ),
            "apply": (
                {"bake": c.bake, "lora": c.lora},
                [
                    *(["checkpoint", "receipt.json"] if c.bake else []),
                    *(["edited.gguf", "receipt-gguf.json"] if c.bake and is_gguf(c.model) else []),
                    *(["adapter"] if c.lora else []),
                ],
            ),
            "evaluate": (
                {
                    "prompts": [
                        side.to_json()["test"] for side in (*self.splits, self.keep) if side is not None
                    ]
                },
                ["evaluation.json", "completions.jsonl", "separation.json"],
            ),
            "report": (
                {"command": self.command, "config": c.model_dump(mode="json")},
                [
                    "summary.json",
                    "report.html",
                    "MODEL_CARD.md",
                    *(["checkpoint/README.md"] if c.bake else []),
                ],
            ),
        }

    def _given_direction(self) -> str | None:
        """What the file of a given direction holds: its name alone does not say whether it has
        changed.
        """
        given = self.config.selection.direction
        return sha256_file(Path(given)) if given is not None and Path(given).is_file() else None

    # The stages

    def _baseline(self) -> None:
        found = measure_baseline(self.chat, *self.splits, self.judge, self.config, self.progress)
        measured_with = {
            "dtype": str(self.chat.model.dtype).removeprefix("torch."),
            "device": str(self.chat.device),
        }
        write_json(self.folder.file("baseline.json"), {**found.to_json(), "measured_with": measured_with})

    @property
    def _samples(self) -> bool:
        return self.config.keep_activations or self.config.direction_estimator in NEEDS_SAMPLES

    def _collect(self) -> None:
        # The article looks at all sites of the last token, arditi and cosmic at the stream before
        # each block on all of the template's tokens; the others start from the last one.
        recipe = self.config.recipe
        sites: tuple[Site, ...] = SITES if recipe == "article" else ("resid_pre",)
        whole = recipe in ("arditi", "cosmic")
        ending = len(self.chat.post_instruction()) if whole else 1
        for side in ("positive", "negative"):
            statistics = collect(
                self.chat,
                self._kept(side, "fit"),
                sites=sites,
                positions=list(range(-ending, 0)),
                covariance=self.config.covariance,
                samples=self._samples,
                batch_tokens=self.config.runtime.batch_tokens,
                packed=not (whole or recipe == "article"),
                progress=self.progress,
            )
            statistics.save(self.folder.file(f"activations-{side}.safetensors"))

    def _kept(self, side: str, split: str) -> list[Prompt]:
        """The prompts of a split that the base treats as the contrast says."""
        splits = self.splits[0 if side == "positive" else 1]
        kept = read_json(self.folder.file("baseline.json"))[f"{side}_kept"][split]
        return [prompt for prompt, keep in zip(getattr(splits, split), kept, strict=True) if keep]

    def _directions(self) -> None:
        sides = [
            ActivationStats.load(self.folder.file(f"activations-{side}.safetensors"))
            for side in ("positive", "negative")
        ]
        fit_directions(sides[0], sides[1], self.config.direction_estimator).save(
            self.folder.file("directions.safetensors")
        )

    def _select(self) -> None:
        c = self.config
        before = read_json(self.folder.file("baseline.json"))
        task = RecipeInput(
            config=c,
            chat=self.chat,
            base=BaseModelRef.of(self.checkpoint, c.model if c.model == "demo" else Path(c.model).name),
            writers=self._writers,
            directions=Directions.load(self.folder.file("directions.safetensors")),
            positive={split: self._kept("positive", split) for split in ("fit", "search")},
            negative={split: self._kept("negative", split) for split in ("fit", "search")},
            keep=self.keep,
            answers={
                side: [
                    ids for ids, keep in zip(ids_of, before[f"{side}_kept"]["search"], strict=True) if keep
                ]
                for side, ids_of in before["answers"].items()
            },
            tokens=before["tokens"],
            judge=self.judge if c.contrast.behaviour == "refusal" else None,
            journal=self.folder.journal("select"),
            ask=self.ask,
            progress=self.progress,
        )
        scores, edit, others = RECIPES[c.recipe](task)
        about = {
            "behaviour": c.contrast.behaviour,
            "recipe": c.recipe,
            "estimator": c.direction_estimator,
            "seed": c.seed,
            "direction": scores["chosen"],
            "contrast": [
                plain_source(c.contrast.positive.prompts),
                plain_source(c.contrast.negative.prompts),
            ],
            **gguf_mark(c.model),
        }
        replace(edit, about=about).save(self.folder.file("edit.safetensors"))
        shutil.rmtree(self.folder.file("frontier"), ignore_errors=True)
        for name, other in others.items():
            self.folder.file("frontier").mkdir(exist_ok=True)
            replace(other, about=about).save(self.folder.file(f"frontier/{name}"))
        write_json(self.folder.file("scores.json"), scores)

    @property
    def _writers(self) -> list[Writer]:
        embeddings = self.config.embeddings
        return [w for w in self.chat.architecture.writers if embeddings or w.component not in OUTSIDE]

    @property
    def _edit(self) -> Edit:
        return Edit.load(self.folder.file("edit.safetensors"))

    def _apply(self) -> None:
        out = self.folder.file("checkpoint")
        # What an earlier run in this folder baked of another edit.
        adapter = self.folder.file("adapter")
        for folder in (out, adapter):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("receipt.json", "edited.gguf", "receipt-gguf.json"):
            self.folder.file(name).unlink(missing_ok=True)
        edit = self._edit
        if self.config.lora:
            write_lora(edit, self.checkpoint, adapter, progress=self.progress)
            self._record(adapter, "adapter", edit)
        if not self.config.bake:
            return
        receipt = with_measurement(
            bake(edit, self.checkpoint, out, progress=self.progress), out, edit, progress=self.progress
        )
        self._record(out, "checkpoint", edit)
        write_json(self.folder.file("receipt.json"), receipt.to_json())
        if is_gguf(self.config.model):
            receipt = edit_gguf(
                edit, self.config.model, self.folder.file("edited.gguf"), progress=self.progress
            )
            write_json(self.folder.file("receipt-gguf.json"), receipt.to_json())

    def _record(self, folder: Path, form: Form, edit: Edit) -> None:
        write_record(
            folder,
            form,
            edit,
            model=self.config.model,
            source=self.source,
            versions=versions(),
            progress=self.progress,
        )

    def _evaluate(self) -> None:
        c = self.config
        journal = self.folder.journal("evaluate")
        positive, negative = (side.test for side in self.splits)
        budget = (c.answer_tokens, c.runtime.batch_tokens, self.progress)
        keep = self.keep.test if self.keep else ()
        answers = journal.get_or_compute(
            "answers", lambda: answer_base(self.chat, positive, negative, *budget, keep=keep).answers
        )
        base = answer_base(self.chat, positive, negative, *budget, answers=answers, keep=keep)
        chosen = read_json(self.folder.file("scores.json"))["chosen"]
        place = (chosen["site"], chosen["layer"], chosen["position"])
        direction = self._edit.main_direction

        def evaluated(chat: ChatModel, form: str) -> VariantResult:
            return evaluate_variant(chat, base, self.judge, *budget, form=form, direction=direction)

        once = partial(_once, journal)
        forms = {"base": once("base", lambda: evaluated(self.chat, "base"))}
        with self._edit.hooks(self.chat.model):
            forms["hooks"] = once("hooks", lambda: evaluated(self.chat, "hooks"))
        apart = separation(self.chat, direction, *place, positive, negative, c.runtime.batch_tokens)
        if c.lora:
            adapted = partial(with_adapter, self.chat, self.folder.file("adapter"))
            forms["lora"] = once("lora", lambda: evaluated(adapted(), "lora"))
        self.free()
        if c.bake:
            forms["baked"] = once(
                "baked",
                lambda: evaluated(
                    self._load(self.folder.file("checkpoint"), "the baked checkpoint"), "baked"
                ),
            )
        write_json(self.folder.file("separation.json"), apart)
        write_jsonl(self.folder.file("completions.jsonl"), _side_by_side(base, forms))
        write_json(
            self.folder.file("evaluation.json"),
            {form: with_measurement.metrics for form, with_measurement in forms.items()},
        )

    def _report(self) -> None:
        summary = build_summary(
            self.config,
            self.splits,
            self.judge,
            self.folder,
            edit_sha256=self._edit.sha256,
            command=self.command,
            stages=STAGES[:-1],
            licence=DEMO_LICENCE if self.config.model == "demo" else licence_in(self.source),
        )
        file = self.folder.file
        rows = read_jsonl(file("completions.jsonl"))
        page = render_page(summary, read_json(file("scores.json")), read_json(file("separation.json")), rows)
        card = render_card(summary)
        targets = {"report.html": page, "MODEL_CARD.md": card} | (
            {"checkpoint/README.md": card} if self.config.bake else {}
        )
        for name, text in targets.items():
            with write_whole(file(name)) as path:
                path.write_text(text, encoding="utf-8")
        # Scripts open these from wherever they run; the page and the card name no folder of this
        # machine.
        here = self.folder.path.resolve()
        summary["edit"]["path"] = str(here / summary["edit"]["path"])
        summary["checkpoint"] = summary["checkpoint"] and str(here / summary["checkpoint"])
        write_json(file("summary.json"), summary)


def _once(journal: Any, key: str, work: Callable[[], VariantResult]) -> VariantResult:
    value = journal.get_or_compute(key, lambda: vars(work()))
    return VariantResult(value["metrics"], value["answers"])


def _side_by_side(base: BaseAnswers, forms: dict[str, VariantResult]) -> list[dict[str, Any]]:
    return [
        {
            "set": side,
            "prompt": prompt.text,
            **{form: with_measurement.answers[side][row] for form, with_measurement in forms.items()},
        }
        for side, prompts in base.sides.items()
        for row, prompt in enumerate(prompts)
    ]
