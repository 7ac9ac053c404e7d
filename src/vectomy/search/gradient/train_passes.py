"""The targets of the gradient search: teacher-forced passes over the base's answers to the fit
prompts.

- `change`: the first tokens (openings) of the base's answers that show the behaviour. Each example
  also has an opening of another prompt, so that the edit cannot merely switch phrases. In a
  selective search few prompts show the behaviour, so the others get openings as well.
- `negative`: the base's answers to the negative prompts, which must stay as they are.
- `preserve`: the base's answers to the preserve set that show the behaviour.

Of a model that thinks first, an opening is that of the final part, behind the base's own thought;
the negative answers are kept in both parts.

Where the model allows it, passes resume at the first layer that may be edited: the layers below are
computed once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import BehaviourAbsentError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import hash_of
from vectomy.core.types import Stream
from vectomy.data.prompts import Prompt
from vectomy.data.thoughts import split_thoughts
from vectomy.edits.edit import Edit
from vectomy.metrics.intervals import share_of_most
from vectomy.metrics.judges import REFUSALS, Judge, find_refusals
from vectomy.models import (
    ChatModel,
    Example,
    ModelPass,
    TeacherForcedBatch,
    find_final_parts,
    pack_examples,
    packs_exactly,
    resume_at,
    resumes_exactly,
    run_passes,
)
from vectomy.search.edited_passes import run_base
from vectomy.search.recipe import RecipeInput

__all__ = [
    "JUDGED",
    "MOST_PROMPTS",
    "NEGATIVE_TOKENS",
    "OPENING",
    "PER_PASS",
    "STORED_NAMES",
    "CachedPasses",
    "TargetName",
    "TrainExamples",
    "TrainPass",
    "add_openings",
    "add_prompts_not_shown",
    "list_openings_left",
    "measure_targets",
    "share_left",
]

TargetName = Literal["change", "negative", "preserve"]
# The names of the targets in scores.json, in the journal, and in the seeds of the pass order.
STORED_NAMES: dict[TargetName, str] = {"change": "change", "negative": "keep", "preserve": "hold"}
# Most prompts per set. With few prompts, the edit leaves more of the behaviour on unseen prompts,
# and changes other answers twice as much (docs/log/gradient-search.md).
MOST_PROMPTS = 256
# Tokens of an opening that shows the behaviour, and of an answer that must stay as it is.
OPENING = 8
NEGATIVE_TOKENS = 16
# Generated tokens from which the judge tells whether an opening shows the behaviour; behind a
# thought as many as in evaluation.
JUDGED = 16
# Why an answer may have no verdict.
UNJUDGED = "they are in a language that the judge does not know, or are cut inside the thought"
# Most prompts and tokens in the pass of one step.
PER_PASS, MOST_TOKENS = 16, 4096
# Two openings differ if their first PARTED tokens do.
PARTED = 4


@dataclass(frozen=True, eq=False)
class TrainPass:
    """A teacher-forced batch, the base's residual stream at the layer where the pass resumes (None
    if it does not resume), and the base's hidden states that predict the labels.

    Attributes:
        answer_share: of a piece of a pass (`CachedPasses.split`), the share of the answers of the
            whole pass.
        label_share: likewise of the labels.
    """

    forced: TeacherForcedBatch
    stream: Stream | None
    base: Float[Tensor, "label d_model"]
    answer_share: float = 1.0
    label_share: float = 1.0


@dataclass(frozen=True)
class TrainExamples:
    """The base's own answers to the fit prompts, as tokens."""

    change: list[Example]
    negative: list[Example]
    preserve: list[Example]


@dataclass(frozen=True, eq=False)
class CachedPasses:
    """The targets as passes that resume at `layer` (0: they start at the embeddings)."""

    chat: ChatModel
    layer: int
    change: list[TrainPass]
    negative: list[TrainPass]
    preserve: list[TrainPass]
    packed: bool
    longest: int
    """Tokens of the longest example: up to there the model is known to allow packs."""

    def of(self, name: TargetName) -> list[TrainPass]:
        return {"change": self.change, "negative": self.negative, "preserve": self.preserve}[name]

    @contextmanager
    def running(self) -> Iterator[Callable[[TrainPass, int], Float[Tensor, "copy label d_model"]]]:
        """Yields a function that runs a pass, optionally as several copies in one batch, under the
        hooks that are active at the time.
        """
        with ExitStack() as stack:
            resumed = stack.enter_context(resume_at(self.chat, self.layer)) if self.layer else None

            def run(target: TrainPass, copies: int = 1) -> Float[Tensor, "copy label d_model"]:
                batch = target.forced
                if resumed is not None and target.stream is not None:
                    resumed[:] = [target.stream.repeat(copies, 1, 1)]
                inputs = batch.inputs() if copies == 1 else _repeat_inputs(batch, copies)
                hidden = self.chat.run_inputs(inputs)
                rows = batch.input_ids.shape[0]
                return torch.stack(
                    [batch.predicting(hidden[copy * rows : (copy + 1) * rows]) for copy in range(copies)]
                )

            yield run

    def run_together(self, targets: Sequence[TrainPass]) -> list[Tensor]:
        """The states that predict the labels of passes (label x d_model), under the active hooks.
        If the model is read block by block, all of them go through each block before the next one.
        """
        passes = [ModelPass(target.forced, target.forced.predicting, target.stream) for target in targets]
        return run_passes(self.chat, passes, self.layer)

    @torch.no_grad()
    def split(self, target: TrainPass, pieces: int) -> list[TrainPass]:
        """A pass as at most `pieces` smaller ones of whole examples. Their losses, weighted by
        their shares, add up to the loss of the pass.
        """
        examples, whole = target.forced.examples, target.forced
        size = -(-len(examples) // pieces)
        if size >= len(examples):
            return [target]
        parts = pack_examples(self.chat, examples, 1 << 30, count=size, packed=self.packed)
        return [
            replace(
                piece,
                answer_share=len(piece.forced.first) / len(whole.first),
                label_share=len(piece.forced.labels) / len(whole.labels),
            )
            for piece in _run_base(self.chat, parts, self.layer)
        ]


def _repeat_inputs(batch: TeacherForcedBatch, copies: int) -> JsonObject:
    return {
        name: value.repeat(copies, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value
        for name, value in batch.inputs().items()
    }


def collect_examples(task: RecipeInput) -> TrainExamples:
    """Let the base answer the fit prompts; its answers are stored in the journal.

    Raises:
        BehaviourAbsentError: hardly any positive fit prompt shows the behaviour.
    """
    prompts, answers = base_answers(task, "change")
    change = _list_openings(task, prompts, answers)
    if len(change) < 2:
        raise BehaviourAbsentError(
            f"the base shows the behaviour on {len(change)} of {len(prompts)} positive fit prompts"
            f"{_tell_unjudged(task, prompts, answers)}; a search by gradients needs answers that show it: "
            "give clearer prompts, or --recipe arditi"
        )
    negative_prompts, negative_answers = base_answers(task, "negative")
    tokens = task.chat.tokens(negative_prompts)
    negative = [
        Example(row, ids, [answer[:NEGATIVE_TOKENS]])
        for row, (ids, answer) in enumerate(zip(tokens, negative_answers, strict=True))
    ]
    negative += [
        Example(row, part.prompt, [part.answer[:NEGATIVE_TOKENS]])
        for row, part in enumerate(find_final_parts(task.chat, tokens, negative_answers))
        if part is not None and part.thinks
    ]
    preserve = []
    if task.preserve is not None:
        preserve = _list_openings(task, *base_answers(task, "preserve"))
    change = _add_other_openings(change, task.config.seed)
    if task.preserve is not None:
        parts = find_final_parts(task.chat, task.chat.tokens(prompts), answers)
        behind = [None if part is None else part.prompt for part in parts]
        change = add_prompts_not_shown(behind, change, task.config.seed)
    return TrainExamples(change, negative, preserve)


def _tell_unjudged(task: RecipeInput, prompts: Sequence[Prompt], answers: Sequence[list[int]]) -> str:
    texts = [task.chat.text(answer) for answer in answers]
    if task.judge is None:
        count = sum(task.chat.final_start(answer) is None for answer in answers)
        return f" ({count} answers end inside the thought: raise --answer-tokens)" if count else ""
    count = find_refusals(task.judge, [prompt.text for prompt in prompts], texts).count(None)
    return f" ({count} answers could not be judged: {UNJUDGED})" if count else ""


def base_answers(task: RecipeInput, name: TargetName) -> tuple[list[Prompt], list[list[int]]]:
    """The fit prompts of a target and the base's answers to them (stored in the journal)."""
    sets = {
        "change": task.positive["fit"],
        "negative": task.negative["fit"],
        "preserve": task.preserve.fit if task.preserve is not None else (),
    }
    prompts = list(sets[name])[:MOST_PROMPTS]
    tokens = _count_judged_tokens(task)
    if name == "negative" and tokens == JUDGED:
        tokens = NEGATIVE_TOKENS
    answer = _answerer(task, prompts, tokens, name)
    return prompts, task.journal.get_or_compute(f"answers {STORED_NAMES[name]}", answer)


def _answerer(
    task: RecipeInput, prompts: Sequence[Prompt], tokens: int, name: TargetName
) -> Callable[[], list[list[int]]]:
    title = {
        "change": "openings of the base",
        "negative": "answers of the base to negative prompts",
        "preserve": "refusals to preserve",
    }[name]
    return lambda: task.chat.answer(
        task.chat.tokens(prompts), tokens, task.config.runtime.batch_tokens, task.progress, title
    )


def _list_openings(
    task: RecipeInput, prompts: Sequence[Prompt], answers: Sequence[list[int]]
) -> list[Example]:
    """The prompts whose answer shows the behaviour, each with the opening of the final part.
    Without a judge, every prompt with a final part counts.
    """
    parts = find_final_parts(task.chat, task.chat.tokens(prompts), answers)
    judged = [row for row, part in enumerate(parts) if part is not None]
    shown = judged if task.judge is None else _list_refusals(task, task.judge, prompts, answers, judged)
    return [
        Example(row, part.prompt, [part.answer[:OPENING]])
        for row, part in enumerate(parts)
        if part is not None and row in shown
    ]


def _list_refusals(
    task: RecipeInput,
    judge: Judge,
    prompts: Sequence[Prompt],
    answers: Sequence[list[int]],
    rows: Sequence[int],
) -> list[int]:
    """The rows whose answer refuses. They are stored in the journal by what was judged: a judge on
    a server is not asked twice, and might answer otherwise.
    """
    asked = [(prompts[row].text, task.chat.text(answers[row])) for row in rows]

    def refusals() -> list[int]:
        return [row for row, pair in zip(rows, asked, strict=True) if judge.verdict(*pair) in REFUSALS]

    result: list[int] = task.journal.get_or_compute(f"refusals {hash_of([list(rows), asked])}", refusals)
    return result


def _add_other_openings(examples: list[Example], seed: int) -> list[Example]:
    """Add to each example an opening of another prompt, if there is one that differs early."""
    chance = random.Random(seed)
    openings = sorted({tuple(example.answers[0]) for example in examples})
    result = []
    for example in examples:
        own = tuple(example.answers[0])
        others = [other for other in openings if other[:PARTED] != own[:PARTED]]
        more = [list(chance.choice(others))] if others else []
        result.append(Example(example.row, example.prompt, [example.answers[0], *more]))
    return result


def add_prompts_not_shown(
    tokens: Sequence[list[int] | None], change: list[Example], seed: int
) -> list[Example]:
    """Add the prompts that do not show the behaviour, with openings of others.

    Where the behaviour depends on the wording, only chance separates a prompt that shows it from
    one that nearly does.

    Args:
        tokens: all prompts, by row, with their thoughts; None for one whose thought never ends.
    """
    chance = random.Random(seed)
    openings = sorted({tuple(example.answers[0]) for example in change})
    shown = {example.row for example in change}
    others = [
        Example(row, ids, [list(chance.choice(openings))])
        for row, ids in enumerate(tokens)
        if row not in shown and ids is not None
    ]
    return [*change, *others]


# Not inference_mode: these tensors take part in later backward passes.
@torch.no_grad()
def measure_targets(task: RecipeInput, start: int) -> CachedPasses:
    """The targets, with the base's states. Passes resume at layer `start` and are packed if that
    does not change the results.
    """
    chat, examples = task.chat, collect_examples(task)
    sample = [*examples.change[:2], *examples.negative[:2]]
    others = [*examples.change[2:], *examples.negative[2:], *examples.preserve]
    packed = packs_exactly(chat, [*sample, *others], first=len(sample))
    first = pack_examples(chat, sample, 1 << 30, packed=packed)[0] if start else None
    layer = start if first is not None and resumes_exactly(chat, start, first) else 0
    with task.progress("what the base does", 1) as update:
        change, negative, preserve = (
            _build_passes(task, part, layer, packed)
            for part in (examples.change, examples.negative, examples.preserve)
        )
        update(1)
    longest = max(example.longest for example in (*sample, *others))
    return CachedPasses(chat, layer, change, negative, preserve, packed, longest)


@torch.no_grad()
def list_openings_left(task: RecipeInput, edit: Edit, name: str) -> list[Example]:
    """The openings under an edit that still show the behaviour, on the positive fit prompts.

    The answers are stored in the journal under `name`. The list is empty without a judge, and where
    generating would read the model for each token.
    """
    if task.teacher_forced or task.judge is None:
        return []
    prompts = task.positive["fit"][:MOST_PROMPTS]

    def answers() -> list[list[int]]:
        with edit.hooks(task.chat.model):
            return _answerer(task, prompts, _count_judged_tokens(task), "change")()

    return _list_openings(task, prompts, task.journal.get_or_compute(name, answers))


@torch.no_grad()
def add_openings(task: RecipeInput, targets: CachedPasses, examples: list[Example]) -> CachedPasses:
    """The targets, with further openings to make unlikely."""
    if not examples:
        return targets
    more = _build_passes(task, examples, targets.layer, targets.packed)
    # The remaining openings are few but decide the result: they take at least a third of the steps.
    often = max(1, len(targets.change) // (2 * len(more)))
    return replace(targets, change=[*targets.change, *more * often])


def share_left(task: RecipeInput, edit: Edit, count: int) -> float:
    """The share of the behaviour that an edit leaves, on the first `count` fit prompts where the
    base shows it.
    """
    all_prompts, base = base_answers(task, "change")
    prompts = [all_prompts[example.row] for example in _list_openings(task, all_prompts, base)[:count]]
    with edit.hooks(task.chat.model):
        answers = task.chat.answer(
            task.chat.tokens(prompts), _count_judged_tokens(task), task.config.runtime.batch_tokens
        )
    if task.judge is None:
        return 1.0
    texts = [task.chat.text(answer) for answer in answers]
    shown = find_refusals(task.judge, [prompt.text for prompt in prompts], texts)
    share = share_of_most(shown)
    # Where most answers could not be judged, nothing shows that the behaviour is gone.
    return 1.0 if share is None else share


def _count_judged_tokens(task: RecipeInput) -> int:
    """Tokens of an answer to a fit prompt that the judge reads."""
    thinks = any(split_thoughts(task.chat.text(answer)).thought for answer in task.answers["positive"])
    return max(JUDGED, task.config.answer_tokens) if thinks else JUDGED


def _build_passes(task: RecipeInput, examples: list[Example], layer: int, packed: bool) -> list[TrainPass]:
    shuffled = random.Random(task.config.seed).sample(examples, len(examples))
    batches = pack_examples(
        task.chat,
        shuffled,
        task.config.runtime.batch_tokens,
        count=PER_PASS,
        packed=packed,
        most=MOST_TOKENS,
    )
    return _run_base(task.chat, batches, layer)


def _run_base(chat: ChatModel, batches: Sequence[TeacherForcedBatch], layer: int) -> list[TrainPass]:
    streams, states = run_base(chat, batches, layer)
    return [TrainPass(*parts) for parts in zip(batches, streams, states, strict=True)]
