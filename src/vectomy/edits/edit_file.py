"""The file of an Edit: one safetensors file with the distinct bases as tensors, and everything else
as one JSON text in its header. The same edit gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vectomy.checkpoint.index import RECORDS
from vectomy.core.absent_path import explain_absent_edit
from vectomy.core.errors import EditError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import canonical_json, hash_of
from vectomy.core.tensor_file import read_tensors
from vectomy.core.write_errors import NO_RIGHT
from vectomy.edits.operation import BaseModelRef, Operation

__all__ = ["edit_file_in", "encode_edit", "is_edit_file", "read_edit"]

FORMAT = "vectomy-edit"
VERSION = 1
REMEDY = "copy it again, or make it again with the command that wrote it"

T = TypeVar("T")


def encode_edit(base: BaseModelRef, operations: Sequence[Operation], about: JsonObject) -> bytes:
    """The content of an Edit file."""
    tensors: dict[str, Tensor] = {}
    rows = []
    for op in operations:
        rows.append(
            {
                "component": op.component,
                "layer": op.layer,
                "expert": op.expert,
                "norm": op.norm,
                "basis": _store(tensors, "basis", op.basis),
                # float32 values as floats are exact in JSON.
                "strengths": op.strengths.float().tolist(),
                "addition": None if op.addition is None else _store(tensors, "addition", op.addition),
            }
        )
    header = {
        "format": FORMAT,
        "version": VERSION,
        "base": base.__dict__,
        "about": about,
        "operations": rows,
    }
    # One metadata key alone: the library does not keep an order among several.
    return safetensors.torch.save(tensors, metadata={"vectomy": canonical_json(header)})


def edit_file_in(folder: Path) -> Path | None:
    """The Edit file of a folder: of a checkpoint, a published repository, a run or an adapter. None
    if there is none.
    """
    places = (folder / RECORDS / "edit.safetensors", folder / "edit.safetensors")
    return next((path for path in places if path.is_file()), None)


def is_edit_file(path: Path) -> bool:
    """Whether a file's header says that it is an Edit. Reads no tensors."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("vectomy", "null"))
    except (safetensors.SafetensorError, ValueError, RecursionError, OSError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT


def read_edit(path: Path, make: Callable[[BaseModelRef, tuple[Operation, ...], JsonObject], T]) -> T:
    """What `make` gives for the base, the operations and `about` of an Edit file, or of the Edit in
    a folder.

    Raises:
        EditError: the file is missing, damaged, of another format or version, or `make` refuses it.
    """
    if path.is_dir():
        stored = edit_file_in(path)
        if stored is None:
            raise EditError(
                f"the folder {path} holds no Edit (no edit.safetensors, no {RECORDS}/edit.safetensors); "
                "give an Edit file, or the folder of a finished run, of a checkpoint or of an adapter made "
                "from an Edit"
            )
        path = stored
    if not path.is_file():
        raise EditError(explain_absent_edit(path))
    try:
        tensors, metadata = read_tensors(path)
        header = json.loads(metadata.get("vectomy", "null"))
    except PermissionError:
        raise EditError(f"the Edit file {path} cannot be read: {NO_RIGHT}") from None
    except (safetensors.SafetensorError, ValueError, RecursionError, OSError) as error:
        raise EditError(
            f"{path} is no Edit file: it is cut, damaged or of another kind ({_message_of(error)}); {REMEDY}"
        ) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise EditError(_explain_other(path, tensors))
    if header.get("version") != VERSION:
        raise EditError(
            f"{path} is an Edit of version {header.get('version')!r:.80}, and this vectomy reads version "
            f"{VERSION}; update vectomy, or make the Edit with this one"
        )
    try:
        operations = tuple(_operation(row, tensors) for row in header["operations"])
        if not isinstance(header["about"], dict):
            raise EditError("its `about` is not an object")
        return make(BaseModelRef(**header["base"]), operations, header["about"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        raise EditError(f"{path} is a damaged Edit file: {_explain_header(error)}; {REMEDY}") from None
    except EditError as error:
        raise EditError(f"{path} is a damaged Edit file: {_message_of(error)}; {REMEDY}") from None


def _explain_other(path: Path, tensors: dict[str, Tensor]) -> str:
    """What a safetensors file without an Edit's header is, and what to do with it."""
    if "direction" in tensors:
        return (
            f"{path} is a direction, not an Edit; `vectomy edit new MODEL --direction {path} --out FILE` "
            "makes an Edit of it"
        )
    return (
        f"{path} is a safetensors file, but not an Edit (its header has no format '{FORMAT}'); give an Edit "
        "file, or the folder of a finished run"
    )


def _explain_header(error: Exception) -> str:
    """What of the header or of a tensor cannot be used."""
    if isinstance(error, KeyError):
        return f"it lacks {_message_of(error)}"
    return f"a value of its header is of the wrong kind ({_message_of(error)})"


def _message_of(error: Exception) -> str:
    """The message of an error as a part of one line: it may repeat what a file holds."""
    text = str(error)
    return text if text.isprintable() and len(text) <= 600 else f"{text!r:.600}"


def _store(tensors: dict[str, Tensor], kind: str, value: Tensor) -> str:
    """Keep one copy of equal tensors; give the name it is stored under."""
    # A clone, for safetensors refuses tensors that share memory (a basis cut from another one).
    value = value.detach().float().cpu().contiguous().clone()
    name = f"{kind}.{hash_of([list(value.shape), value.numpy().tobytes().hex()])[:16]}"
    tensors.setdefault(name, value)
    return name


def _operation(row: dict[str, Any], tensors: dict[str, Tensor]) -> Operation:
    return Operation(
        component=row["component"],
        layer=row["layer"],
        expert=row["expert"],
        norm=row["norm"],
        basis=tensors[row["basis"]],
        strengths=torch.tensor(row["strengths"], dtype=torch.float32),
        addition=None if row["addition"] is None else tensors[row["addition"]],
    )
