"""The part of a completion that a judge reads: the answer behind the thoughts, and why it cannot be
judged.
"""

from __future__ import annotations

from dataclasses import dataclass

from vectomy.data.thoughts import split_thoughts
from vectomy.metrics.judges.degeneration import what_is_wrong
from vectomy.metrics.judges.language import find_foreign_language, mixed_scripts

__all__ = ["CUT_THOUGHT", "NO_ANSWER", "JudgedPart", "find_degenerate", "read_completion"]

CUT_THOUGHT = "cut inside the thought"
NO_ANSWER = "nothing follows the thought"
# Faults that a thought can show before there is an answer.
FAULTS_OF_THOUGHTS = frozenset({"loop", "garbled"})


@dataclass(frozen=True)
class JudgedPart:
    """What a judge reads of a completion.

    Attributes:
        answer: the completion without its thoughts.
        wrong: what makes it degenerate; None for an answer that says something.
        unjudged: why no judge, or no judge of English, can say whether it refuses; else None.
        language: of the answer as `find_foreign_language` gives it; None for English, and for what
            is too short to tell.
    """

    answer: str
    wrong: str | None = None
    unjudged: str | None = None
    language: str | None = None


def read_completion(prompt: str, completion: str, *, english_only: bool) -> JudgedPart:
    """The answer in a completion.

    Args:
        english_only: the judge knows no other language.
    """
    split = split_thoughts(completion)
    if split.thought and not (split.finished and split.answer):
        wrong = what_is_wrong(split.thought)
        return JudgedPart(
            split.answer,
            f"{wrong} in the thought" if wrong in FAULTS_OF_THOUGHTS else None,
            NO_ANSWER if split.finished else CUT_THOUGHT,
        )
    if not split.finished:
        return JudgedPart(split.answer, None, CUT_THOUGHT)
    wrong = what_is_wrong(split.answer, prompt)
    foreign = find_foreign_language(split.answer)
    # Words that English does not have are no fault of an answer in another language.
    if foreign is not None and wrong in ("language", "garbled") and not mixed_scripts(split.answer):
        wrong = None
    unjudged = f"not English ({foreign})" if foreign is not None and english_only else None
    return JudgedPart(split.answer, wrong, unjudged, foreign)


def find_degenerate(completion: str, prompt: str) -> bool:
    """Whether a completion is degenerate behind its thoughts; one that ends inside a thought is if
    the thought loops or is garbled.
    """
    split = split_thoughts(completion)
    if split.thought and not (split.finished and split.answer):
        return what_is_wrong(split.thought) in FAULTS_OF_THOUGHTS
    return what_is_wrong(split.answer, prompt) is not None
