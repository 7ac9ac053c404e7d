"""The contrast: each prompt set is divided into three splits that share no prompt."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Log, ignore
from vectomy.core.run_config import Contrast, Source
from vectomy.data.prompt_files import clip
from vectomy.data.prompts import Prompt, PromptSource, read_source

__all__ = ["SplitName", "Splits", "split_contrast", "split_preserve"]

SplitName = Literal["fit", "search", "test"]
SPLITS: tuple[SplitName, ...] = ("fit", "search", "test")
# Shares of search and test of a set without splits of its own; at least two prompts each.
SEARCH_SHARE, TEST_SHARE = 0.15, 0.25
FEWEST = 6


@dataclass(frozen=True)
class Splits:
    """The prompts of one side of a contrast. Directions are fitted on `fit`, chosen on `search` and
    reported on `test`.
    """

    fit: tuple[Prompt, ...]
    search: tuple[Prompt, ...]
    test: tuple[Prompt, ...]

    def to_json(self) -> dict[str, list[JsonObject]]:
        return {name: [prompt.to_json() for prompt in getattr(self, name)] for name in SPLITS}


def split_contrast(contrast: Contrast, seed: int = 0, log: Log = ignore) -> tuple[Splits, Splits]:
    """(positive, negative), each in three splits that share no prompt; the same seed gives the same
    splits.

    Raises:
        PromptError: see `read_prompts`; a set with too few prompts, two equal sets, splits or sides
            that overlap.
    """
    sides = []
    for side in ("positive", "negative"):
        own = {split: _read_split(contrast, side, split, log) for split in ("search", "test")}
        sides.append(_cut(side, read_source(getattr(contrast, side), log), own, contrast, seed))
    positive, negative = sides
    keys = [{prompt.key for split in SPLITS for prompt in getattr(side, split)} for side in sides]
    shared = keys[0] & keys[1]
    if shared:
        what = "are the same set" if len(shared) == min(map(len, keys)) else f"share {len(shared)} prompts"
        raise PromptError(
            f"the positive prompts ({contrast.positive.prompts}) and the negative ones "
            f"({contrast.negative.prompts}) {what}, "
            f"for example '{clip(min(shared)[0])}'; give two different sets, or two different system prompts"
        )
    return positive, negative


def split_preserve(contrast: Contrast, seed: int = 0, log: Log = ignore) -> Splits | None:
    """The preserve set (`keep`) in three splits, or None if there is none.

    Raises:
        PromptError: see `read_prompts`; or there are too few prompts, or the splits overlap.
    """
    if contrast.keep is None:
        return None
    own = {split: _read_split(contrast, "keep", split, log) for split in ("search", "test")}
    return _cut("keep", read_source(contrast.keep, log), own, contrast, seed)


def _read_split(contrast: Contrast, side: str, split: str, log: Log) -> PromptSource | None:
    """The source of one split, if it was given separately. It uses the side's system prompt unless
    it has its own.
    """
    source: Source | None = getattr(contrast, f"{side}_{split}")
    if source is not None and source.system is None:
        source = source.model_copy(update={"system": getattr(contrast, side).system})
    return None if source is None else read_source(source, log)


def _cut(
    side: str, fit: PromptSource, own: dict[str, PromptSource | None], contrast: Contrast, seed: int
) -> Splits:
    limit = {"fit": contrast.n_fit, "search": contrast.n_search, "test": contrast.n_test}
    if len(fit.prompts) < (FEWEST if None in own.values() else 2):
        reasons = ", ".join(f"{count} {reason}" for reason, count in fit.left_out.items())
        unused = f" without the rows that are not used ({reasons})" if reasons else ""
        raise PromptError(
            f"the {side} prompts ({fit.source}) are {len(fit.prompts)}{unused}; at least {FEWEST} are needed "
            "for separate fit, search and test splits: add prompts"
        )
    chosen = _use_own_splits(fit) if any(fit.split) else _shuffle_splits(fit, own, limit, seed)
    chosen |= {name: list(read.prompts) for name, read in own.items() if read is not None}
    # By text alone: another system prompt does not make a fitted prompt a new one.
    seen: dict[str, str] = {}
    for name in SPLITS:
        fresh = [prompt for prompt in chosen[name] if prompt.key[0] not in seen]
        if len(fresh) < len(chosen[name]) and not contrast.drop_overlap:
            double = next(prompt for prompt in chosen[name] if prompt.key[0] in seen)
            raise PromptError(
                f"the {side} {name} prompts overlap the {seen[double.key[0]]} prompts in "
                f"{len(chosen[name]) - len(fresh)}, "
                f"for example '{clip(double.text)}'; reported prompts must not have been fitted on. Use "
                "other files, or "
                "--drop-overlap"
            )
        chosen[name] = fresh[: limit[name]]
        if len(chosen[name]) < 2:
            raise PromptError(f"the {side} {name} split has {len(chosen[name])} prompts; give at least 2")
        # A whole split counts as seen, even beyond its limit: it may have been used elsewhere.
        seen |= {prompt.key[0]: name for prompt in fresh}
    return Splits(*(tuple(chosen[name]) for name in SPLITS))


def _use_own_splits(fit: PromptSource) -> dict[str, list[Prompt]]:
    return {
        name: [p for p, split in zip(fit.prompts, fit.split, strict=True) if split == name] for name in SPLITS
    }


def _shuffle_splits(
    fit: PromptSource, own: dict[str, PromptSource | None], limit: dict[str, int], seed: int
) -> dict[str, list[Prompt]]:
    """The splits without a source of their own, cut from one shuffled set."""
    pool = list(fit.prompts)
    # The same seed for both sides: of one set under two system prompts, each text stays in one
    # split.
    random.Random(seed).shuffle(pool)
    chosen = {}
    for name, share in (("test", TEST_SHARE), ("search", SEARCH_SHARE)):
        if own[name] is None:
            count = min(limit[name], max(2, int(len(fit.prompts) * share)))
            chosen[name], pool = pool[:count], pool[count:]
    return {**chosen, "fit": pool}
