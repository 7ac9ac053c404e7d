"""What a search by gradients is to change and what it is to keep, as teacher-forced passes over the
fit prompts.

To change: the base's own openings of answers that show the behaviour, each with another opening
beside it, so that the phrase cannot merely be switched; in a selective search the prompts that do
not bring it out have openings of others, for such a search has few that do. To keep: the base's own
answers to the other prompts. Passes go on at the first layer that may be edited, where the model
allows it: what lies below is computed once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import BehaviourAbsentError
from vectomy.core.types import Stream
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.metrics.judges import REFUSALS
from vectomy.models import (
    ChatModel,
    Example,
    TeacherForcedBatch,
    pack_examples,
    packs_exactly,
    resume_at,
    resumes_exactly,
)
from vectomy.search.recipe import RecipeInput

__all__ = [
    "CachedPasses",
    "TrainExamples",
    "TrainPass",
    "measure_targets",
    "share_left",
    "with_openings_left",
    "with_prompts_not_shown",
]

# Prompts that answers are taken from. What is learned from few of them does not hold on prompts
# that the search has not seen: of the behaviour more is left there, and what is to stay as it is
# changes twice as much (docs/log/gradient-search.md).
MOST_PROMPTS = 256
# Tokens of an answer that show the behaviour, and of one that is to stay as it is.
OPENING = 8
KEPT = 16
# Tokens that are generated to tell whether an opening shows the behaviour.
JUDGED = 16
# Prompts in one step's pass.
PER_PASS = 16
# Openings count as different if they part within so many tokens.
PARTED = 4


@dataclass(frozen=True, eq=False)
class TrainPass:
    """A pass, the base's stream where it goes on, and the base's states that predict its labels."""

    forced: TeacherForcedBatch
    stream: Stream | None
    base: Float[Tensor, "label d_model"]


@dataclass(frozen=True)
class TrainExamples:
    """The base's own answers to fit prompts, as tokens."""

    change: list[Example]
    keep: list[Example]
    hold: list[Example]


@dataclass(frozen=True, eq=False)
class CachedPasses:
    """`change`, `keep` and `hold` (of prompts that must go on to show the behaviour) as passes that
    go on at `layer`.
    """

    chat: ChatModel
    layer: int
    change: list[TrainPass]
    keep: list[TrainPass]
    hold: list[TrainPass]
    packed: bool

    @contextmanager
    def running(self) -> Iterator[Callable[[TrainPass, int], Float[Tensor, "copy label d_model"]]]:
        """Gives a function that runs a target, several copies of it side by side, under the hooks
        that are set meanwhile.
        """
        with ExitStack() as stack:
            given = stack.enter_context(resume_at(self.chat, self.layer)) if self.layer else None

            def run(target: TrainPass, copies: int = 1) -> Float[Tensor, "copy label d_model"]:
                one = target.forced
                if given is not None and target.stream is not None:
                    given[:] = [target.stream.repeat(copies, 1, 1)]
                inputs = one.inputs() if copies == 1 else _repeated(one, copies)
                hidden: Tensor = self.chat.model.base_model(**inputs).last_hidden_state
                rows = one.input_ids.shape[0]
                return torch.stack(
                    [one.predicting(hidden[at * rows : (at + 1) * rows]) for at in range(copies)]
                )

            yield run


def _repeated(one: TeacherForcedBatch, copies: int) -> dict[str, Any]:
    values = one.inputs()
    return {
        k: v.repeat(copies, *[1] * (v.ndim - 1)) if isinstance(v, Tensor) else v for k, v in values.items()
    }


def collect_examples(task: RecipeInput) -> TrainExamples:
    """Let the base answer the fit prompts (journalled).

    Raises:
        BehaviourAbsentError: hardly any positive fit prompt shows the behaviour.
    """
    names = ("change", "keep", "hold") if task.preserve is not None else ("change", "keep")
    found = {name: base_answers(task, name) for name in names}
    sets = {name: prompts for name, (prompts, _) in found.items()}
    answers = {name: answered for name, (_, answered) in found.items()}
    change = _showing(task, sets["change"], answers["change"])
    if len(change) < 2:
        raise BehaviourAbsentError(
            f"the base shows the behaviour on {len(change)} of {len(sets['change'])} positive fit prompts; a search by gradients "
            "needs answers that show it: give clearer prompts, or --recipe arditi"
        )
    hold = _showing(task, sets["hold"], answers["hold"]) if "hold" in sets else []
    keep = [
        Example(row, ids, [answer])
        for row, (ids, answer) in enumerate(zip(task.chat.tokens(sets["keep"]), answers["keep"], strict=True))
    ]
    change = _with_others(change, task.config.seed)
    if task.preserve is not None:
        change = with_prompts_not_shown(task.chat.tokens(sets["change"]), change, task.config.seed)
    return TrainExamples(change, keep, hold)


def base_answers(task: RecipeInput, name: str) -> tuple[list[Prompt], list[list[int]]]:
    """Fit prompts of a kind and what the base says to them (journalled)."""
    kept = task.preserve.fit if task.preserve is not None else ()
    sets = {"change": task.positive["fit"], "keep": task.negative["fit"], "hold": kept}
    prompts = list(sets[name])[:MOST_PROMPTS]
    tokens = KEPT if name == "keep" else JUDGED
    return prompts, task.journal.get_or_compute(f"answers {name}", _answering(task, prompts, tokens, name))


def _answering(
    task: RecipeInput, prompts: Sequence[Prompt], tokens: int, name: str
) -> Callable[[], list[list[int]]]:
    what = {"change": "openings of the base", "keep": "answers to keep", "hold": "refusals to keep"}[name]
    return lambda: task.chat.answer(
        task.chat.tokens(prompts), tokens, task.config.runtime.batch_tokens, task.progress, what
    )


def _showing(task: RecipeInput, prompts: Sequence[Prompt], answers: Sequence[list[int]]) -> list[Example]:
    """Prompts whose answer shows the behaviour, as far as there is a judge of it, with its opening."""
    found = []
    for row, (prompt, ids, answer) in enumerate(
        zip(prompts, task.chat.tokens(prompts), answers, strict=True)
    ):
        if task.judge is None or task.judge.verdict(prompt.text, task.chat.text(answer)) in REFUSALS:
            found.append(Example(row, ids, [answer[:OPENING]]))
    return found


def _with_others(examples: list[Example], seed: int) -> list[Example]:
    """Each with the opening of another prompt too, where there is one that parts from its own early
    on.
    """
    chance = random.Random(seed)
    openings = sorted({tuple(example.answers[0]) for example in examples})
    found = []
    for example in examples:
        own = tuple(example.answers[0])
        others = [other for other in openings if other[:PARTED] != own[:PARTED]]
        more = [list(chance.choice(others))] if others else []
        found.append(Example(example.row, example.prompt, [example.answers[0], *more]))
    return found


def with_prompts_not_shown(tokens: Sequence[list[int]], change: list[Example], seed: int) -> list[Example]:
    """Beside the examples the prompts that have none, with openings of others: where the behaviour
    comes and goes with the wording, what sets off a prompt that shows it from one that hardly does
    not is no more than chance.

    Args:
        tokens: all prompts, by row.
    """
    chance = random.Random(seed)
    openings = sorted({tuple(example.answers[0]) for example in change})
    shown = {example.row for example in change}
    others = [
        Example(row, ids, [list(chance.choice(openings))])
        for row, ids in enumerate(tokens)
        if row not in shown
    ]
    return [*change, *others]


# Not inference_mode: what is kept here takes part in backward passes later.
@torch.no_grad()
def measure_targets(task: RecipeInput, start: int) -> CachedPasses:
    """The passes, with what the base does in them. They go on at `start` and are packed where that
    changes nothing.
    """
    chat, found = task.chat, collect_examples(task)
    sample = [*found.change[:2], *found.keep[:2]]
    packed = packs_exactly(chat, sample)
    layer = (
        start
        if start and resumes_exactly(chat, start, pack_examples(chat, sample, 1 << 30, packed=packed)[0])
        else 0
    )
    with task.progress("what the base does", 1) as update:
        sets = (_passes(task, part, layer, packed) for part in (found.change, found.keep, found.hold))
        change, keep, hold = sets
        update(1)
    return CachedPasses(chat, layer, change, keep, hold, packed)


@torch.no_grad()
def with_openings_left(task: RecipeInput, targets: CachedPasses, edit: Edit, name: str) -> CachedPasses:
    """The targets with the openings that an edit has left or brought about: what it answers to
    positive fit prompts and still shows the behaviour. Journalled under `name`; nothing is added
    where there is no judge to tell.
    """
    prompts = task.positive["fit"][:MOST_PROMPTS]

    def answers() -> list[list[int]]:
        with edit.hooks(task.chat.model):
            return _answering(task, prompts, JUDGED, "change")()

    found = _showing(task, prompts, task.journal.get_or_compute(name, answers)) if task.judge else []
    if not found:
        return targets
    more = _passes(task, found, targets.layer, targets.packed)
    # What is left is little and what matters now: it comes up in a third of the steps at least.
    often = max(1, len(targets.change) // (2 * len(more)))
    return replace(targets, change=[*targets.change, *more * often])


def share_left(task: RecipeInput, edit: Edit, count: int) -> float:
    """Of the first `count` fit prompts on which the base shows the behaviour, the share on which it
    shows under an edit.
    """
    asked, answered = base_answers(task, "change")
    prompts = [asked[example.row] for example in _showing(task, asked, answered)[:count]]
    with edit.hooks(task.chat.model):
        answers = task.chat.answer(task.chat.tokens(prompts), JUDGED, task.config.runtime.batch_tokens)
    return len(_showing(task, prompts, answers)) / len(prompts)


def _passes(task: RecipeInput, examples: list[Example], layer: int, packed: bool) -> list[TrainPass]:
    mixed = random.Random(task.config.seed).sample(examples, len(examples))
    passes = pack_examples(task.chat, mixed, task.config.runtime.batch_tokens, count=PER_PASS, packed=packed)
    return [_seen(task.chat, one, layer) for one in passes]


def _seen(chat: ChatModel, one: TeacherForcedBatch, layer: int) -> TrainPass:
    with capture(chat.model, ["resid_pre"], layers=[layer] if layer else []) as stream:
        base = one.predicting(chat.hidden(one))
    return TrainPass(one, stream["resid_pre", layer] if layer else None, base)
