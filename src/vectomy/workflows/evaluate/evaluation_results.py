"""From measurements to evaluation.json and completions.jsonl (docs/evaluation-json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vectomy.metrics.behaviour import behaviour_of, lengths, refusal_and_degenerate
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.mcnemar import mcnemar
from vectomy.metrics.prompt_set import PromptSet
from vectomy.metrics.tool_calls import ToolPrompt, valid_call
from vectomy.workflows.evaluate.measurements import Completions

__all__ = ["SetResult", "completions", "in_context", "on_set", "tool_calls"]


@dataclass(frozen=True)
class SetResult:
    """A subject on a set: the rows of the prompts that it was asked, and its answers."""

    rows: list[int]
    answered: Completions


def on_set(
    one: PromptSet, subject: SetResult, of: SetResult | None, damaged: Mapping[str, float] | None
) -> dict[str, Any]:
    """A subject's numbers on a set.

    Args:
        of: the model that it is compared with, on the whole set.
        damaged: KL and cross-entropy; None where the two share no tokenizer, so that neither KL nor
            lengths can be compared.
    """
    said = lengths(subject.answered.tokens, subject.answered.whole[0])
    found = {**behaviour_of([one.rows[row] for row in subject.rows], subject.answered.judged), **said}
    if damaged is not None:
        found |= damaged
    if of is not None:
        judged = of.answered.whole[1]
        before = [judged[row].refuses for row in subject.rows]
        found["against_base"] = mcnemar(before, [one.refuses for one in subject.answered.whole[1]])
        theirs = [of.answered.tokens[row] for row in subject.rows]
        ratio = said["length_mean"] / (sum(map(len, theirs)) / len(theirs))
        found["length_ratio"] = ratio if damaged is not None else None
    return found


def in_context(answered: Completions) -> dict[str, Any]:
    judged = answered.whole[1]
    complied = rate_of(not one.refuses and not one.degenerate for one in judged)
    return {**refusal_and_degenerate(judged), "answered": complied}


def tool_calls(asked: Sequence[ToolPrompt], answered: Completions) -> dict[str, Any]:
    texts = answered.whole[0]
    return {"valid": rate_of(valid_call(text, one.tool) for text, one in zip(texts, asked, strict=True))}


def completions(
    sets: Sequence[PromptSet], answers: Mapping[str, Mapping[str, SetResult]]
) -> list[dict[str, Any]]:
    """One row per prompt with the answer of each subject; `answers` by subject and set."""
    found = []
    for one in sets:
        said: list[dict[str, Any]] = [{} for _ in one.rows]
        for subject, by_set in answers.items():
            held = by_set[one.name]
            for at, text, judged in zip(held.rows, *held.answered.whole, strict=True):
                said[at][subject] = {"text": text, "verdict": judged.verdict, "p_refusal": judged.p_refusal}
        for row, by_subject in zip(one.rows, said, strict=True):
            prompt = row.prompt.to_json()
            about = {"set": one.name, "type": row.type, "label": row.label, "prompt": prompt["text"]}
            history = {"history": prompt["history"]} if "history" in prompt else {}
            found.append({**about, **history, "answers": by_subject})
    return found
