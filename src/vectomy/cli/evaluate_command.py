"""`vectomy evaluate SUBJECT...`: models, Edits and adapters side by side on any prompts, with
intervals and controls.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vectomy.cli.options import Options
from vectomy.cli.progress_bars import bars
from vectomy.cli.run_command import AsJson
from vectomy.core.config import parse_evaluation

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("evaluate")(_evaluate)


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, show_default=False, **more)


def _evaluate(
    subjects: Annotated[
        list[str],
        typer.Argument(
            metavar="SUBJECT...",
            help="Models (a folder, a Hub id, `demo`), Edits (a file or a run folder; `@0.25,0.5,1` for strengths), PEFT adapter "
            "folders. The first model is what all are compared with.",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]SRC",
            help="Prompts to measure on, may be repeated: FILE (.jsonl .json .csv .parquet .txt), OWNER/NAME[:SPLIT] on the Hub, "
            "bundled:refused, bundled:harmless, xstest. Rows with `type` and `label` are counted by them, rows with `messages` are conversations.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for the results; an interrupted evaluation goes on there."),
    ],
    base: Annotated[
        str | None, _option("The model to compare with, where it is not the first.", metavar="MODEL")
    ] = None,
    text: Annotated[
        list[str] | None, _option("A plain text to measure perplexity on; may be repeated.", metavar="FILE")
    ] = None,
    text_tokens: Annotated[int | None, _option("Tokens of each text that are read (8192).")] = None,
    judge: Annotated[
        str | None, _option("Who says what a refusal is (refusal), as `vectomy judge` takes it.")
    ] = None,
    answer_tokens: Annotated[int | None, _option("Greedy tokens per answer (64).")] = None,
    budgets: Annotated[
        str | None,
        _option("Shorter answers to judge as well, cut from the same ones (32).", metavar="N,N,..."),
    ] = None,
    damage_prompts: Annotated[
        int | None, _option("Prompts of each set for KL, cross-entropy and the noise floor: a sample (100).")
    ] = None,
    multi_turn: Annotated[
        bool | None, _option("Ask a sample of the prompts again after an earlier exchange.")
    ] = None,
    context_tokens: Annotated[
        int | None, _option("Ask some again behind this many tokens of neutral text.")
    ] = None,
    tool_calls: Annotated[bool | None, _option("Ask for tool calls and check their JSON (yes).")] = None,
    tasks: Annotated[
        list[str] | None,
        _option(
            "Also run these of the lm-evaluation-harness: open-llm-leaderboard, nous, quick, example (needs no network), names of "
            "its tasks, task files; may be repeated.",
            metavar="SUITE|TASK|FILE.yaml,...",
        ),
    ] = None,
    task_limit: Annotated[
        int | None, _option("At most so many documents of each task, the first ones.")
    ] = None,
    task_batch: Annotated[
        int | None, _option("Requests of a task in one forward pass (8); lower it when memory is short.")
    ] = None,
    controls: Annotated[
        bool | None, _option("Add a random direction of equal norm, and the base against itself (yes).")
    ] = None,
    limit: Annotated[
        int | None, _option("At most so many prompts of each set: a sample, the same for all.")
    ] = None,
    seed: Annotated[int | None, _option("Seed of samples and of the random direction (0).")] = None,
    device: Options.device = None,
    dtype: Options.dtype = None,
    batch_tokens: Annotated[
        int | None, _option("Tokens in one forward pass (16384); lower it when memory is short.")
    ] = None,
    thinking: Options.thinking = None,
    trust_remote_code: Options.trust_remote_code = None,
    as_json: AsJson = False,
) -> None:
    """Measure models, Edits and adapters side by side: what they refuse, and what else an edit
    changed, with intervals, paired tests, and controls to hold them against.
    """
    config = parse_evaluation(
        {
            "subjects": subjects,
            "prompts": prompts,
            "base": base,
            "texts": text,
            "text_tokens": text_tokens,
            "judge": judge,
            "answer_tokens": answer_tokens,
            "budgets": None if budgets is None else _numbers(budgets),
            "damage_prompts": damage_prompts,
            "multi_turn": multi_turn,
            "context_tokens": context_tokens,
            "tool_calls": tool_calls,
            "tasks": tasks,
            "task_limit": task_limit,
            "task_batch": task_batch,
            "controls": controls,
            "limit": limit,
            "seed": seed,
            "device": device,
            "dtype": dtype,
            "batch_tokens": batch_tokens,
            "thinking": thinking,
            "trust_remote_code": trust_remote_code,
        }
    )
    from vectomy.workflows.evaluate.evaluation import evaluate_models

    found = evaluate_models(
        config,
        out,
        command=shlex.join(["vectomy", *sys.argv[1:]]),
        progress=bars,
        log=lambda line: Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        from vectomy.cli.tables.evaluation_table import print_comparison

        print_comparison(found, str(out))


def _numbers(text: str) -> list[str]:
    """Parts of a comma-separated list; the configuration says which are numbers."""
    return [part.strip() for part in text.split(",") if part.strip()]
