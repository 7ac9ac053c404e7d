"""What an Edit that was searched on quantised weights does in full precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from vectomy.core.config import LoadIn
from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.json_value import JsonObject
from vectomy.core.ranks import current_ranks
from vectomy.core.results import FormMetrics, RateName
from vectomy.core.run_folder import Journal
from vectomy.metrics.variants import VariantResult, answer_base, evaluate_variant
from vectomy.models import ChatModel, load_model, loaded_bytes, memory_for
from vectomy.models.memory import SHARE
from vectomy.workflows.run_workflow import RunWorkflow

__all__ = ["evaluate_in_full", "explain_transfer", "load_in_full", "measures_in_full"]


def measures_in_full(work: RunWorkflow) -> bool:
    """Whether base and checkpoint are measured in full precision too: the search ran on quantised
    weights, and the others fit into memory.
    """
    runtime = work.runtime
    if runtime.load_in is None or not work.config.bake:
        return False
    free = min(current_ranks().gather(memory_for(runtime.device)))
    return loaded_bytes(work.checkpoint, runtime.dtype, runtime.device) <= SHARE * free


def load_in_full(work: RunWorkflow, form: str) -> ChatModel:
    """The base (`base`) or the edited checkpoint (`baked`) with the weights as they are stored."""
    path, name = {
        "base": (work.source, work.model),
        "baked": (work.folder.file("checkpoint"), "the baked checkpoint"),
    }[form]
    return load_model(path, runtime=work.runtime.model_copy(update={"load_in": None}), name=name)


def evaluate_in_full(work: RunWorkflow, journal: Journal) -> dict[str, VariantResult]:
    """The forms `base_full` and `baked_full`: base and checkpoint in full precision on the test
    prompts, KL from that base. Nothing where they do not fit into memory.
    """
    if not measures_in_full(work):
        return {}
    c = work.config
    limits = (c.answer_tokens, c.runtime.batch_tokens, work.progress)
    positive, negative = (side.test for side in work.splits)
    keep = work.keep.test if work.keep else ()
    chat = load_in_full(work, "base")
    answers = journal.get_or_compute(
        "answers_full", lambda: answer_base(chat, positive, negative, *limits, keep=keep).answers
    )
    base = answer_base(chat, positive, negative, *limits, answers=answers, keep=keep)
    direction = work.edit.main_direction
    results = {}
    for form in ("base", "baked"):
        if form == "baked":
            del chat
            return_freed_memory()
            chat = load_in_full(work, form)
        measure = partial(evaluate_variant, chat, base, work.judge, *limits, form=form, direction=direction)
        value = journal.get_or_compute(f"{form}_full", partial(_write, measure))
        results[f"{form}_full"] = VariantResult(FormMetrics.from_json(value["metrics"]), value["answers"])
    return results


def _write(measure: Callable[[], VariantResult]) -> JsonObject:
    return measure().to_json()


def explain_transfer(
    load_in: LoadIn | None,
    base: FormMetrics,
    forms: Mapping[str, FormMetrics],
    rate: RateName = "refusal",
) -> str | None:
    """A note on what was measured on which weights; None for a run in full precision.

    Args:
        rate: what the edit is to change: for an induced trait, the rate on the negative side.
    """
    if load_in is None:
        return None
    start = f"searched on weights in {load_in}; base, {' and '.join(_columns(forms))} were measured in it too"
    edited = forms.get("baked", forms["hooks"])
    if "baked_full" not in forms:
        return (
            f"{start}, and nothing in full precision: measure the checkpoint on a machine that it fits "
            "(vectomy evaluate BASE RUN)"
        )
    return (
        f"{start} ({_describe(base, edited, rate)}); base_full and baked_full are the weights as they are "
        f"stored ({_describe(forms['base_full'], forms['baked_full'], rate)})"
    )


def _columns(forms: Mapping[str, FormMetrics]) -> list[str]:
    return [form for form in forms if not form.endswith("_full")]


def _describe(base: FormMetrics, edited: FormMetrics, name: RateName) -> str:
    """A rate before and after, and KL from the base, as far as they were measured."""
    rates = [
        f"{rate.count}/{rate.total}" if rate.total else "none judged"
        for rate in (base.rate(name), edited.rate(name))
    ]
    kl = "" if edited.kl_per_token is None else f", KL {edited.kl_per_token:.4f} nats a token"
    return f"{rates[0]} -> {rates[1]}{kl}"
