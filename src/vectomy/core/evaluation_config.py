"""The configuration of an evaluation: what `vectomy evaluate` measures. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from vectomy.core.chat_endpoint import split_endpoint
from vectomy.core.choices import ENGINE_NAMES, JudgeName
from vectomy.core.config import (
    EDIT,
    EXPERT,
    PROMPTS,
    JobConfig,
    Panel,
    Runtime,
    validate_config,
)
from vectomy.core.json_value import JsonObject

__all__ = ["EvaluationConfig", "parse_evaluation"]


def _check_engine(value: str) -> str:
    if value in ENGINE_NAMES or split_endpoint(value) is not None:
        return value
    raise ValueError(f"input should be {', '.join(ENGINE_NAMES)} or openai:URL[#MODEL]")


class EvaluationConfig(JobConfig):
    """What `vectomy evaluate` measures, and how."""

    PANEL: ClassVar[Panel] = Panel("Measures")

    subjects: tuple[str, ...] = Field(min_length=1)
    """Models (a folder, a Hub id, `demo`), Edits (a file or a run folder; `@0.25,0.5,1` for
    strengths), PEFT adapter folders and models on a server (openai:URL[#MODEL]), of which only the
    answers are measured. The others are compared with the first model.
    """
    prompts: Annotated[tuple[str, ...], PROMPTS] = Field(min_length=1)
    """Prompts that the models answer: a set as [NAME=]SRC; may be repeated. Rows with `type` and
    `label` are counted by them; rows with `messages` are conversations.
    """
    base: Annotated[str | None, EDIT] = None
    """The unedited model: needed if it is not the first of the subjects."""
    texts: Annotated[tuple[str, ...], PROMPTS] = ()
    """Plain text file on which perplexity is measured; may be repeated."""
    text_tokens: Annotated[int, EXPERT] = Field(8192, ge=2)
    """Maximum number of tokens of each text that are read."""
    gates: tuple[str, ...] = ()
    """A limit for every subject but the base and the controls, as WHAT OP LIMIT:
    'harmful<=0.06', 'xstest.safe<=base', 'kl<=0.01'; may be repeated. Exit status 4 if one is
    missed, 5 if one cannot be told from so few prompts.
    """
    judge: JudgeName = "refusal"
    engine: Annotated[str, AfterValidator(_check_engine)] = "own"
    """What answers the prompts: own (the loaded model), vllm (Edits as LoRA), or a server as
    openai:URL[#MODEL], which then answers for the base. KL and the like need the loaded model.
    """
    requests: Annotated[int, EXPERT] = Field(8, ge=1)
    """Requests that a server has at once."""
    reply_seconds: Annotated[float, EXPERT] = Field(120.0, gt=0)
    """Seconds to wait for a server's reply, before it is asked again."""
    answer_tokens: int = Field(64, ge=1)
    """Greedy tokens in each answer."""
    budgets: Annotated[tuple[int, ...], EXPERT] = (32,)
    """Shorter lengths at which the same answers are cut and judged too."""
    damage_prompts: Annotated[int, EXPERT] = Field(100, ge=1)
    """Prompts of each set for KL, cross-entropy and the noise floor: a seeded sample."""
    multi_turn: bool = False
    """Ask a sample of the prompts again after an earlier exchange."""
    context_tokens: int = Field(0, ge=0)
    """Ask a sample again after this many tokens of neutral text; 0 is off."""
    tool_calls: bool = True
    """Ask for tool calls and check their JSON."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness: suites (open-llm-leaderboard, nous, quick, example), task
    names or task files, separated by commas; may be repeated. `example` needs no network.
    """
    task_limit: int | None = Field(None, ge=1)
    """Maximum number of documents of each task: the first ones."""
    task_batch: Annotated[int, EXPERT] = Field(8, ge=1)
    """Requests of a task in one forward pass; lower it when memory is short."""
    controls: bool = True
    """Add a random direction of equal norm, and the base against itself."""
    limit: Annotated[int | None, PROMPTS] = Field(None, ge=1)
    """Maximum number of rows: a seeded sample of each set of prompts, the same for all subjects."""
    seed: int = Field(0, ge=0)
    """Random seed: of the samples and of the random direction."""
    runtime: Runtime = Runtime(batch_tokens=16384)

    @property
    def all_budgets(self) -> list[int]:
        """The shorter budgets and the whole answer, ascending."""
        return sorted(
            {budget for budget in self.budgets if 0 < budget < self.answer_tokens} | {self.answer_tokens}
        )


def parse_evaluation(values: JsonObject, typed: Mapping[str, str] | None = None) -> EvaluationConfig:
    """Check the values of an evaluation; None counts as not given.

    Args:
        typed: what a person typed for a key (`texts`: `--text`), for the error.

    Raises:
        ConfigError: see `validate_config`.
    """
    given = {name: value for name, value in values.items() if value is not None}
    return validate_config(EvaluationConfig, given, typed)
