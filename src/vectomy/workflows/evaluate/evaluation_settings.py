"""What the results of an evaluation depend on, from its parts or from an evaluation.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.run_folder import hash_of
from vectomy.core.settings_change import RunSettings
from vectomy.metrics.judges import Judge
from vectomy.metrics.lm_eval.harness import HarnessTask
from vectomy.metrics.prompt_set import PromptSet
from vectomy.workflows.evaluate.subjects import Subject

__all__ = ["make_settings", "parse_earlier_settings"]

# Settings that are compared by what they stand for, and settings that change no result.
LISTS = {"subjects", "prompts", "base", "texts", "judge", "budgets", "tasks", "engine"}
IGNORED = {
    "gates",
    "batch_tokens",
    "max_memory",
    "tensor_parallel",
    "threads",
    "trust_remote_code",
    "task_batch",
    "requests",
    "reply_seconds",
}


def make_settings(
    config: EvaluationConfig,
    judge: Judge,
    subjects: Sequence[Subject],
    sets: Sequence[PromptSet],
    texts: Mapping[str, str],
    tasks: Sequence[HarnessTask],
    engine: str,
) -> RunSettings:
    """The settings of an evaluation. More subjects, sets, texts and tasks replace no results."""
    values = config.model_dump(mode="json", exclude=LISTS | IGNORED)
    values |= {
        "budgets": config.all_budgets,
        "judge": f"{judge.name} {judge.version}",
        "base": subjects[0].name,
        "engine": engine,
    }
    return RunSettings(
        values,
        {
            **{f"the subject {subject.name}": subject.sha256 for subject in subjects},
            **{f"the prompts {item.name}": item.sha256 for item in sets},
            **{f"the text {name}": hash_of(text) for name, text in texts.items()},
            **{f"the task {task.name}": "" for task in tasks},
        },
        grows=True,
    )


def parse_earlier_settings(evaluation: Any) -> RunSettings:
    """The settings that an evaluation.json records, where there is no settings.json."""
    judge = evaluation["judge"]
    values = {"base": evaluation["base"], "judge": f"{judge['name']} {judge['version']}"}
    kinds = {"subject": evaluation["subjects"], "prompts": evaluation["sets"]}
    return RunSettings(
        {**evaluation["settings"], **values},
        {f"the {kind} {row['name']}": row["sha256"] for kind, rows in kinds.items() for row in rows},
    )
