"""The stages of a run with recipe `distill`: a trait, learned from the same prompts in two
contexts.

Stage names, files and summary are those of every other run (run_stages.py). Positive prompts are
asked in the context that shows the trait, negative ones in the context that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import safetensors.torch
import torch

from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import write_jsonl
from vectomy.core.linalg import normalise
from vectomy.core.ranks import current_ranks
from vectomy.core.run_folder import read_json, write_json, write_whole
from vectomy.core.types import Vector
from vectomy.data.prompts import Prompt
from vectomy.data.trait_context import in_context
from vectomy.edits.edit import Edit
from vectomy.metrics.intervals import rate_of, share_of
from vectomy.metrics.judges.judged_part import find_degenerate
from vectomy.metrics.set_separation import separation
from vectomy.metrics.trait_scorers import LogOddsScorer
from vectomy.search.distill.closed_forms import closed_form, learnables
from vectomy.search.distill.distill_examples import (
    DistillBatch,
    DistillExample,
    check_enough,
    distill_examples,
    mean_streams,
    pair_examples,
)
from vectomy.search.distill.distillation import learn_edit
from vectomy.search.distill.strength_choice import choose_strength
from vectomy.search.distill.trait_bench import AskedModel, TraitBench
from vectomy.workflows.distill_workflow import SIDES, DistillWorkflow
from vectomy.workflows.transfer import load_in_full, measures_in_full

__all__ = [
    "run_distill_baseline",
    "run_distill_collect",
    "run_distill_directions",
    "run_distill_evaluate",
    "run_distill_select",
]

Candidate = tuple[int | None, float, Edit]
"""(layer, strength, edit); the layer is None where the edit is of many."""
# Layers at which a closed form is tried, as shares of the depth. Answers are generated at the
# GENERATED layers whose edit comes nearest to the target context by teacher forcing alone.
TRIED_DEPTHS = (0.3, 0.4, 0.5, 0.6, 0.7)
GENERATED = 2
# Examples that the layers are screened with.
SCREENED = 8
# The layer at which the two contexts are compared on the page, where the edit names none.
SHOWN_DEPTH = 0.6


def run_distill_baseline(work: DistillWorkflow) -> None:
    """Let the base answer in both contexts."""
    c, journal = work.config, work.folder.journal("baseline")
    answers: dict[str, dict[str, list[list[int]]]] = {}
    for side in SIDES:
        for split in ("fit", "search"):
            prompts = in_context(work.texts(split), getattr(c.trait, side))
            ask = partial(_answer, work, prompts, f"base answers ({side}, {split})")
            answers.setdefault(side, {})[split] = journal.get_or_compute(f"{side} {split}", ask)
    current_ranks().on_first(partial(write_json, work.folder.file("answers.json"), answers))
    bench = work.bench("search")
    baseline = {f"{side}_rate": share_of(bench.score(answers[side]["search"]).shown) for side in SIDES}
    scorer = {"name": work.scorer.name, "note": work.scorer.note}
    record = {**baseline, "scorer": scorer, **work.describe_setup()}
    current_ranks().on_first(partial(write_json, work.folder.file("baseline.json"), record))


def _answer(work: DistillWorkflow, prompts: list[Prompt], what: str) -> list[list[int]]:
    c = work.config
    return work.chat.answer(
        work.chat.tokens(prompts), c.answer_tokens, c.runtime.batch_tokens, work.progress, what
    )


def run_distill_collect(work: DistillWorkflow) -> None:
    """Average the stream in both contexts over the tokens of the same answers: the contexts alone
    differ.
    """
    trait, batch_tokens = work.config.trait, work.runtime.batch_tokens
    good = work.good_fit_answers()
    check_enough(good["positive"], "show the trait and say something", work.scorer)
    check_enough(good["negative"], "lack the trait and say something", work.scorer)
    texts, styled, _ = work.own_answers("positive", "fit")
    rows = [index for index, fine in enumerate(good["positive"]) if fine]
    asked, answers = [texts[index] for index in rows], [styled[index] for index in rows]
    for side, context in zip(SIDES, (trait.positive, trait.negative), strict=True):
        mean = mean_streams(work.chat, in_context(asked, context), answers, batch_tokens)
        _write_tensor(work, f"activations-{side}.safetensors", mean)


def run_distill_directions(work: DistillWorkflow) -> None:
    """Subtract the mean streams: one direction per layer."""
    positive, negative = work.means()
    _write_tensor(work, "directions.safetensors", positive - negative)


def _write_tensor(work: DistillWorkflow, name: str, value: torch.Tensor) -> None:
    with write_whole(work.folder.file(name)) as path:
        safetensors.torch.save_file({"resid_post": value.contiguous()}, path)


def run_distill_select(work: DistillWorkflow) -> None:
    """Make the edit in the trait's form, and choose its strength on the search prompts."""
    trait, search = work.config.trait, work.bench("search")
    examples = _examples(work)
    history: list[dict[str, float]] = []
    if trait.form == "learned":
        edit, history = _learn(work, examples)
        tried: list[Candidate] = [(None, strength, edit * strength) for strength in work.config.dial]
    else:
        few = pair_examples(work.chat, examples[:SCREENED], work.runtime.batch_tokens, work.progress)
        tried = _closed_forms(work, search.distances(few))
    known = search.reference(work.own_answers("negative", "search")[1])
    points = [
        {"strength": strength, **search.point(candidate, work.contexts[0], known)}
        for _, strength, candidate in tried
    ]
    best, note = choose_strength(points, trait)
    layer, strength, edit = tried[best]
    about = {
        "trait": trait.name,
        "behaviour": trait.label,
        **trait.model_dump(mode="json", include={"operation", "form", "safety"}),
        "seed": work.config.seed,
        "strength": strength,
    }
    Edit(work.base, edit.operations, about).save(work.folder.file("edit.safetensors"))
    candidates = [
        {"number": number, "rate": point["shown"], "read_at": tried[number][0], **point}
        for number, point in enumerate(points)
    ]
    scores = {
        "recipe": "distill",
        "form": trait.form,
        "operation": trait.operation,
        "candidates": candidates,
        "frontier": [],
        "trial": best,
        "chosen": {**_place(work, layer), **points[best]},
        "note": note,
        "history": [{"step": step, **losses} for step, losses in enumerate(history, 1)],
        "examples": len(examples),
    }
    write_json(work.folder.file("scores.json"), scores)


def _place(work: DistillWorkflow, layer: int | None) -> JsonObject:
    """Where the contexts are compared: the layer of a closed form, else a middle layer."""
    positive, negative = work.means()
    at = round(SHOWN_DEPTH * (len(positive) - 1)) if layer is None else layer
    last = work.chat.tokens(work.splits[1].search[:1])[0][-1]
    return {
        "site": "resid_post",
        "layer": at,
        "position": -1,
        "token": work.chat.tokenizer.decode([last]),
        "norm": float((positive[at] - negative[at]).norm()),
    }


def _examples(work: DistillWorkflow) -> list[DistillExample]:
    texts, styled, _ = work.own_answers("positive", "fit")
    plain = work.own_answers("negative", "fit")[1]
    answers = {"positive": styled, "negative": plain}
    return distill_examples(
        work.chat, work.config.trait, texts, answers, work.good_fit_answers(), work.scorer
    )


def _learn(work: DistillWorkflow, examples: list[DistillExample]) -> tuple[Edit, list[dict[str, float]]]:
    """The learned Edit at strength 1, and the losses by step."""
    c = work.config
    change = pair_examples(work.chat, examples, c.runtime.batch_tokens, work.progress)
    preserve: list[DistillBatch] = []
    if c.trait.operation == "remove":
        unchanged = [replace(example, source=example.parts[0][0]) for example in examples]
        preserve = pair_examples(work.chat, unchanged, c.runtime.batch_tokens, work.progress)
    learned = learnables(c.trait.operation, work.writers, work.means())
    return learn_edit(
        work.chat,
        work.base,
        learned,
        change,
        preserve,
        steps=c.steps,
        seed=c.seed,
        progress=work.progress,
    )


def _closed_forms(work: DistillWorkflow, distance: Callable[[Edit], float]) -> list[Candidate]:
    """The layers whose edit at strength 1 comes nearest to the target
    context, at every strength of the dial.
    """
    trait, depth, means = work.config.trait, work.chat.architecture.n_layers, work.means()

    def edit(layer: int, strength: float) -> Edit:
        return closed_form(trait.form, trait.operation, work.base, work.writers, layer, means, strength)

    layers = sorted({round(share * depth) for share in TRIED_DEPTHS})
    nearest = sorted(layers, key=lambda layer: distance(edit(layer, 1.0)))[:GENERATED]
    return [(layer, strength, edit(layer, strength)) for layer in nearest for strength in work.config.dial]


def run_distill_evaluate(work: DistillWorkflow) -> None:
    """Ask the base and the edited model in both contexts, on the test prompts."""
    c, journal = work.config, work.folder.journal("evaluate")
    edit, bench = work.edit, work.bench("test")

    def ask(asked: TraitBench, form: str, edit: Edit | None) -> dict[str, list[list[int]]]:
        return {
            side: journal.get_or_compute(
                f"{form} {side}",
                partial(asked.answers, AskedModel(f"{form}, {side}", getattr(c.trait, side), edit)),
            )
            for side in SIDES
        }

    answers = {"base": ask(bench, "base", None), "hooks": ask(bench, "hooks", edit)}
    known = bench.reference(answers["base"]["negative"])
    costs = {
        "base": journal.get_or_compute("base cost", lambda: bench.damage(None, known)),
        "hooks": journal.get_or_compute("hooks cost", lambda: bench.damage(edit, known)),
    }
    chosen = read_json(work.folder.file("scores.json"))["chosen"]
    place = (chosen["site"], chosen["layer"], chosen["position"])
    sides = (side.test for side in work.splits)
    apart = separation(
        work.chat, _shown_direction(work, chosen["layer"]), *place, *sides, c.runtime.batch_tokens
    )
    current_ranks().on_first(partial(write_json, work.folder.file("separation.json"), apart.to_json()))
    if c.bake:
        # One model in memory: from here on only the base's head is read.
        work.free()
        bench.chat.drop_blocks()
        other = replace(bench, chat=work.load(work.folder.file("checkpoint"), "the baked checkpoint"))
        answers["baked"] = ask(other, "baked", None)
        costs["baked"] = journal.get_or_compute("baked cost", partial(other.damage, None, known, bench.chat))
        del other
    if measures_in_full(work):
        work.free()
        full = replace(bench, chat=load_in_full(work, "base"))
        answers["base_full"] = ask(full, "base_full", None)
        known = full.reference(answers["base_full"]["negative"])
        costs["base_full"] = journal.get_or_compute("base_full cost", partial(full.damage, None, known))
        full.chat.drop_blocks()
        other = replace(bench, chat=load_in_full(work, "baked"))
        answers["baked_full"] = ask(other, "baked_full", None)
        cost = partial(other.damage, None, known, full.chat)
        costs["baked_full"] = journal.get_or_compute("baked_full cost", cost)
        del full, other, cost
    if c.bake and isinstance(bench.scorer, LogOddsScorer):
        # The base, whole again: it scores the answers.
        bench = work.bench("test")
    shown = {form: _judge(bench, given) for form, given in answers.items()}
    metrics = {form: _metrics(bench, given, costs[form]) for form, given in answers.items()}
    current_ranks().on_first(partial(write_json, work.folder.file("evaluation.json"), metrics))
    file = work.folder.file("completions.jsonl")
    current_ranks().on_first(partial(write_jsonl, file, _rows(work, shown)))


def _shown_direction(work: DistillWorkflow, layer: int) -> Vector:
    positive, negative = work.means()
    return normalise(positive[layer] - negative[layer])


def _judge(
    bench: TraitBench, answers: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, list[dict[str, str]]]:
    """By side, each answer as text with its verdict. Not within an edit's hooks."""
    result = {}
    for side, given in answers.items():
        texts = [bench.chat.text(answer) for answer in given]
        shows = bench.scorer.shown(texts, bench.texts, given)
        result[side] = [
            {
                "text": text,
                "verdict": "degenerate"
                if find_degenerate(text, prompt)
                else "not_judged"
                if shown is None
                else "shows_the_trait"
                if shown
                else "lacks_the_trait",
            }
            for text, prompt, shown in zip(texts, bench.texts, shows, strict=True)
        ]
    return result


def _metrics(
    bench: TraitBench, answers: Mapping[str, Sequence[Sequence[int]]], cost: Mapping[str, float]
) -> JsonObject:
    """The numbers of one form under the names of every run.

    `refusal_*` counts answers that show the trait in the positive context, `harmless_refusal_*`
    those in the negative one.
    """
    traits = {side: bench.score(answers[side]) for side in SIDES}
    names = {"refusal": "positive", "harmless_refusal": "negative"}
    rates = {
        f"{name}_{part}": value
        for name, side in names.items()
        for part, value in rate_of(traits[side].shown).items()
    }
    return {
        **rates,
        "degenerate_rate": share_of([flag for side in SIDES for flag in traits[side].degenerate]),
        **cost,
        "max_projection": None,
        **{f"{side}_length_mean": traits[side].length_mean for side in SIDES},
        **{f"{side}_degenerate_count": traits[side].degenerate.count(True) for side in SIDES},
    }


def _rows(
    work: DistillWorkflow, judged: Mapping[str, Mapping[str, Sequence[Mapping[str, str]]]]
) -> list[JsonObject]:
    return [
        {"set": side, "prompt": text, **{form: sides[side][row] for form, sides in judged.items()}}
        for side in SIDES
        for row, text in enumerate(work.texts("test"))
    ]
