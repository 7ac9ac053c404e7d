"""Arguments and options that several commands share: one name, one meaning.

The first clause of a help text is the meaning of the name; what follows a colon or a period is the
command's own. A test compares the first clauses over all commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vectomy.core.config import EDIT, EXPERT, MACHINE, OUTPUT, LoadIn, Panel, Runtime, validate_config
from vectomy.core.threads import use_threads

__all__ = [
    "EDIT",
    "MEASURES",
    "PUBLISHED",
    "AsJson",
    "ConfigFile",
    "Device",
    "DryRun",
    "Edit",
    "EditOption",
    "Embeddings",
    "LoadInOption",
    "Model",
    "Overwrite",
    "Run",
    "ThreadCount",
    "TrustRemoteCode",
    "Yes",
    "base_option",
    "direction_option",
    "option",
    "out_option",
    "point_option",
    "strength_option",
]

PUBLISHED = Panel("Hub")
MEASURES = Panel("Measures")

DEVICES = "auto|cpu|cuda|cuda:N|mps"
MODEL_HELP = "The unedited model: a folder, a Hub id, a GGUF file, or `demo`."
EDIT_HELP = "The Edit: its file, the folder of a run, checkpoint or adapter that holds one, or a Hub id."


def option(*flags: str, help: str, panel: Panel, **more: Any) -> Any:
    """A typer option in a section of the help. A default in the signature is shown."""
    return typer.Option(*flags, help=help, rich_help_panel=panel.name, **more)


def out_option(metavar: str, detail: str) -> Any:
    """`--out`: where a command writes."""
    return option("--out", help=f"Where the result is written: {detail}", panel=OUTPUT, metavar=metavar)


def base_option(detail: str, metavar: str = "MODEL") -> Any:
    """`--base`: the unedited model, where MODEL is not it or another argument does not name it."""
    return option("--base", help=f"The unedited model: {detail}", panel=EDIT, metavar=metavar)


def strength_option(detail: str) -> Any:
    """`--strength`: a factor of the Edit's own strengths."""
    return option("--strength", help=f"Strength of the edit: {detail}", panel=EDIT)


def point_option(detail: str) -> Any:
    """`--point`: one of the edits that a run measured."""
    return option(
        "--point", help=f"Point of the run, as `vectomy pick` lists it: {detail}", panel=EDIT, metavar="POINT"
    )


def direction_option(detail: str) -> Any:
    """`--direction`: a direction of the user's own."""
    text = f"A direction (.npy, .safetensors with the tensor `direction`, or random:SEED): {detail}"
    return option("--direction", help=text, panel=EDIT, metavar="FILE|random:SEED")


def _use_threads(value: str) -> str:
    runtime = validate_config(Runtime, {"threads": value}, {"threads": "--threads"})
    use_threads(runtime.threads)
    return value


Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Edit = Annotated[str, typer.Argument(metavar="EDIT", help=EDIT_HELP)]
EditOption = Annotated[str, option("--edit", help=EDIT_HELP, panel=EDIT, metavar="EDIT")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
Embeddings = Annotated[
    bool,
    option("--embeddings/--no-embeddings", help="Edit token and position embeddings too.", panel=OUTPUT),
]
ConfigFile = Annotated[
    Path | None,
    option(
        "--config", help="A .toml or .json configuration; options override it.", panel=EXPERT, metavar="FILE"
    ),
]
Overwrite = Annotated[
    bool,
    option("--overwrite", help="Replace finished results of other settings.", panel=OUTPUT),
]
Yes = Annotated[bool, option("--yes", help="Ask no questions.", panel=OUTPUT)]
DryRun = Annotated[
    bool,
    option("--dry-run", help="Change nothing: show what would be read and written.", panel=OUTPUT),
]
AsJson = Annotated[bool, option("--json", help="Print JSON instead of text.", panel=OUTPUT)]
Device = Annotated[
    str,
    option(
        "--device",
        help=str(Runtime.model_fields["device"].description),
        panel=MACHINE,
        metavar=DEVICES,
    ),
]
LoadInOption = Annotated[
    LoadIn | None,
    option(
        "--load-in",
        help=" ".join(str(Runtime.model_fields["load_in"].description).split()),
        panel=MACHINE,
    ),
]
"""Of commands without a configuration."""
ThreadCount = Annotated[
    str,
    option(
        "--threads",
        help=" ".join(str(Runtime.model_fields["threads"].description).split()),
        panel=MACHINE,
        metavar="auto|N",
        callback=_use_threads,
    ),
]
"""Of commands without a configuration; it takes effect when it is read."""
TrustRemoteCode = Annotated[
    bool,
    option(
        "--trust-remote-code/--no-trust-remote-code",
        help="Run Python code that the model's folder contains.",
        panel=EXPERT,
    ),
]
