"""`vectomy report RUN`: print the summary of a finished run."""

from __future__ import annotations

import json

import typer

from vectomy.cli.help import SectionedCommand
from vectomy.cli.vocabulary import AsJson, Run
from vectomy.core.errors import ArtifactError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("report", cls=SectionedCommand)(_report)


def _report(
    run: Run,
    as_json: AsJson = False,
) -> None:
    """Print the summary of a finished run."""
    from vectomy.cli.tables.summary_table import print_summary
    from vectomy.core.run_folder import read_json

    summary = read_json(run / "summary.json")
    if isinstance(summary, dict) and summary.get("format") == "vectomy-trait-summary":
        raise ArtifactError(
            f"{run} was written by an earlier version; bring it up to date with the same command again: "
            f"{summary.get('command') or 'vectomy run MODEL --trait NAME --out DIR'}"
        )
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary, str(run))
