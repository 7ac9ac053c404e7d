"""`vectomy report RUN`: print the summary of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vectomy.cli.options import AsJson
from vectomy.core.errors import ArtifactError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("report")(_report)


def _report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    as_json: AsJson = False,
) -> None:
    """Print the summary of a finished run."""
    from vectomy.cli.tables.summary_table import print_summary
    from vectomy.core.run_folder import read_json

    summary = read_json(folder / "summary.json")
    if isinstance(summary, dict) and summary.get("format") == "vectomy-trait-summary":
        raise ArtifactError(
            f"{folder} was written by an earlier version; bring it up to date with the same command again: "
            f"{summary.get('command') or 'vectomy run MODEL --trait NAME --out DIR'}"
        )
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        print_summary(summary, str(folder))
