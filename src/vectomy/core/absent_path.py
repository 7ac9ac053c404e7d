"""What is said of a model, an Edit or a run that is named and not there. Loads no torch, so that a
command says it at once.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from vectomy.core.errors import ArtifactError, CheckpointError, EditError
from vectomy.core.repo_name import split_revision
from vectomy.core.suggestions import suggest_path

__all__ = [
    "check_edit_exists",
    "check_model_exists",
    "check_run_exists",
    "explain_absent_edit",
    "explain_absent_folder",
    "explain_absent_run",
    "is_local",
]

# Built by models/demo.py.
DEMOS = ("demo", "demo-base")


def is_local(model: str) -> bool:
    """Whether `model` names a local folder: it exists, or it is not written as OWNER/NAME or
    OWNER/NAME@REVISION.
    """
    name, _ = split_revision(model)
    path = name.count("/") != 1 or name.startswith((".", "/", "~")) or PureWindowsPath(name).drive != ""
    return path or Path(model).expanduser().exists()


def check_model_exists(name: str) -> None:
    """Check that a model is there, or may be on the Hub.

    Raises:
        CheckpointError: it is a path, and nothing is there.
    """
    if name in DEMOS or not is_local(name) or _is_there(name):
        return
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        raise CheckpointError(f"the GGUF file {path} does not exist")
    raise CheckpointError(f"{explain_absent_folder(path)}, or OWNER/NAME on the Hub")


def check_edit_exists(name: str) -> None:
    """Check that an Edit is there, or may be on the Hub.

    Raises:
        EditError: it is a path, and nothing is there.
    """
    path = Path(name).expanduser()
    if name in DEMOS or path.suffix == ".gguf" or _is_there(name):
        return
    if is_local(name) or path.suffix == ".safetensors":
        raise EditError(explain_absent_edit(path))


def check_run_exists(name: str | Path) -> None:
    """Raises ArtifactError where nothing is there."""
    if not _is_there(str(name)):
        raise ArtifactError(explain_absent_run(Path(name)))


def explain_absent_folder(path: Path) -> str:
    """Of a model."""
    return (
        f"the model folder {path} does not exist{suggest_path(path)}; give a folder with config.json and "
        "*.safetensors"
    )


def explain_absent_edit(path: Path) -> str:
    """Of an Edit."""
    return (
        f"the Edit file {path} does not exist{suggest_path(path)}; give an Edit file, or the folder of a "
        "finished run"
    )


def explain_absent_run(path: Path) -> str:
    """Of a run."""
    return f"{path} does not exist; give the folder of a finished run, the --out of `vectomy run`"


def _is_there(name: str) -> bool:
    # A link to nothing has an error of its own.
    return os.path.lexists(os.path.expanduser(name))
