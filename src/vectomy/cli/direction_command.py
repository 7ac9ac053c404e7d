"""`vectomy direction MODEL`: one direction from a contrast, also for a model larger than memory."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vectomy.cli.options import Model, Options
from vectomy.cli.progress_bars import bars
from vectomy.cli.run_command import AsJson
from vectomy.core.config import make_config

__all__ = ["register"]


class Loading(StrEnum):
    auto = "auto"
    yes = "yes"
    no = "no"


def register(app: typer.Typer) -> None:
    app.command("direction")(_direction)


def _direction(
    model: Model,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The .safetensors file to write, for `edit new --direction`.")
    ],
    positive: Options.positive = None,
    negative: Options.negative = None,
    n_fit: Options.n_fit = None,
    behaviour: Options.behaviour = None,
    estimator: Options.estimator = None,
    layer: Annotated[
        int | None, typer.Option(help="The block whose input is read (0.6 of the depth).", show_default=False)
    ] = None,
    position: Annotated[int, typer.Option(help="Token, counted from the end of the template.")] = -1,
    stream: Annotated[
        Loading, typer.Option(help="Read the model block by block; auto: if it does not fit into memory.")
    ] = Loading.auto,
    seed: Options.seed = None,
    device: Options.device = None,
    dtype: Options.dtype = None,
    batch_tokens: Options.batch_tokens = None,
    trust_remote_code: Options.trust_remote_code = None,
    as_json: AsJson = False,
) -> None:
    """Fit one direction on a contrast and write it to a file; works block by block on a model
    larger than memory.
    """
    given = {
        "positive": positive,
        "negative": negative,
        "n_fit": n_fit,
        "behaviour": behaviour,
        "estimator": estimator,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "batch_tokens": batch_tokens,
        "trust_remote_code": trust_remote_code,
    }
    config = make_config(model, {name: value for name, value in given.items() if value is not None})
    from vectomy.workflows.direction import fit_direction

    found = fit_direction(
        config,
        out,
        layer=layer,
        position=position,
        stream=stream.value,
        progress=bars,
        log=lambda line: Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        typer.echo(
            f"{found['behaviour']} at resid_pre of layer {found['layer']}, length {found['length']:.3g}\nwritten to {out}"
        )
