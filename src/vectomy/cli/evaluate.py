"""`vectomy evaluate SUBJECT...`: models, Edits and adapters side by side on any prompts, with intervals and controls."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.options import Options
from vectomy.cli.progress import bars
from vectomy.cli.run import AsJson
from vectomy.config import parse_evaluation

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
        Path, typer.Option(metavar="DIR", help="Folder for the results; an interrupted evaluation goes on there.")
    ],
    base: Annotated[
        str | None, _option("The model to compare with, where it is not the first.", metavar="MODEL")
    ] = None,
    text: Annotated[
        list[str] | None, _option("A plain text to measure perplexity on; may be repeated.", metavar="FILE")
    ] = None,
    text_tokens: Annotated[int | None, _option("Tokens of each text that are read (8192).")] = None,
    judge: Annotated[str | None, _option("Who says what a refusal is (keywords).")] = None,
    answer_tokens: Annotated[int | None, _option("Greedy tokens per answer (64).")] = None,
    budgets: Annotated[
        str | None, _option("Shorter answers to judge as well, cut from the same ones (32).", metavar="N,N,...")
    ] = None,
    damage_prompts: Annotated[
        int | None, _option("Prompts of each set for KL, cross-entropy and the noise floor: a sample (100).")
    ] = None,
    multi_turn: Annotated[bool | None, _option("Ask a sample of the prompts again after an earlier exchange.")] = None,
    context_tokens: Annotated[int | None, _option("Ask some again behind this many tokens of neutral text.")] = None,
    tool_calls: Annotated[bool | None, _option("Ask for tool calls and check their JSON (yes).")] = None,
    controls: Annotated[
        bool | None, _option("Add a random direction of equal norm, and the base against itself (yes).")
    ] = None,
    limit: Annotated[int | None, _option("At most so many prompts of each set: a sample, the same for all.")] = None,
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
    """Measure models, Edits and adapters side by side: what they refuse, and what else an edit changed, with intervals, paired
    tests, and controls to hold them against."""
    config = parse_evaluation(
        {
            "subjects": subjects, "prompts": prompts, "base": base, "texts": text, "text_tokens": text_tokens, "judge": judge,
            "answer_tokens": answer_tokens, "budgets": None if budgets is None else _numbers(budgets), "damage_prompts": damage_prompts,
            "multi_turn": multi_turn, "context_tokens": context_tokens, "tool_calls": tool_calls, "controls": controls, "limit": limit,
            "seed": seed, "device": device, "dtype": dtype, "batch_tokens": batch_tokens, "thinking": thinking,
            "trust_remote_code": trust_remote_code,
        }
    )  # fmt: skip
    from vectomy.evaluation import evaluate_models

    found = evaluate_models(
        config,
        out,
        command=shlex.join(["vectomy", *sys.argv[1:]]),
        progress=bars,
        tell=lambda line: Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(found, out)


def _numbers(text: str) -> list[str]:
    """Parts of a comma-separated list; the configuration says which are numbers."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _print(found: dict[str, Any], out: Path) -> None:
    """A row for each subject on each set."""
    console = Console()
    for one in found["sets"]:
        table = Table(title=f"{one['name']}: {one['count']} prompts", title_justify="left")
        labels = list(dict.fromkeys(kind["label"] for kind in one["types"] if kind["label"] is not None))
        table.add_column("subject", overflow="fold")
        heads = (
            "refusals",
            *labels,
            "degenerate",
            "lost/gained",
            "p",
            "KL first",
            "KL token",
            "CE",
            "length",
            "repeated",
        )
        for head in heads:
            table.add_column(head, justify="right")
        for subject in found["subjects"]:
            numbers = found["results"][subject["name"]]["sets"][one["name"]]
            groups = [numbers["by_label"].get(label, {}).get("refusal") for label in labels]
            paired = numbers.get("against_base")
            table.add_row(
                subject["name"],
                _rate(numbers["refusal"]),
                *(_rate(group) for group in groups),
                f"{numbers['degenerate']['rate']:.1%}",
                "" if paired is None else f"{paired['lost']}/{paired['gained']}",
                "" if paired is None else f"{paired['p']:.2g}",
                *(_decimal(numbers.get(key)) for key in ("kl_first_token", "kl_per_token", "ce_own_answers")),
                f"{numbers['length_mean']:.0f}",
                f"{numbers['repeated_share']:.1%}",
            )
        console.print(table)
    _print_beside(console, found)
    settings = found["settings"]
    lines = [
        f"base     {found['base']}; lost and gained are prompts that it refuses and the subject does not, and the reverse (McNemar's exact p)",
        f"judge    {found['judge']['name']} {found['judge']['version']}: {found['judge']['note']}; {settings['answer_tokens']} greedy tokens, {settings['dtype']}",
        *(f"note     {subject['name']}: {subject['note']}" for subject in found["subjects"] if subject["note"]),
        f"written  {out}: evaluation.json, completions.jsonl",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def _print_beside(console: Console, found: dict[str, Any]) -> None:
    """What is measured once a subject, where anything is."""
    columns: dict[str, dict[str, str]] = {}
    for name, results in found["results"].items():
        for text, numbers in results.get("perplexity", {}).items():
            columns.setdefault(f"perplexity of {text}", {})[name] = f"{numbers['perplexity']:.2f}"
        for key, head in (("multi_turn", "second turns refused"), ("long_context", "long contexts answered")):
            if key in results:
                columns.setdefault(head, {})[name] = _rate(
                    results[key]["refusal" if key == "multi_turn" else "answered"]
                )
        if "tool_calls" in results:
            columns.setdefault("valid tool calls", {})[name] = _rate(results["tool_calls"]["valid"])
    if not columns:
        return
    table = Table()
    table.add_column("subject", overflow="fold")
    for head in columns:
        table.add_column(head, justify="right")
    for subject in found["subjects"]:
        if any(subject["name"] in column for column in columns.values()):
            table.add_row(subject["name"], *(column.get(subject["name"], "") for column in columns.values()))
    console.print(table)


def _rate(found: dict[str, Any] | None) -> str:
    if not found or found["rate"] is None:
        return "–"
    low, high = found["ci"]
    return f"{found['count']}/{found['total']} ({low * 100:.0f}–{high:.0%})"


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
