"""The record of a checkpoint or adapter that an Edit made: base, Edit, versions, and the hash of
every tensor.

It has a folder of its own, because loaders read every .safetensors file next to the weights as
weights:

    checkpoint/vectomy/record.json, checkpoint/vectomy/edit.safetensors
    adapter/vectomy/record.json     (with the Edit in adapter/edit.safetensors)

The same inputs and versions give the same bytes; the record holds no time and no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vectomy.checkpoint import Checkpoint, tensor_hashes
from vectomy.checkpoint.index import RECORDS
from vectomy.checkpoint.safetensors_header import read_shard
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import read_json, write_json
from vectomy.edits.edit import Edit
from vectomy.edits.edit_file import edit_file_in
from vectomy.models import is_local

__all__ = [
    "Form",
    "Record",
    "adapter_weights",
    "base_name",
    "edit_in",
    "hashes_in",
    "record_in",
    "revision_of",
    "write_record",
]

FORMAT, VERSION = "vectomy-record", 1
Form = Literal["checkpoint", "adapter"]


@dataclass(frozen=True)
class Record:
    """Origin of a checkpoint or adapter that an Edit made."""

    form: Form
    base: Mapping[str, Any]
    """`model` (a Hub id, `demo`, or the name of a folder), `revision` (the Hub's commit, or None),
    `fingerprint`, and the shape recorded in the Edit.
    """
    edit_sha256: str
    versions: Mapping[str, str]
    tensors: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each tensor's stored bytes, by name; empty if they were not hashed."""

    def to_json(self) -> JsonObject:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, path: Path) -> Record:
        """Raises ArtifactError for another format, version or shape."""
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            raise ArtifactError(
                f"{path} is not a vectomy record of version {VERSION}; delete it or fetch it again"
            )
        kinds = {"base": dict, "edit_sha256": str, "versions": dict, "tensors": dict}
        wrong = next((key for key, kind in kinds.items() if not isinstance(value.get(key), kind)), None)
        if wrong is None and value.get("form") not in ("checkpoint", "adapter"):
            wrong = "form"
        if wrong is not None:
            raise ArtifactError(f"{path} is damaged ('{wrong}' is {value.get(wrong)!r:.80}); fetch it again")
        return cls(value["form"], value["base"], value["edit_sha256"], value["versions"], value["tensors"])


def write_record(
    folder: Path,
    form: Form,
    edit: Edit,
    *,
    model: str,
    source: Path,
    versions: Mapping[str, str],
    hashed: bool = True,
    progress: Progress = silent,
) -> Record:
    """Write the record of a folder that `bake` or `write_lora` made, and the Edit if the folder
    lacks it.

    Args:
        model: the base as the user named it: a Hub id, `demo`, or a folder (its last part is
            recorded).
        source: the base's folder; in the Hub's cache its name is the commit.
        hashed: hash every tensor, which reads the folder once.
    """
    if form == "checkpoint":
        edit.save(folder / RECORDS / "edit.safetensors")
    record = Record(
        form=form,
        base={"model": base_name(model), "revision": revision_of(source), **vars(edit.base)},
        edit_sha256=edit.sha256,
        versions=dict(versions),
        tensors=hashes_in(folder, form, progress) if hashed else {},
    )
    write_json(folder / RECORDS / "record.json", record.to_json())
    return record


def record_in(folder: Path) -> Record | None:
    """Raises ArtifactError for a record that is damaged."""
    path = folder / RECORDS / "record.json"
    return Record.from_json(read_json(path), path) if path.is_file() else None


def edit_in(folder: Path) -> Edit | None:
    """The Edit in the folder of a checkpoint, a published repository or an adapter; None if there
    is none.
    """
    path = edit_file_in(folder)
    return None if path is None else Edit.load(path)


def hashes_in(folder: Path, form: Form, progress: Progress = silent) -> dict[str, str]:
    """sha256 by tensor of a checkpoint or an adapter."""
    if form == "checkpoint":
        return tensor_hashes(Checkpoint.open(folder), progress)
    return tensor_hashes(adapter_weights(folder), progress)


def adapter_weights(folder: Path) -> Checkpoint:
    """The tensors of an adapter as a Checkpoint. Raises CheckpointError for a damaged file."""
    shard = read_shard(folder, "adapter_model.safetensors")
    return Checkpoint(folder, {}, (shard,), None, (), (), {entry.name: entry for entry in shard.tensors})


def base_name(model: str) -> str:
    """The name of a base without the folders of this machine: a Hub id without its revision,
    `demo`, the last part of a folder.
    """
    if model == "demo" or not is_local(model):
        return split_revision(model)[0]
    folder = Path(model).expanduser().resolve()
    cached = folder.parents[1].name.split("--") if revision_of(folder) else []
    return "/".join(cached[1:]) if len(cached) == 3 and cached[0] == "models" else folder.name


def revision_of(source: Path) -> str | None:
    """The commit of a folder in the Hub's cache (models--OWNER--NAME/snapshots/COMMIT)."""
    return source.name if source.parent.name == "snapshots" else None
