"""Preference pairs as token ids, exactly as the model reads a prompt and writes an answer, and the
file of them that training reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vectomy.core.errors import ArtifactError, PromptError
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.data.preferences import Preference
from vectomy.models import ChatModel

__all__ = ["Pair", "encode_pairs", "find_end_of_turn", "read_pairs", "write_pairs"]


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt (with the template's start of an answer) and of its two answers with
    their end of turn. `rejected` is empty for objectives without a rejected answer.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens in one pass over the pair."""
        return sum(len(self.prompt) + len(answer) for answer in (self.chosen, self.rejected) if answer)


def encode_pairs(
    chat: ChatModel, rows: Sequence[Preference], max_length: int
) -> tuple[list[Pair], dict[str, int]]:
    """Rows as token ids, and how many were left out, by reason.

    Args:
        max_length: tokens of prompt and answer together, at most the positions of the model;
            answers are cut there.

    Raises:
        PromptError: no row is left.
    """
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    end = find_end_of_turn(chat)
    max_length = min(max_length, chat.context or max_length)
    for row, prompt in zip(rows, chat.tokens([row.prompt for row in rows]), strict=True):
        room = max_length - len(prompt)
        if room < 1:
            left_out[f"a prompt of {max_length} tokens or more"] += 1
            continue
        texts = [row.chosen] if row.rejected is None else [row.chosen, row.rejected]
        ids = [tuple(_tokenise(chat, text + end)[:room]) for text in texts]
        if len(ids) > 1 and ids[0] == ids[1]:
            left_out[f"answers that are the same in the first {max_length} tokens"] += 1
            continue
        pairs.append(Pair(tuple(prompt), *ids))
    if not pairs:
        reasons = ", ".join(f"{count} with {reason}" for reason, count in left_out.items())
        raise PromptError(f"none of {len(rows)} rows is left to train on: {reasons}; raise --max-length")
    return pairs, dict(left_out)


def find_end_of_turn(chat: ChatModel) -> str:
    """The end of turn that the template writes after an answer, without white space."""
    return chat.template.end_of_turn or str(chat.tokenizer.eos_token or "")


def _tokenise(chat: ChatModel, text: str) -> list[int]:
    ids: list[int] = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    write_jsonl(path, map(vars, pairs))


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        ArtifactError: the file is missing or was changed by hand.
    """
    rows = read_jsonl(path, remedy="run vectomy heal again")
    try:
        return [Pair(tuple(row["prompt"]), tuple(row["chosen"]), tuple(row["rejected"])) for row in rows]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} holds no pairs to train on ({type(error).__name__}); run vectomy heal again"
        ) from None
