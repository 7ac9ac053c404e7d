"""The training pairs of healing: preference rows of a source, or the models' own answers, as token
ids. No prompt that is measured on is among them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from vectomy.core.errors import PromptError
from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.progress import Log, Progress, ignore
from vectomy.core.run_config import Source
from vectomy.data.preferences import Preferences, read_preferences
from vectomy.data.prompts import Prompt, read_unmeasured
from vectomy.healing.heal_config import OWN, HealConfig
from vectomy.healing.own_answers import pair_own_answers
from vectomy.healing.pairs import Pair, encode_pairs
from vectomy.metrics.prompt_set import sample
from vectomy.models import ChatModel, check_lengths, load_model

__all__ = ["HELD_OUT", "build_training_pairs", "list_own_prompts", "load_for"]

HELD_OUT = "a prompt that is measured on"
TIMED_TOKENS = 512


def load_for(config: HealConfig, path: Path, name: str) -> ChatModel:
    return load_model(path, runtime=config.runtime, name=name)


def build_training_pairs(
    config: HealConfig,
    base: Path,
    edited: Path,
    measured: Sequence[Prompt],
    progress: Progress,
    log: Log = ignore,
) -> tuple[list[Pair], Preferences, float]:
    """The pairs, the same as text with the count of rows left out, and the seconds per token of a
    forward pass of the edited model.

    Raises:
        PromptError: the source cannot be read, or no row is left.
    """
    if config.preferences == OWN:
        pairs, told, chat = _own(config, base, edited, measured, progress, log)
    else:
        read = read_preferences(
            config.preferences, paired=config.paired, limit=config.limit, seed=config.seed
        )
        told = read.without(measured, HELD_OUT)
        if not told.rows:
            raise PromptError(
                f"all {len(read.rows)} rows of {config.preferences} are prompts that are measured on; use "
                "other --positive-test and --negative-test"
            )
        chat = load_for(config, edited, "edited model")
        pairs, left_out = encode_pairs(chat, told.rows, config.max_length)
        told = Preferences(told.rows, {**told.left_out, **left_out})
    return pairs, told, _seconds_per_token(chat, pairs)


def list_own_prompts(
    config: HealConfig, measured: Sequence[Prompt], log: Log = ignore
) -> tuple[list[Prompt], int]:
    """The prompts whose answers are learned from, and how many are left out because they are
    measured on (0 where a limit takes a sample).

    Raises:
        PromptError: the source cannot be read, or all its prompts are measured on.
    """
    prompts = read_unmeasured(Source(prompts=config.prompts), log)
    texts = {prompt.key[0] for prompt in measured}
    kept = [prompt for prompt in prompts if prompt.key[0] not in texts]
    kept = [kept[index] for index in sample(len(kept), config.limit, config.seed)]
    if not kept:
        raise PromptError(
            f"all prompts of {config.prompts} are measured on; use other ones to learn from (--prompts SRC)"
        )
    return kept, len(prompts) - len(kept) if config.limit is None else 0


def _own(
    config: HealConfig,
    base: Path,
    edited: Path,
    measured: Sequence[Prompt],
    progress: Progress,
    log: Log,
) -> tuple[list[Pair], Preferences, ChatModel]:
    kept, gone = list_own_prompts(config, measured, log)
    chat = load_for(config, base, "base")
    tokens = chat.tokens(kept)
    check_lengths(chat, kept, tokens, config.own_tokens, log)
    ours = chat.answer(tokens, config.own_tokens, config.runtime.batch_tokens, progress, "base's own answers")
    # Not two models in memory.
    del chat
    return_freed_memory()
    chat = load_for(config, edited, "edited model")
    theirs = None
    if config.paired:
        theirs = chat.answer(
            tokens, config.own_tokens, config.runtime.batch_tokens, progress, "edited model's answers"
        )
    pairs, told = pair_own_answers(chat, kept, ours, theirs)
    return pairs, Preferences(told.rows, {**told.left_out, **({HELD_OUT: gone} if gone else {})}), chat


@torch.inference_mode()
def _seconds_per_token(chat: ChatModel, pairs: Sequence[Pair]) -> float:
    """Timed on a batch like those of training; the second of two passes."""
    rows: list[list[int]] = []
    for pair in pairs:
        rows.append([*pair.prompt, *pair.chosen][:TIMED_TOKENS])
        if sum(map(len, rows)) >= TIMED_TOKENS:
            break
    batch = next(iter(chat.batches(rows, 1 << 30)))
    for _ in range(2):
        began = time.monotonic()
        chat.log_probs(chat.hidden(batch)[:, -1]).cpu()
    return (time.monotonic() - began) / batch.input_ids.numel()
