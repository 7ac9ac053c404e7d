"""Suites: named lists of lm-evaluation-harness tasks, with the task names of version 0.4.13."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vectomy.core.errors import UsageError

__all__ = ["EXAMPLE", "SUITES", "Wanted", "wanted_tasks"]

EXAMPLE = Path(__file__).parent / "tasks" / "example" / "common_knowledge.yaml"


@dataclass(frozen=True)
class Wanted:
    """One task, or a group of tasks whose documents count together."""

    suite: str
    name: str
    """The name in the harness, or the path of a task file."""
    shots: int | None = None
    """Examples before each question; None keeps the task's own number."""
    limit: int | None = None
    """Most documents; None means all."""

    @property
    def key(self) -> str:
        name = Path(self.name).stem if self.name.endswith((".yaml", ".yml")) else self.name
        return f"{self.suite}/{name}" if self.suite else name


def _suite(name: str, tasks: dict[str, int | None], limit: int | None = None) -> tuple[Wanted, ...]:
    return tuple(Wanted(name, task, shots, limit) for task, shots in tasks.items())


BIGBENCH = (
    "causal_judgment",
    "date_understanding",
    "disambiguation_qa",
    "geometric_shapes",
    "logical_deduction",
    "movie_recommendation",
    "navigate",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects",
)
SUITES: dict[str, tuple[Wanted, ...]] = {
    # The Hub's first leaderboard (2023).
    "open-llm-leaderboard": _suite(
        "open-llm-leaderboard",
        {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0, "winogrande": 5, "gsm8k": 5},
    ),
    # Nous Research: AGIEval, GPT4All's seven, TruthfulQA, and BIG-bench's multiple-choice tasks.
    "nous": _suite(
        "nous",
        {
            "agieval_nous": 0,
            **dict.fromkeys(
                ("arc_challenge", "arc_easy", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande"), 0
            ),
            "truthfulqa_mc1": 0,
            "truthfulqa_mc2": 0,
            **{f"bigbench_{name}_multiple_choice": 0 for name in BIGBENCH},
        },
    ),
    # Minutes on a CPU: our own questions, and 200 of each of three tasks.
    "quick": (
        Wanted("quick", str(EXAMPLE)),
        *_suite("quick", {"arc_easy": 0, "hellaswag": 0, "winogrande": 0}, limit=200),
    ),
    # Needs no network.
    "example": (Wanted("example", str(EXAMPLE)),),
}


def wanted_tasks(text: str) -> list[Wanted]:
    """The tasks in a comma-separated list of suites, task names, task files (.yaml) and folders of
    task files.

    Raises:
        UsageError: two different task files have the same name.
    """
    result: list[Wanted] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        path = Path(name).expanduser()
        if name in SUITES:
            result += SUITES[name]
        elif path.is_dir():
            result += [Wanted("", str(file)) for file in sorted(path.glob("*.yaml"))]
        else:
            result.append(Wanted("", str(path) if path.suffix in (".yaml", ".yml") else name))
    named: dict[str, Wanted] = {}
    for wanted in result:
        if named.setdefault(wanted.key, wanted) != wanted:
            raise UsageError(
                f"two task files are called '{wanted.key}': {named[wanted.key].name}, {wanted.name}; rename "
                "one"
            )
    return list(named.values())
