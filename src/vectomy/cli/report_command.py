"""`vectomy report RUN`: prints the result of a finished run, healing or evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.vocabulary import AsJson, Run
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import MARK

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("report", cls=SectionedCommand, rich_help_panel=JOB)(_report)


def _report(run: Run, as_json: AsJson = False) -> None:
    """Print the result of a finished run, healing or evaluation."""
    result = _read_result(run)
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    elif result.get("format") == "vectomy-evaluation":
        from vectomy.cli.tables.evaluation_table import print_comparison

        print_comparison(result, str(run))
    elif result.get("format") == "vectomy-healing":
        from vectomy.cli.tables.healing_table import print_healing

        print_healing(result, str(run))
    else:
        from vectomy.cli.tables.summary_table import print_summary

        print_summary(result, str(run))


def _read_result(run: Path) -> JsonObject:
    """summary.json, or evaluation.json.

    Raises:
        ArtifactError: there is none, or an earlier version wrote it.
    """
    from vectomy.core.run_folder import read_json

    file = run / "summary.json"
    if not file.is_file() and (run / "evaluation.json").is_file() and not (run / "config.json").is_file():
        file = run / "evaluation.json"
    if run.exists() and not file.is_file():
        raise ArtifactError(_without_result(run))
    try:
        result = read_json(file)
    except ArtifactError:
        if run.exists():
            raise
        raise ArtifactError(
            f"{run} does not exist; give the folder of a finished run, the --out of `vectomy run`"
        ) from None
    if not isinstance(result, dict):
        raise ArtifactError(f"{file} is no summary of a run; run the command that wrote it again")
    if result.get("format") == "vectomy-trait-summary":
        raise ArtifactError(
            f"{run} was written by an earlier version; bring it up to date with the same command again: "
            f"{result.get('command') or 'vectomy run MODEL --trait NAME --out DIR'}"
        )
    return result


def _without_result(run: Path) -> str:
    """Why a path has no result to print, and what to give instead."""
    from vectomy.workflows.named_model import kind_of, name_resuming

    if (run / MARK).is_file():
        return f"the run in {run} is not finished; resume it with {name_resuming(str(run))}"
    around = next((folder for folder in run.absolute().parents[:2] if (folder / MARK).is_file()), None)
    if around is not None:
        return f"{run} is a part of the run {around}; give that folder"
    if kind_of(str(run)) == "edit":
        return f"{run} is an Edit, not the folder of a run; `vectomy show {run}` shows it"
    return f"{run} is not the folder of a run (no summary.json); give the --out of `vectomy run`"
