"""From measurements to evaluation.json and completions.jsonl (docs/evaluation-json.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vectomy.core.json_value import JsonObject
from vectomy.core.results import (
    ConditionNumbers,
    EvaluationCompletion,
    GivenAnswer,
    SetNumbers,
    ToolCallNumbers,
)
from vectomy.metrics.behaviour import behaviour_of, lengths, refusal_and_degenerate
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.judges import JudgeErrors
from vectomy.metrics.mcnemar import mcnemar
from vectomy.metrics.prompt_set import PromptSet
from vectomy.metrics.tool_calls import ToolPrompt, valid_call
from vectomy.metrics.verdicts import JudgedAnswers
from vectomy.workflows.evaluate.measurements import Completions

__all__ = ["SetResult", "list_completions", "summarise_context", "summarise_set", "summarise_tool_calls"]


@dataclass(frozen=True)
class SetResult:
    """A subject on a set: the rows of the prompts that it was asked, and its answers."""

    rows: list[int]
    answered: Completions


def summarise_set(
    prompt_set: PromptSet,
    subject: SetResult,
    baseline: SetResult | None,
    damaged: Mapping[str, float | None] | None,
    errors: JudgeErrors | None = None,
    *,
    same_tokens: bool,
) -> SetNumbers:
    """A subject's numbers on a set.

    Args:
        baseline: the model that it is compared with, on the whole set.
        damaged: KL and cross-entropy; None where the two share no tokenizer.
        same_tokens: whether both are counted in the tokens of one tokenizer, so that lengths can be
            compared.
        errors: of the judge; None if they were not measured.
    """
    answer_lengths = lengths(subject.answered.tokens, subject.answered.whole[0])
    result: JsonObject = {
        **behaviour_of([prompt_set.rows[row] for row in subject.rows], subject.answered.judged, errors),
        **answer_lengths,
    }
    if damaged is not None:
        result |= damaged
    if baseline is not None:
        judged = baseline.answered.whole[1]
        result["against_base"] = _compare_verdicts(
            [judged[row] for row in subject.rows], subject.answered.whole[1]
        )
        theirs = [baseline.answered.tokens[row] for row in subject.rows]
        ratio = answer_lengths["length_mean"] / (sum(map(len, theirs)) / len(theirs))
        result["length_ratio"] = ratio if same_tokens else None
    return SetNumbers.from_json(result)


def _compare_verdicts(before: Sequence[JudgedAnswers], after: Sequence[JudgedAnswers]) -> JsonObject:
    """McNemar's test of refusals, and what became of those that were lost."""
    lost = [
        now.verdict for was, now in zip(before, after, strict=True) if was.refuses and now.refuses is False
    ]
    return {
        **mcnemar([row.refuses for row in before], [row.refuses for row in after]),
        "lost_to_degenerate": lost.count("degenerate"),
        "lost_to_evasion": lost.count("evasion"),
    }


def summarise_context(answered: Completions, tokens: int | None = None) -> ConditionNumbers:
    """Answers after an earlier exchange, or at the end of a text of `tokens` tokens."""
    judged = answered.whole[1]
    numbers = {**refusal_and_degenerate(judged), "answered": rate_of(row.answers for row in judged)}
    return ConditionNumbers.from_json(numbers if tokens is None else {**numbers, "tokens": tokens})


def summarise_tool_calls(asked: Sequence[ToolPrompt], answered: Completions) -> ToolCallNumbers:
    texts = answered.whole[0]
    valid = rate_of(valid_call(text, prompt.tool) for text, prompt in zip(texts, asked, strict=True))
    return ToolCallNumbers.from_json({"valid": valid})


def list_completions(
    sets: Sequence[PromptSet], answers: Mapping[str, Mapping[str, SetResult]]
) -> list[EvaluationCompletion]:
    """One row per prompt with the answer of each subject; `answers` by subject and set."""
    result = []
    for prompt_set in sets:
        by_row: list[dict[str, GivenAnswer]] = [{} for _ in prompt_set.rows]
        for subject, by_set in answers.items():
            set_result = by_set[prompt_set.name]
            for index, text, judged in zip(set_result.rows, *set_result.answered.whole, strict=True):
                by_row[index][subject] = GivenAnswer(
                    text=text, verdict=judged.verdict, p_refusal=judged.p_refusal
                )
        for row, by_subject in zip(prompt_set.rows, by_row, strict=True):
            prompt = row.prompt.to_json()
            about = {"set": prompt_set.name, "type": row.type, "label": row.label, "prompt": prompt["text"]}
            history = {"history": prompt["history"]} if "history" in prompt else {}
            result.append(EvaluationCompletion.from_json({**about, **history, "answers": by_subject}))
    return result
