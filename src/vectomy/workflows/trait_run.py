"""A trait from its two contexts to an edited checkpoint and the numbers, stage by stage in a run
folder.

    answers     the base's own answers in both contexts (fit and search)
    edit        the edit, learned or in closed form, and its strength, chosen on the search split
    apply       the edited checkpoint, with a receipt
    evaluate    the share of test answers that show the trait before and after, and what it cost
    report      summary.json and TRAIT.md

A stage whose inputs have not changed is not run again.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from vectomy.architecture import Writer
from vectomy.checkpoint import Checkpoint, architecture_in, fingerprint, sidecar_digest
from vectomy.core.config import Contrast, Source
from vectomy.core.jsonl import write_jsonl
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import RunFolder, hash_of, read_json, write_json, write_whole
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt, Splits, split_kept
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import TraitContext
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.export import bake
from vectomy.metrics.trait_scorers import Scorer, scorer_of
from vectomy.metrics.verify import with_measurement
from vectomy.models import ChatModel, load_model, probe_architecture
from vectomy.models.demo import model_folder
from vectomy.report.pages.trait_page import trait_page
from vectomy.search.distill.closed_forms import Means, closed_form, learnables
from vectomy.search.distill.distill_examples import (
    DistillBatch,
    DistillExample,
    check_enough,
    distill_examples,
    good_answers,
    mean_streams,
    pair_examples,
)
from vectomy.search.distill.distillation import learn_edit
from vectomy.search.distill.strength_choice import choose_strength
from vectomy.search.distill.trait_bench import AskedModel, TraitBench
from vectomy.workflows.trait_config import TraitRun

__all__ = ["run_trait"]

STAGES = ("answers", "edit", "apply", "evaluate", "report")
# Layers at which a closed form is tried, as shares of the depth; those that the base's own distance
# likes best are generated with.
TRIED_DEPTHS = (0.3, 0.4, 0.5, 0.6, 0.7)
GENERATED = 2
# Lessons by which they are screened.
SCREENED = 8


def run_trait(
    config: TraitRun,
    out: str | Path,
    *,
    command: str = "",
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Induce or remove a trait into the run folder `out`, and return its summary.

    Raises:
        VectomyError: see errors.py; what was finished stays and is not done again.
    """
    with RunFolder(Path(out)) as folder:
        work = _TraitRun(config, folder, command, progress)
        digest = work.prepare()
        tell(f"{config.model}: {config.trait.label} ({config.trait.description})")
        tell(f"what it does to safety: {config.trait.safety}")
        for stage in STAGES:
            digest = work.do(stage, digest)
            if stage in folder.reused:
                tell(f"{stage}: done before with the same inputs, not run again")
        work.free()
        return dict(read_json(folder.file("summary.json")))


@dataclass
class _TraitRun:
    config: TraitRun
    folder: RunFolder
    command: str
    progress: Progress
    _chat: ChatModel | None = None

    @cached_property
    def source(self) -> Path:
        return model_folder(self.config.model, self.progress)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.source)

    @property
    def chat(self) -> ChatModel:
        if self._chat is None:
            self._chat = self._load(self.source, self.config.model)
        return self._chat

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

    @cached_property
    def splits(self) -> Splits:
        """One set under two contexts: fit, search and test apart by prompt."""
        c = self.config
        source = Source(prompts=c.trait.prompts.source)
        sizes = {"n_fit": c.n_fit, "n_search": c.n_search, "n_test": c.n_test}
        found = split_kept(Contrast(positive=source, negative=source, keep=source, **sizes), c.seed)
        assert found is not None
        return found

    def texts(self, split: str) -> list[str]:
        return [prompt.text for prompt in getattr(self.splits, split)]

    @cached_property
    def base(self) -> BaseModelRef:
        named = self.config.model if self.config.model.startswith("demo") else Path(self.config.model).name
        return BaseModelRef.of(self.checkpoint, named)

    @property
    def _writers(self) -> list[Writer]:
        return list(self.chat.architecture.writers)

    @property
    def contexts(self) -> tuple[TraitContext, TraitContext]:
        """(source, target): where the edit is at work, and what it is to make of it."""
        trait = self.config.trait
        sides = (trait.negative, trait.positive)
        return sides if trait.operation == "induce" else sides[::-1]

    def prepare(self) -> str:
        probe_architecture(
            self.source, trust_remote_code=self.config.runtime.trust_remote_code, progress=self.progress
        )
        architecture_in(self.checkpoint).check_covered()
        c = self.config
        write_json(self.folder.file("prompts.json"), self.splits.to_json())
        write_json(self.folder.file("config.json"), c.model_dump(mode="json"))
        settings = c.model_dump(
            mode="json", include={"trait", "answer_tokens", "seed", "device", "dtype", "thinking"}
        )
        prompts = {name: rows for name, rows in self.splits.to_json().items() if name != "test"}
        model = [fingerprint(self.checkpoint), sidecar_digest(self.checkpoint)]
        return hash_of([versions()["vectomy"], model, prompts, settings])

    def do(self, stage: str, before: str) -> str:
        c = self.config
        needs: dict[str, tuple[Any, list[str]]] = {
            "answers": ([], ["answers.json"]),
            "edit": ([c.steps, c.dial], ["edit.safetensors", "scores.json"]),
            "apply": ([c.bake], ["checkpoint", "receipt.json"] if c.bake else []),
            "evaluate": (self.texts("test"), ["evaluation.json", "completions.jsonl"]),
            "report": (self.command, ["summary.json", "TRAIT.md"]),
        }
        return self.folder.stage(stage, before, *needs[stage], getattr(self, f"_{stage}"))

    # The stages

    def _answers(self) -> None:
        c, journal = self.config, self.folder.journal("answers")
        found: dict[str, dict[str, list[list[int]]]] = {}
        for side in ("positive", "negative"):
            for split in ("fit", "search"):
                prompts = in_context(self.texts(split), getattr(c.trait, side))
                work = partial(self._answered, prompts, f"base answers ({side}, {split})")
                found.setdefault(side, {})[split] = journal.get_or_compute(f"{side} {split}", work)
        write_json(self.folder.file("answers.json"), found)

    def _answered(self, prompts: list[Prompt], what: str) -> list[list[int]]:
        c = self.config
        return self.chat.answer(
            self.chat.tokens(prompts), c.answer_tokens, c.runtime.batch_tokens, self.progress, what
        )

    def _own(self, side: str, split: str) -> tuple[list[str], list[list[int]], list[str]]:
        """Prompts, answers and their texts, as the base gave them."""
        answers: list[list[int]] = read_json(self.folder.file("answers.json"))[side][split]
        return self.texts(split), answers, [self.chat.text(answer) for answer in answers]

    @cached_property
    def scorer(self) -> Scorer:
        return scorer_of(
            self.chat,
            self.config.trait,
            self._own("positive", "fit")[:2],
            self._own("negative", "fit")[1],
            self.config.runtime.batch_tokens,
        )

    def _edit(self) -> None:
        c, trait, search = self.config, self.config.trait, self._bench("search")
        lessons, means = self._learned_from()
        history: list[dict[str, float]] = []
        if trait.form == "learned":
            edit, history = self._learn(lessons, means)
            tried = [({"layer": None, "strength": strength}, edit * strength) for strength in c.dial]
        else:
            few = pair_examples(self.chat, lessons[:SCREENED], c.runtime.batch_tokens, self.progress)
            tried = self._closed_forms(means, search.distances(few))
        known = search.reference(self._own("negative", "search")[1])
        points = [{**place, **search.point(candidate, self.contexts[0], known)} for place, candidate in tried]
        at, note = choose_strength(points, trait)
        said = trait.model_dump(mode="json", include={"operation", "form", "safety"})
        about = {
            "trait": trait.name,
            "behaviour": trait.label,
            **said,
            "seed": c.seed,
            "strength": points[at]["strength"],
        }
        Edit(self.base, tried[at][1].operations, about).save(self.folder.file("edit.safetensors"))
        scores = {"points": points, "chosen": at, "note": note, "history": history}
        write_json(
            self.folder.file("scores.json"), {**scores, "scorer": self.scorer.note, "lessons": len(lessons)}
        )

    def _bench(self, split: str, chat: ChatModel | None = None) -> TraitBench:
        c = self.config
        return TraitBench(
            chat or self.chat,
            c.trait,
            self.scorer,
            self.texts(split),
            c.answer_tokens,
            c.runtime.batch_tokens,
            self.progress,
        )

    def _learned_from(self) -> tuple[list[DistillExample], Means]:
        """Lessons, and the mean streams of the two contexts over the tokens of the same answers:
        nothing else differs.
        """
        trait, budget = self.config.trait, self.config.runtime.batch_tokens
        texts, styled, styled_said = self._own("positive", "fit")
        _, plain, plain_said = self._own("negative", "fit")
        good = {
            "positive": good_answers(texts, styled, styled_said, self.scorer, True),
            "negative": good_answers(texts, plain, plain_said, self.scorer, False),
        }
        check_enough(good["positive"], "show the trait and say something", self.scorer)
        check_enough(good["negative"], "lack the trait and say something", self.scorer)
        rows = [at for at, fine in enumerate(good["positive"]) if fine]
        asked, answers = [texts[at] for at in rows], [styled[at] for at in rows]
        sides = (in_context(asked, context) for context in (trait.positive, trait.negative))
        positive, negative = (mean_streams(self.chat, side, answers, budget) for side in sides)
        lessons = distill_examples(
            self.chat, trait, texts, {"positive": styled, "negative": plain}, good, self.scorer
        )
        return lessons, (positive, negative)

    def _learn(self, lessons: list[DistillExample], means: Means) -> tuple[Edit, list[dict[str, float]]]:
        c, budget = self.config, self.config.runtime.batch_tokens
        change = pair_examples(self.chat, lessons, budget, self.progress)
        keep: list[DistillBatch] = []
        if c.trait.operation == "remove":
            still = [replace(lesson, source=lesson.parts[0][0]) for lesson in lessons]
            keep = pair_examples(self.chat, still, budget, self.progress)
        learned = learnables(c.trait.operation, self._writers, means)
        return learn_edit(
            self.chat, self.base, learned, change, keep, steps=c.steps, seed=c.seed, progress=self.progress
        )

    def _closed_forms(
        self, means: Means, distance: Callable[[Edit], float]
    ) -> list[tuple[dict[str, Any], Edit]]:
        """The layers whose edit at full strength comes nearest to the target context, at every
        strength.
        """
        c, trait, n = self.config, self.config.trait, self.chat.architecture.n_layers

        def edit(layer: int, strength: float) -> Edit:
            return closed_form(trait.form, trait.operation, self.base, self._writers, layer, means, strength)

        layers = sorted({round(depth * n) for depth in TRIED_DEPTHS})
        nearest = sorted(layers, key=lambda layer: distance(edit(layer, 1.0)))[:GENERATED]
        return [({"layer": layer, "strength": s}, edit(layer, s)) for layer in nearest for s in c.dial]

    def _apply(self) -> None:
        shutil.rmtree(self.folder.file("checkpoint"), ignore_errors=True)
        if self.config.bake:
            edit, out = Edit.load(self.folder.file("edit.safetensors")), self.folder.file("checkpoint")
            receipt = with_measurement(
                bake(edit, self.checkpoint, out, progress=self.progress), out, edit, progress=self.progress
            )
            write_json(self.folder.file("receipt.json"), receipt.to_json())

    def _evaluate(self) -> None:
        c, trait, journal = self.config, self.config.trait, self.folder.journal("evaluate")
        edit = Edit.load(self.folder.file("edit.safetensors"))
        bench, source = self._bench("test"), self.contexts[0]
        forms = [
            AskedModel("base", trait.negative),
            AskedModel("base in the positive context", trait.positive),
            AskedModel("edited", source, edit),
        ]
        if trait.operation == "remove":
            forms.append(AskedModel("edited in the negative context", trait.negative, edit))
        answers = {
            form.name: journal.get_or_compute(form.name, partial(bench.answers, form)) for form in forms
        }
        known = bench.reference(answers["base"])
        damage = journal.get_or_compute("damage", lambda: bench.damage(edit, known))
        if c.bake:
            baked = self._load(self.folder.file("checkpoint"), "the baked checkpoint")
            there = self._bench("test", baked)
            answers["baked"] = journal.get_or_compute(
                "baked", lambda: there.answers(AskedModel("baked", source))
            )
            del baked, there
        found = {name: bench.counted(given) for name, given in answers.items()}
        if c.bake:
            same = sum(one == other for one, other in zip(answers["edited"], answers["baked"], strict=True))
            found["baked"]["same_as_edited"] = same
        write_json(
            self.folder.file("evaluation.json"),
            {"forms": [{"name": name, **row} for name, row in found.items()], "damage": damage},
        )
        rows = [
            {"prompt": text, **{name: self.chat.text(given[row]) for name, given in answers.items()}}
            for row, text in enumerate(bench.texts)
        ]
        write_jsonl(self.folder.file("completions.jsonl"), rows)

    def _report(self) -> None:
        c, trait = self.config, self.config.trait
        scores = read_json(self.folder.file("scores.json"))
        evaluation = read_json(self.folder.file("evaluation.json"))
        edit = Edit.load(self.folder.file("edit.safetensors"))
        summary = {
            "format": "vectomy-trait-summary",
            "version": 1,
            "model": c.model if c.model.startswith("demo") else Path(c.model).name,
            "trait": trait.model_dump(mode="json"),
            "behaviour": trait.label,
            "safety": trait.safety,
            "scorer": {"name": self.scorer.name, "note": scores["scorer"]},
            "chosen": scores["points"][scores["chosen"]],
            "note": scores["note"],
            **evaluation,
            "prompts": {name: len(rows) for name, rows in self.splits.to_json().items()},
            "settings": c.model_dump(mode="json", exclude={"model", "trait"}),
            "seconds": self.folder.seconds(),
            "command": self.command,
            "versions": versions(),
            "edit": {"path": "edit.safetensors", "sha256": edit.sha256, "writers": len(edit.operations)},
            "checkpoint": "checkpoint" if c.bake else None,
        }
        with write_whole(self.folder.file("TRAIT.md")) as path:
            path.write_text(trait_page(summary), encoding="utf-8")
        write_json(self.folder.file("summary.json"), summary)
