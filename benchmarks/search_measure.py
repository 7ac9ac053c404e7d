"""Measure what a search found, ours or Heretic's, by our evaluator on the test prompts. Used by
search.py.

Refusals are judged on 100 greedy tokens, by our judge (docs/judge.md) and, beside it, by counting
as Heretic does. KL is over the base's own 64-token answers to harmless prompts. Only counts are
kept, no answers; what is measured is not measured again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from vectomy.core.jsonl import read_jsonl
from vectomy.core.run_folder import hash_of, sha256_file
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import RefusalJudge
from vectomy.metrics.variants import BaseAnswers, answer_base, evaluate_variant
from vectomy.models import ChatModel, load_model

BATCH_TOKENS = 8192


class Meter:
    """Measures models and edits against one base; the base is loaded when first needed.

    Args:
        prompts: folder with the six sets.
        cache: folder of measurements that are done.
        markers: Heretic's refusal markers, as its own settings have them.
        dtype: that models are measured in; the same for both tools. judged_tokens, answer_tokens:
            tokens of judged answers, and of the base's answers that KL is over.
    """

    def __init__(
        self,
        model: Path,
        prompts: Path,
        cache: Path,
        markers: Sequence[str],
        judged_tokens: int,
        answer_tokens: int,
        dtype: str = "float32",
    ) -> None:
        self.dtype = dtype
        self.model, self.prompts, self.cache, self.markers = model, prompts, cache, markers
        self.judged_tokens, self.answer_tokens = judged_tokens, answer_tokens
        cache.mkdir(parents=True, exist_ok=True)

    @cached_property
    def chat(self) -> ChatModel:
        return load_model(self.model, device="cpu", dtype=self.dtype)

    @cached_property
    def base(self) -> BaseAnswers:
        negative = self.read("test-negative")
        answers = self.chat.answer(self.chat.tokens(negative), self.answer_tokens, BATCH_TOKENS)
        known: dict[str, list[list[int]]] = {"positive": [], "negative": answers}
        return answer_base(
            self.chat, self.read("test-positive"), negative, self.answer_tokens, BATCH_TOKENS, answers=known
        )

    def read(self, name: str) -> list[Prompt]:
        return [Prompt(row["text"]) for row in read_jsonl(self.prompts / f"{name}.jsonl")]

    def of_base(self) -> dict[str, Any]:
        return self._once("base", lambda: self._measure(self.chat))

    def of_edit(self, file: Path, strength: float = 1.0) -> dict[str, Any]:
        """One of our edits, as hooks on the base."""

        def work() -> dict[str, Any]:
            return self._measure(self.chat, Edit.load(file).hooks(self.chat.model, strength=strength))

        return self._once(["edit", sha256_file(file), strength], work)

    def of_model(self, identity: Any, folder: Path) -> dict[str, Any]:
        """A whole model; `identity` is what it was made by, since the folder may be gone when it is
        known already.
        """
        return self._once(
            ["model", identity], lambda: self._measure(load_model(folder, device="cpu", dtype=self.dtype))
        )

    def knows_model(self, identity: Any) -> bool:
        return self._file(["model", identity]).exists()

    def _file(self, identity: Any) -> Path:
        names = [
            f"{split}-{side}" for split in ("fit", "search", "test") for side in ("positive", "negative")
        ]
        sets = [sha256_file(self.prompts / f"{name}.jsonl") for name in names]
        weights = sha256_file(self.model / "model.safetensors")
        key = hash_of(
            [weights, sets, self.judged_tokens, self.answer_tokens, list(self.markers), self.dtype, identity]
        )
        return self.cache / f"{key[:16]}.json"

    def _once(self, identity: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        file = self._file(identity)
        if not file.exists():
            file.write_text(json.dumps(work(), indent=1) + "\n")
        return dict(json.loads(file.read_text()))

    def _measure(self, chat: ChatModel, within: AbstractContextManager[None] | None = None) -> dict[str, Any]:
        base = self.base  # before the edit is on
        with within or nullcontext():
            found = evaluate_variant(
                chat, base, RefusalJudge(), self.judged_tokens, BATCH_TOKENS, form="measured"
            )
        metrics = found.metrics
        return {
            "refusals": metrics.refusal_count,
            "prompts": metrics.refusal_total,
            "interval": metrics.refusal_ci,
            "harmless_refusals": metrics.harmless_refusal_count,
            "degenerate_rate": metrics.degenerate_rate,
            "kl_first_token": metrics.kl_first_token,
            "kl_per_token": metrics.kl_per_token,
            "ce_own_answers": metrics.ce_own_answers,
            **self._count_marked(found.answers["positive"], metrics.refusal_total),
        }

    def _count_marked(self, answers: Sequence[Mapping[str, Any]], total: int) -> dict[str, Any]:
        """Refusals by Heretic's markers; empty without markers, since 0 would be a count."""
        if not self.markers:
            return {}
        marked = sum(is_marked(answer["text"], self.markers) for answer in answers)
        return {"refusals_by_markers": marked, "interval_by_markers": list(wilson_interval(marked, total))}


def is_marked(text: str, markers: Sequence[str]) -> bool:
    """Whether Heretic counts a completion as a refusal: any marker anywhere in the plain lower-case
    text, or no text.
    """
    plain = re.sub(r"\s+", " ", re.sub(r"[\u2018\u2019]", "'", text).replace("*", "")).strip().lower()
    return not plain or any(marker.lower() in plain for marker in markers)


def check_rendering(chat: ChatModel, prompts: Sequence[Prompt], seen: Sequence[Sequence[int]]) -> None:
    """Raise unless every prompt reached the other tool's model as the tokens that ours gets."""
    others = {tuple(ids) for ids in seen}
    missing = [ids for ids in chat.tokens(prompts) if tuple(ids) not in others]
    if missing:
        raise SystemExit(
            f"Heretic saw {len(missing)} of {len(prompts)} prompts as other tokens than vectomy does"
        )
