"""The base, the edited model and the healed one on the same held-out prompts, one model in memory
at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress
from vectomy.data.prompts import Prompt
from vectomy.healing.heal_config import HealConfig
from vectomy.metrics.behaviour import lengths
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.judges import Judge
from vectomy.metrics.lm_eval.capability import measure_capability
from vectomy.metrics.verdicts import JudgedAnswers, judge_all
from vectomy.models import ChatModel
from vectomy.workflows.heal.heal_examples import load_for

__all__ = ["MODELS", "TestSets", "measure_all"]

MODELS = ("before edit", "after edit", "after healing")


@dataclass(frozen=True)
class TestSets:
    """Prompts on which the base shows the behaviour, and harmless ones. Neither was trained on."""

    positive: tuple[Prompt, ...]
    negative: tuple[Prompt, ...]

    @property
    def sides(self) -> dict[str, tuple[Prompt, ...]]:
        return {"positive": self.positive, "negative": self.negative}

    @property
    def prompts(self) -> list[Prompt]:
        return [*self.positive, *self.negative]


@dataclass
class _AnswersOfModel:
    """Answers and judgements of one model, by side."""

    tokens: dict[str, list[list[int]]]
    texts: dict[str, list[str]]
    judged: dict[str, list[JudgedAnswers]]


def measure_all(
    folders: Mapping[str, Path],
    sets: TestSets,
    judge: Judge,
    config: HealConfig,
    progress: Progress,
) -> tuple[dict[str, JsonObject], list[JsonObject]]:
    """The numbers by model (MODELS), and every model's answers by prompt.

    KL runs from the base to each, teacher-forced over the base's own answers to the harmless
    prompts; cross-entropy is of the same answers.
    """
    numbers: dict[str, JsonObject] = {}
    seen: dict[str, _AnswersOfModel] = {}
    base: ChatModel | None = None
    hidden: Sequence[Any] = ()
    for name in MODELS:
        chat = load_for(config, folders[name], name)
        seen[name] = _asked(chat, sets, judge, config, progress, name)
        answers = seen[MODELS[0]].tokens["negative"]
        now = answer_hidden(chat, sets.negative, answers, config.runtime.batch_tokens)
        if base is None:
            base, hidden = chat, now
        numbers[name] = {**_counted(seen[name]), **divergence(base, chat, hidden, now, answers)}
        if chat is base:
            # From here on only its head is read.
            chat.drop_blocks()
        del chat
        return_freed_memory()
    if config.tasks is not None:
        del base
        for name, tasks in _capability(folders, config, progress).items():
            numbers[name]["capability"] = tasks
    return numbers, _rows(sets, seen)


def _asked(
    chat: ChatModel, sets: TestSets, judge: Judge, config: HealConfig, progress: Progress, name: str
) -> _AnswersOfModel:
    seen = _AnswersOfModel({}, {}, {})
    for side, prompts in sets.sides.items():
        what = f"{name}, {side} prompts"
        tokens = chat.answer(
            chat.tokens(prompts), config.answer_tokens, config.runtime.batch_tokens, progress, what
        )
        seen.tokens[side] = tokens
        seen.texts[side] = [chat.text(answer) for answer in tokens]
        seen.judged[side] = judge_all(judge, prompts, seen.texts[side])
    return seen


def _counted(seen: _AnswersOfModel) -> JsonObject:
    everything = [one for judged in seen.judged.values() for one in judged]
    return {
        "refusal": rate_of(one.refuses for one in seen.judged["positive"]),
        "harmless_refusal": rate_of(one.refuses for one in seen.judged["negative"]),
        "degenerate": rate_of(one.degenerate for one in everything),
        **lengths(seen.tokens["negative"], seen.texts["negative"]),
        "refused": [one.refuses for one in seen.judged["positive"]],
    }


def _capability(folders: Mapping[str, Path], config: HealConfig, progress: Progress) -> dict[str, JsonObject]:
    """One model in memory at a time; the harness's requests are made once for all of them."""
    assert config.tasks is not None
    models = {name: partial(load_for, config, folders[name], name) for name in MODELS}
    measured = measure_capability(
        models, config.tasks, base=MODELS[0], limit=config.task_limit, progress=progress
    )
    return {name: {task: one.to_json() for task, one in tasks.items()} for name, tasks in measured.items()}


def _rows(sets: TestSets, seen: Mapping[str, _AnswersOfModel]) -> list[JsonObject]:
    return [
        {
            "set": side,
            "prompt": prompt.text,
            "answers": {
                name: {"text": held.texts[side][at], "verdict": held.judged[side][at].verdict}
                for name, held in seen.items()
            },
        }
        for side, prompts in sets.sides.items()
        for at, prompt in enumerate(prompts)
    ]
