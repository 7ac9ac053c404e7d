"""`vectomy direction MODEL`: one direction from a contrast, also for a model larger than memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vectomy.cli.help import MAKE, SectionedCommand
from vectomy.cli.options import SOURCE_HELP, command_of, given_options, run_options
from vectomy.cli.output_folder import write_file
from vectomy.cli.progress_bars import bars
from vectomy.cli.terminal import log_line
from vectomy.cli.vocabulary import AsJson, Model, Overwrite, option, out_option
from vectomy.core.config import MACHINE, SEARCH
from vectomy.core.run_config import make_config

__all__ = ["register"]


FITTED = ("positive", "negative", "n_fit", "behaviour", "estimator", "seed")
RUNTIME = ("device", "dtype", "load_in", "batch_tokens", "threads", "trust_remote_code")
OPTIONS = {name: option for name, option in run_options().items() if name in (*FITTED, *RUNTIME)}
OWN: dict[str, Any] = {
    "model": Model,
    "out": Annotated[Path, out_option("FILE", "a .safetensors file, for `vectomy edit new`.")],
    "layer": Annotated[
        int | None,
        option("--layer", help="Layer whose input is read. [default: at 0.6 of the depth]", panel=SEARCH),
    ],
    "position": Annotated[
        int,
        option("--position", help="Token position, counted from the end of the template.", panel=SEARCH),
    ],
    "layerwise": Annotated[
        Literal["auto", "yes", "no"],
        option(
            "--layerwise",
            help="Read the weights layer by layer; auto does so if the model does not fit into memory.",
            panel=MACHINE,
        ),
    ],
    "overwrite": Overwrite,
    "as_json": AsJson,
}


def register(app: typer.Typer) -> None:
    usual = {
        "model": ...,
        "out": ...,
        "position": -1,
        "layerwise": "auto",
        "overwrite": False,
        "as_json": False,
    }
    command = command_of(_direction, {**OWN, **OPTIONS}, usual)
    app.command("direction", cls=SectionedCommand, rich_help_panel=MAKE, epilog=SOURCE_HELP)(command)


def _direction(values: dict[str, Any]) -> None:
    """Fit one direction on two prompt sets and write it to a file. Works on models larger than
    memory.
    """
    out: Path = values["out"]
    config = make_config(values["model"], given_options(values, OPTIONS), flags=True)
    from vectomy.workflows.direction import find_direction, save_direction
    from vectomy.workflows.named_model import check_base

    check_base(values["model"])

    direction = find_direction(
        config,
        out,
        layer=values["layer"],
        position=values["position"],
        stream=values["layerwise"],
        progress=bars,
        log=log_line,
    )
    out = write_file(
        lambda file, overwrite: save_direction(direction, file, overwrite=overwrite), out, values["overwrite"]
    )
    result = {"direction": str(out), **direction.record}
    if values["as_json"]:
        typer.echo(json.dumps(result, indent=2))
    else:
        typer.echo(
            f"{result['behaviour']} at resid_pre of layer {result['layer']}, length {result['length']:.3g}\n"
            f"written to {out}"
        )
