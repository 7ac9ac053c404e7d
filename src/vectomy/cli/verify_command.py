"""`vectomy verify CHECKPOINT --edit EDIT`: whether a checkpoint carries an Edit."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vectomy.cli.help import MEASURE, SectionedCommand
from vectomy.cli.progress_bars import bars
from vectomy.cli.vocabulary import (
    MEASURES,
    AsJson,
    Device,
    EditOption,
    ThreadCount,
    TrustRemoteCode,
    base_option,
    option,
)

__all__ = ["register"]

# Exit status where nothing shows whether the checkpoint carries the Edit.
UNKNOWN = 3


def register(app: typer.Typer) -> None:
    app.command("verify", cls=SectionedCommand, rich_help_panel=MEASURE)(_verify)


def _verify(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="The edited model: a folder, a run (its checkpoint) or a Hub id."
        ),
    ],
    edit: EditOption,
    base: Annotated[
        str | None,
        base_option(
            "partial strengths can only be verified against it. [default: the base that the Edit "
            "names, if it is on this machine]"
        ),
    ] = None,
    run: Annotated[
        bool,
        option("--run/--no-run", help="Run the model and measure its residual stream.", panel=MEASURES),
    ] = True,
    device: Device = "auto",
    seed: Annotated[
        int, option("--seed", help="Random seed: of the texts that are run.", panel=MEASURES)
    ] = 0,
    threads: ThreadCount = "auto",
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure whether a checkpoint carries an Edit: exit status 0 if yes, 1 if no, 3 if unknown."""
    from vectomy.cli.tables.receipt_table import print_receipt
    from vectomy.metrics.verify import verify
    from vectomy.workflows.named_model import open_base, open_edit, open_model

    loaded = open_edit(edit)
    source = None if base is None else open_base(base, bars, trust_remote_code=trust_remote_code)
    receipt = verify(
        open_model(checkpoint, bars, trust_remote_code=trust_remote_code),
        loaded,
        base=source,
        run=run,
        device=device,
        seed=seed,
        trust_remote_code=trust_remote_code,
        progress=bars,
    )
    if as_json:
        typer.echo(json.dumps(receipt.to_json(), indent=2))
    else:
        print_receipt(receipt)
    if receipt.status != "carried":
        raise typer.Exit(1 if receipt.status == "not_carried" else UNKNOWN)
