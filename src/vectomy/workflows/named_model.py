"""Models and Edits by the name that a person gives: RUN, EDIT, CHECKPOINT, ADAPTER, GGUF, Hub id
or `demo`.
"""

from __future__ import annotations

from pathlib import Path

from vectomy.core.errors import EditError, UsageError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import MARK
from vectomy.edits.edit import Edit
from vectomy.hub.download import download
from vectomy.hub.provenance import edit_in
from vectomy.models import is_local, probe_architecture
from vectomy.models.demo import model_folder

__all__ = ["open_edit", "open_model"]

NAMED = ("demo", "demo-base")


def open_model(name: str, progress: Progress = silent) -> Path:
    """The folder of a model; a run stands for its edited checkpoint.

    Raises:
        UsageError: an Edit, an adapter, or a run without a checkpoint: no whole model.
        CheckpointError: the model is not available.
    """
    folder = model_folder(name if name in NAMED else _model_in(name), progress)
    probe_architecture(folder, progress=progress)
    return folder


def _model_in(name: str) -> str:
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".safetensors":
        raise UsageError(
            f"{name} is a file of tensors, not a model; `vectomy apply EDIT MODEL --out DIR` writes an Edit into a checkpoint"
        )
    if (path / "adapter_config.json").is_file():
        raise UsageError(
            f"{name} is an adapter, not a whole model; `vectomy apply {name} MODEL --out DIR` writes its Edit into a checkpoint"
        )
    if _is_run(path):
        if (path / "checkpoint").is_dir():
            return str(path / "checkpoint")
        raise UsageError(
            f"the run {name} has no checkpoint; write it with `vectomy apply {name} MODEL --out DIR`, or run it with --bake"
        )
    return name


def open_edit(name: str | Path) -> Edit:
    """The Edit in a file, in a run, a checkpoint or an adapter that vectomy wrote, or in a Hub
    repository.

    Raises:
        EditError: there is no Edit, or it is damaged.
        HubError: the Hub does not give the repository.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return Edit.load(path)
    if path.is_dir():
        edit = edit_in(path)
        if edit is None:
            raise EditError(
                f"{name} holds no Edit (no edit.safetensors and no vectomy/edit.safetensors); finish the run, or give an Edit file"
            )
        return edit
    if is_local(str(name)):
        raise EditError(f"the Edit file {name} does not exist")
    edit = edit_in(download(str(name)))
    if edit is None:
        raise EditError(f"the repository '{name}' holds no Edit; give one that `vectomy push` wrote")
    return edit


def _is_run(path: Path) -> bool:
    return (path / MARK).is_file()
