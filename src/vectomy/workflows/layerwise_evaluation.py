"""The evaluation of a run whose model is read block by block: by teacher forcing.

The base answers the test prompts with few tokens. What the edited model does is told from the
openings of the base's refusals (search/opening_shares.py) and from KL on the base's own answers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vectomy.core.config import BatchTokens
from vectomy.core.ranks import current_ranks
from vectomy.core.run_folder import read_json
from vectomy.core.types import Vector
from vectomy.metrics.judges import refuses
from vectomy.metrics.set_separation import separation
from vectomy.metrics.variants import (
    BaseAnswers,
    VariantResult,
    answer_base,
    evaluate_variant,
    force_variant,
)
from vectomy.models import ChatModel
from vectomy.search.opening_shares import OpeningEvaluator
from vectomy.workflows.run_stages import get_or_evaluate, write_evaluation
from vectomy.workflows.run_workflow import RunWorkflow

__all__ = ["run_layerwise_evaluate"]


def run_layerwise_evaluate(work: RunWorkflow) -> None:
    """Measure the base and the Edit, as hooks and baked, on the test prompts."""
    c, journal = work.config, work.folder.journal("evaluate")
    positive, negative = (side.test for side in work.splits)
    tokens = c.runtime.batch_tokens
    limits = (c.answer_tokens, tokens, work.progress)
    answers = journal.get_or_compute(
        "answers", lambda: answer_base(work.chat, positive, negative, *limits).answers
    )
    base = answer_base(work.chat, positive, negative, *limits, answers=answers)
    chosen = read_json(work.folder.file("scores.json"))["chosen"]
    place = (chosen["site"], chosen["layer"], chosen["position"])
    direction = work.edit.main_direction
    result = get_or_evaluate(
        journal,
        "base",
        lambda: evaluate_variant(work.chat, base, work.judge, *limits, form="base", direction=direction),
    )
    forms = {"base": result}
    openings = _open_evaluator(work, base)
    measure = partial(_measure, base, openings, direction, tokens)
    with work.edit.hooks(work.chat.model):
        forms["hooks"] = get_or_evaluate(journal, "hooks forced", partial(measure, lambda: work.chat))
    apart = separation(work.chat, direction, *place, positive, negative, tokens)
    work.free()
    if c.bake:
        load = partial(work.load, work.folder.file("checkpoint"), "the baked checkpoint")
        forms["baked"] = get_or_evaluate(journal, "baked forced", partial(measure, load))
    current_ranks().on_first(partial(write_evaluation, work.folder, apart, base, forms))


def _open_evaluator(work: RunWorkflow, base: BaseAnswers) -> OpeningEvaluator:
    texts = [work.chat.text(answer) for answer in base.answers["positive"]]
    shows = [
        refuses(work.judge.verdict(prompt.text, text))
        for prompt, text in zip(base.positive, texts, strict=True)
    ]
    return OpeningEvaluator(work.chat, base.positive, base.answers["positive"], shows, packed=False)


def _measure(
    base: BaseAnswers,
    openings: OpeningEvaluator,
    direction: Vector,
    batch_tokens: BatchTokens,
    open_model: Callable[[], ChatModel],
) -> VariantResult:
    """A model in its current state: under an edit's hooks, or baked."""
    chat = open_model()
    kept = openings.kept_by(chat)
    return force_variant(
        chat, base, openings.leaves(kept), list(kept.values()), batch_tokens, direction=direction
    )
