"""`vectomy report RUN`: prints the result of a finished run, healing or evaluation."""

from __future__ import annotations

import json

import typer

from vectomy.cli.help import JOB, SectionedCommand
from vectomy.cli.vocabulary import AsJson, Run

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("report", cls=SectionedCommand, rich_help_panel=JOB)(_report)


def _report(run: Run, as_json: AsJson = False) -> None:
    """Print the result of a finished run, healing or evaluation."""
    from vectomy.workflows.stored_result import read_result

    result = read_result(run)
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
