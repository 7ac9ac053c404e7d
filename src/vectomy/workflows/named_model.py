"""Models and Edits by the name that a person gives: RUN, EDIT, CHECKPOINT, ADAPTER, GGUF, Hub id or
`demo`.

A run stands for its Edit where an Edit is asked for, and for its edited checkpoint where any model
is. Where the unedited model is asked for, a run is an error that names its base.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vectomy.checkpoint.gguf import is_gguf
from vectomy.core.errors import ArtifactError, EditError, UsageError
from vectomy.core.progress import Progress, silent
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import MARK, read_json
from vectomy.edits.edit import Edit
from vectomy.edits.edit_file import edit_file_in, is_edit_file
from vectomy.hub.download import download
from vectomy.hub.published_edit import published_edit_of
from vectomy.models import is_local, probe_architecture
from vectomy.models.demo import is_demo, model_folder
from vectomy.workflows.needed_packages import list_missing_for_model
from vectomy.workflows.preflight import refuse

__all__ = [
    "Kind",
    "adapter_base",
    "base_named_by",
    "check_base",
    "edited_model",
    "is_foreign_adapter",
    "kind_of",
    "name_resuming",
    "open_base",
    "open_edit",
    "open_model",
]

Kind = Literal[
    *("demo", "hub", "missing", "run", "evaluation", "adapter", "checkpoint", "gguf"),
    *("edit", "weights", "file", "folder"),
]


def kind_of(name: str) -> Kind:
    """What `name` is, by its files. A Hub id is not looked up."""
    path = Path(name).expanduser()
    if is_demo(name):
        return "demo"
    if is_gguf(name):
        return "gguf"
    if path.is_file():
        if path.suffix == ".safetensors":
            return "edit" if is_edit_file(path) else "weights"
        return "file"
    if not path.is_dir():
        return "missing" if is_local(name) or path.suffix == ".safetensors" else "hub"
    if (path / MARK).is_file():
        # A run has an evaluation.json too, next to its configuration.
        evaluation = (path / "evaluation.json").is_file() and not (path / "config.json").is_file()
        return "evaluation" if evaluation else "run"
    if (path / "adapter_config.json").is_file():
        return "adapter"
    return "checkpoint" if (path / "config.json").is_file() else "folder"


def open_model(name: str, progress: Progress = silent, *, trust_remote_code: bool = False) -> Path:
    """The folder of a model, edited or not; a run stands for its edited checkpoint.

    Raises:
        UsageError: `name` is no whole model, or a run without a checkpoint.
        CheckpointError: the model is not available.
    """
    return open_base(edited_model(name), progress, trust_remote_code=trust_remote_code)


def edited_model(name: str) -> str:
    """The checkpoint of a run; any other name as it is.

    Raises:
        UsageError: the run has no checkpoint.
    """
    if kind_of(name) != "run":
        return name
    checkpoint = Path(name).expanduser() / "checkpoint"
    if not checkpoint.is_dir():
        base = base_named_by(name) or "MODEL"
        raise UsageError(
            f"the run {name} has no checkpoint; write one with `vectomy apply {name} {base} --out DIR`, "
            "and give DIR"
        )
    return str(checkpoint)


def open_base(name: str, progress: Progress = silent, *, trust_remote_code: bool = False) -> Path:
    """The folder of an unedited model.

    Args:
        trust_remote_code: run Python code that the folder contains, where its type is not known.

    Raises:
        UsageError: `name` is no whole model, or a run.
        PreflightError: a package that reads it is not installed.
        CheckpointError: the model is not available.
    """
    check_base(name)
    refuse(*list_missing_for_model(name))
    folder = model_folder(name, progress)
    probe_architecture(folder, trust_remote_code=trust_remote_code, progress=progress)
    return folder


def check_base(name: str) -> None:
    """Check that `name` can be an unedited model, without opening it.

    Raises:
        UsageError: it is a run, an Edit, an adapter or another file, and what to give instead.
    """
    kind = kind_of(name)
    if kind == "run":
        base = base_named_by(name) or "MODEL"
        raise UsageError(
            f"{name} is the folder of a run, and an unedited model is needed here: give {base}. "
            f"({name_resuming(name)} resumes the run; {Path(name) / 'checkpoint'} is its edited model)"
        )
    if kind == "edit":
        base = base_named_by(name) or str(Edit.load(name).base)
        raise UsageError(
            f"{name} is an Edit, not a model; its model is {base}. `vectomy apply {name} MODEL --out DIR` "
            "writes it into a checkpoint"
        )
    if kind == "adapter":
        raise UsageError(
            f"{name} is an adapter, not a whole model; {_whole_model_of(Path(name).expanduser())}"
        )
    if kind == "evaluation":
        raise UsageError(
            f"{name} is the folder of an evaluation, not a model; `vectomy report {name}` shows it"
        )
    if kind == "weights":
        raise UsageError(f"{name} is one file of weights; give the folder that holds it and config.json")
    if kind == "file":
        raise UsageError(f"{name} is a file, not a model; give a folder, a GGUF file or a Hub id")


def _whole_model_of(adapter: Path) -> str:
    """How to get a whole model from the folder of an adapter."""
    base = adapter_base(str(adapter)) or "MODEL"
    if edit_file_in(adapter) is not None:
        return (
            f"write its Edit into a checkpoint with `vectomy apply {adapter} {base} --out DIR`, and give DIR"
        )
    return f"give its base ({base}), or merge the two with PEFT (merge_and_unload) and give the result"


def open_edit(name: str | Path) -> Edit:
    """The Edit in a file, in a run, a checkpoint or an adapter that vectomy wrote, or in a Hub
    repository.

    Raises:
        EditError: `name` holds no Edit, or it is damaged.
        HubError: the repository is not available.
    """
    name = str(name)
    path, kind = Path(name).expanduser(), kind_of(name)
    if kind in ("edit", "weights", "missing") or (path.is_dir() and edit_file_in(path) is not None):
        return Edit.load(path)
    if kind == "hub":
        folder = download(*split_revision(name))
        if edit_file_in(folder) is None:
            raise EditError(
                f"the repository '{name}' holds no Edit; give one that `vectomy push` wrote, or an Edit file"
            )
        return Edit.load(folder)
    raise EditError(f"{name} {_NO_EDIT[kind].format(name=name, resuming=name_resuming(name))}")


_FROM_TWO = "`vectomy compare BASE {name} --out FILE` writes the Edit that made it, if there is one"
_NO_EDIT: dict[Kind, str] = {
    "demo": "is a model, not an Edit; give an Edit file or the folder of a finished run",
    "gguf": f"is a GGUF file, which names no Edit; give the Edit that it was made with, or {_FROM_TWO}",
    "file": "is no Edit file; give edit.safetensors, or the folder of a finished run",
    "run": "is a run without an Edit; finish it with {resuming}, or give an Edit file",
    "evaluation": "is the folder of an evaluation, which holds no Edit; give an Edit file or a run folder",
    "adapter": "is an adapter without its Edit; give the Edit that it was made with, if it was made with one",
    "checkpoint": f"is a model without its Edit; give an Edit file or a run folder, or {_FROM_TWO}",
    "folder": "is a folder without an Edit (no edit.safetensors); give an Edit file or a run folder",
}


def is_foreign_adapter(name: str) -> bool:
    """Whether it is the folder of an adapter that holds no Edit, such as one that PEFT wrote."""
    return kind_of(name) == "adapter" and edit_file_in(Path(name).expanduser()) is None


def adapter_base(name: str) -> str | None:
    """The model that an adapter's own configuration names."""
    return _text_in(Path(name).expanduser() / "adapter_config.json", "base_model_name_or_path")


def base_named_by(name: str) -> str | None:
    """The unedited model that a run, an Edit, a checkpoint or an adapter names: a Hub id, `demo` or
    a folder on this machine. None if it names none, or a folder that is not here.
    """
    path = Path(name).expanduser().absolute()
    for folder in (path, *path.parents[:2]):
        if (folder / MARK).is_file():
            return _text_in(folder / "config.json", "model")
    if kind_of(name) == "hub" or path.exists():
        try:
            base = published_edit_of(name).base
        except (ArtifactError, EditError, UsageError):
            return None
        if base is not None and (is_demo(base) or not is_local(base) or Path(base).is_dir()):
            return base
    return None


def name_resuming(run: str) -> str:
    """The command that resumes a run."""
    config = Path(run).expanduser() / "config.json"
    if not config.is_file() or _text_in(config, "recipe") == "distill":
        return "its own command"
    return f"`vectomy run {base_named_by(run) or 'MODEL'} --config {config} --out {run}`"


def _text_in(file: Path, key: str) -> str | None:
    """A text in a JSON file, or None."""
    try:
        value = read_json(file).get(key)
    except (ArtifactError, AttributeError):
        return None
    return value if isinstance(value, str) and value else None
