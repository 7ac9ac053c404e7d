"""Preference rows as token ids, exactly as the model reads a prompt and writes an answer; kept as a
file that training reads.
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

__all__ = ["Pair", "closing", "encode", "read_pairs", "write_pairs"]

SENTINEL = "vectomyanswer"


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt (with what the template puts in front of an answer), and of its answers
    with their end of turn.

    `rejected` is empty where only the chosen answer is learned.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens that one pass over the pair reads."""
        return sum(len(self.prompt) + len(answer) for answer in (self.chosen, self.rejected) if answer)


def encode(chat: ChatModel, rows: Sequence[Preference], max_length: int) -> tuple[list[Pair], dict[str, int]]:
    """Rows as token ids, answers cut at `max_length` tokens in all; and how many were left out, by
    reason.

    Raises:
        PromptError: none is left.
    """
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    end = closing(chat)
    for row, prompt in zip(rows, chat.tokens([row.prompt for row in rows]), strict=True):
        room = max_length - len(prompt)
        if room < 1:
            left_out[f"a prompt of {max_length} tokens or more"] += 1
            continue
        texts = [row.chosen] if row.rejected is None else [row.chosen, row.rejected]
        ids = [tuple(_ids(chat, text + end)[:room]) for text in texts]
        if len(ids) > 1 and ids[0] == ids[1]:
            left_out[f"answers that are the same in the first {max_length} tokens"] += 1
            continue
        pairs.append(Pair(tuple(prompt), *ids))
    if not pairs:
        raise PromptError(
            f"none of {len(rows)} rows is left to train on: {', '.join(f'{n} with {why}' for why, n in left_out.items())}; raise "
            "--max-length"
        )
    return pairs, dict(left_out)


def closing(chat: ChatModel) -> str:
    """What the template writes behind an answer: its end of turn, without the space up to the next
    one.
    """
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": SENTINEL}]
    text = str(chat.tokenizer.apply_chat_template(turns, tokenize=False))
    behind = text.rpartition(SENTINEL)[2].strip() if SENTINEL in text else ""
    return behind or str(chat.tokenizer.eos_token or "")


def _ids(chat: ChatModel, text: str) -> list[int]:
    ids: list[int] = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    write_jsonl(path, map(vars, pairs))


def read_pairs(path: Path) -> list[Pair]:
    """Raises ArtifactError for a file that is missing or was changed by hand."""
    rows = read_jsonl(path, remedy="run vectomy heal again")
    try:
        return [Pair(tuple(row["prompt"]), tuple(row["chosen"]), tuple(row["rejected"])) for row in rows]
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path} holds no pairs to train on ({type(error).__name__}); run vectomy heal again"
        ) from None
