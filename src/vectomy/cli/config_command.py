"""`vectomy config init` and `vectomy config schema`: a file of settings to fill in, its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vectomy.cli.config_file import PROJECT_FILE
from vectomy.cli.help import JOB, SectionedCommand, SectionedGroup
from vectomy.cli.vocabulary import Overwrite, out_option
from vectomy.core.errors import UsageError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    config = typer.Typer(
        cls=SectionedGroup,
        no_args_is_help=True,
        suggest_commands=False,
        help="Write a file with all settings: `vectomy config init`. `vectomy.toml` in the working folder is "
        "read by run, heal and evaluate.",
    )
    config.command("init", cls=SectionedCommand)(_init)
    config.command("schema", cls=SectionedCommand)(_schema)
    app.add_typer(config, name="config", rich_help_panel=JOB)


def _init(
    out: Annotated[str, out_option("FILE", "a new .toml file; - is stdout.")] = str(PROJECT_FILE),
    overwrite: Overwrite = False,
) -> None:
    """Write a file with every setting of run, heal and evaluate, its meaning and its default. These
    commands read it as vectomy.toml in the working folder, or with --config FILE.
    """
    from vectomy.cli.config_template import write_template
    from vectomy.core.output_path import check_file_output
    from vectomy.core.run_folder import write_whole

    text = write_template()
    if out == "-":
        typer.echo(text, nl=False)
        return
    path = Path(out)
    if path.suffix != ".toml":
        raise UsageError(f"--out {out} is no .toml file; name one, such as {PROJECT_FILE}")
    check_file_output(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists; replace it with --overwrite, or name another file with --out")
    with write_whole(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    typer.echo(f"written to {path}")


def _schema() -> None:
    """Print the JSON schema of vectomy.toml, for editors and checks."""
    from vectomy.cli.config_template import make_schema

    typer.echo(json.dumps(make_schema(), indent=2))
