"""Open a model folder: check that it is whole and safe, and list its tensors. Reads headers, never
weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeAlias, runtime_checkable

from vectomy.checkpoint.auxiliary_files import sort_files
from vectomy.checkpoint.folder_kind import (
    RECORDS,
    explain_file,
    explain_folder,
    name_remedy,
    was_written_here,
)
from vectomy.checkpoint.safetensors_header import (
    Shard,
    TensorEntry,
    is_printable_name,
    read_shard,
    unique_keys,
)
from vectomy.core.absent_path import explain_absent_folder
from vectomy.core.arguments import name_of, require_path
from vectomy.core.errors import CheckpointError, UnsafeCheckpointError, UsageError
from vectomy.core.text_file import read_text
from vectomy.core.write_errors import NO_RIGHT

__all__ = ["INDEX", "RECORDS", "Checkpoint", "ModelSource"]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PART = re.compile(r".*-(\d{5})-of-(\d{5})\.safetensors")


@runtime_checkable
class HoldsCheckpoint(Protocol):
    """A model that knows the folder of its weights: `ChatModel`."""

    @property
    def checkpoint(self) -> Checkpoint: ...


@dataclass(frozen=True)
class Checkpoint:
    """A checked model folder.

    `tensors` maps names to places; `index` is the parsed index file, or None when there is one
    file. Of all other files, by relative path, an edited copy keeps `sidecars` (tokenizer,
    templates, code, image processors, weights of other modules) and leaves behind `other_weights`
    (the same weights once more).
    """

    path: Path
    config: dict[str, Any]
    shards: tuple[Shard, ...]
    index: dict[str, Any] | None
    sidecars: tuple[str, ...]
    other_weights: tuple[str, ...]
    tensors: dict[str, TensorEntry]
    notes: tuple[str, ...] = ()
    """What a reader should know of the weights that are read, and of the files beside them."""
    hint: str = ""
    """A likely cause where the weights turn out not to be the model's."""

    @property
    def bytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    @classmethod
    def of(cls, source: ModelSource) -> Checkpoint:
        """A checkpoint that is open already, the one in this folder, or that of a `ChatModel`.

        Raises:
            CheckpointError: as `open`; or the weights of the model are in no folder.
            UsageError: `source` is nothing of the kind.
        """
        if isinstance(source, str | Path):
            return Checkpoint.open(source)
        checkpoint = source if isinstance(source, Checkpoint) else getattr(source, "checkpoint", None)
        if not isinstance(checkpoint, Checkpoint):
            raise UsageError(
                f"{name_of(source)} is no model folder; give the path of one, or a ChatModel "
                "(vectomy.load_model, or vectomy.wrap for a model that is loaded)"
            )
        if not checkpoint.tensors:
            raise CheckpointError(
                f"no folder holds the weights of {checkpoint.path}, a model in memory; save it with "
                "model.save_pretrained(DIR) and tokenizer.save_pretrained(DIR), and give DIR"
            )
        return checkpoint

    @classmethod
    def open(cls, path: str | Path) -> Checkpoint:
        """Check a folder and list it.

        Raises:
            CheckpointError: no folder, no config.json or no weights; a shard that is missing,
                truncated or overlapping; an index that disagrees with its shards.
            UnsafeCheckpointError: pickle weights only, or an index that points outside the folder.
            UsageError: `path` is no path.
        """
        require_path(path, "the model folder")
        path = Path(path)
        if not path.is_dir():
            raise CheckpointError(explain_file(path) or explain_absent_folder(path))
        reason = explain_folder(path)
        if reason is not None:
            raise CheckpointError(reason)
        config = _read_object(path / "config.json", f"every model folder needs it; {name_remedy(path)}")
        index, names = _shard_names(path)
        shards = tuple(read_shard(path, name) for name in names)
        tensors: dict[str, TensorEntry] = {}
        for shard in shards:
            for entry in shard.tensors:
                if entry.name in tensors:
                    raise CheckpointError(
                        f"tensor '{entry.name}' is in both {tensors[entry.name].shard} and {shard.name} of "
                        f"{path}; readers take one or the other: remove it from the file that is not the "
                        "model's"
                    )
                tensors[entry.name] = entry
        notes = [] if index is None else _check_weight_map(path, index["weight_map"], tensors)
        if index is None and names != [SINGLE]:
            notes.append(
                f"the weights are in {names[0]}; transformers finds them as {SINGLE} alone: rename it"
            )
        if not tensors:
            raise CheckpointError(f"the weights in {path} hold no tensor; save the model again")
        hint = ""
        if index is None and names == [SINGLE] and (path / INDEX).exists():
            hint = (
                f"{path} holds two sets of weights, {SINGLE} and the shards of {INDEX}; transformers reads "
                f"{SINGLE}: if that is not the model, move it elsewhere"
            )
            notes.append(f"{SINGLE} is read, as in transformers, and not the shards of {INDEX}")
        own = {"config.json", INDEX, *names}
        files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
        others = sort_files(
            path,
            sorted(
                f.as_posix()
                for f in files
                if not any(p.startswith(".") for p in f.parts)
                and f.parts[0] != RECORDS
                and f.as_posix() not in own
            ),
            tensors,
            config,
        )
        notes += others.notes
        return cls(path, config, shards, index, others.kept, others.left, tensors, tuple(notes), hint)


ModelSource: TypeAlias = str | Path | Checkpoint | HoldsCheckpoint
"""A model folder: its path, opened, or that of a loaded model."""


def _shard_names(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    # The single file first, as transformers does where both are there.
    if (path / SINGLE).exists():
        return None, [SINGLE]
    if (path / INDEX).exists():
        index = _read_object(path / INDEX, "delete it or download it again", pairs=unique_keys)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(
                f"{path / INDEX} has no 'weight_map' of tensor names to file names; download it again"
            )
        names = sorted(set(weight_map.values()))
        for name in names:
            if (
                not is_printable_name(name)
                or "\\" in name
                # C:name lies on another drive, name:more in a stream of a file.
                or ":" in name
                or name in (".", "..")
                or PurePosixPath(name).name != name
            ):
                raise UnsafeCheckpointError(
                    f"{path / INDEX} points to {name!r:.200}, which is not a file name in its own folder; it "
                    "is refused"
                )
        return index, names
    strays = sorted(file.name for file in path.glob("*.safetensors"))
    parts = [match for name in strays if (match := PART.fullmatch(name))]
    if parts:
        raise CheckpointError(
            f"{path} has {len(parts)} of {int(parts[0][2])} parts of a model ({parts[0][0]}, ...) but no "
            f"{INDEX}; was the download complete? Download the index and all parts"
        )
    if len(strays) == 1:
        return None, strays
    capitals = [file.name for file in path.iterdir() if file.name.lower().endswith(".safetensors")]
    if capitals and not strays:
        raise CheckpointError(
            f"{path} holds {capitals[0]}, and names of files are in small letters: rename it to {SINGLE}"
        )
    if strays:
        raise CheckpointError(
            f"{path} has {len(strays)} .safetensors files ({', '.join(strays[:4])}) but no {INDEX}, which "
            "says what belongs to the model; download the index too, or keep one file"
        )
    pickles = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern)
    )
    if pickles:
        raise UnsafeCheckpointError(
            f"{path} holds pickle weights only ({pickles[0]}), which can run code when they are read; "
            "if you trust their maker, load them with transformers and save them as safetensors: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(DIR)"
        )
    if was_written_here(path):
        raise CheckpointError(
            f"{path} holds no weights any more (no {SINGLE} and no {INDEX}); {name_remedy(path)}"
        )
    raise CheckpointError(
        f"{path} holds no weights (no {SINGLE} and no {INDEX}); was the download complete? Of a repository "
        "on the Hub, only safetensors are downloaded"
    )


def _read_object(
    path: Path, remedy: str, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path), object_pairs_hook=pairs)
        # Half of a character ("\\ud800") is JSON, but no file could hold it again.
        json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; {remedy}") from None
    except OSError as error:
        reason = f": {NO_RIGHT}" if isinstance(error, PermissionError) else f" ({error.strerror}); {remedy}"
        raise CheckpointError(f"{path} cannot be read{reason}") from None
    # ValueError: no JSON, no UTF-8, or a number of more digits than Python takes.
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError) or "BOM" in str(error):
            remedy = "save it as UTF-8 without a byte order mark, or download it again"
        raise CheckpointError(f"{path} does not parse as JSON ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object; {remedy}")
    return value


def _check_weight_map(path: Path, weight_map: dict[str, str], tensors: dict[str, TensorEntry]) -> list[str]:
    """Compare the index with its shards; gives notes."""
    for tensor, shard in weight_map.items():
        if tensor not in tensors:
            raise CheckpointError(
                f"{path / INDEX} says that {tensor!r:.200} is in {shard}, but that file does not hold it; "
                "download both again, or take the name out of the index if the tensor was removed"
            )
        if tensors[tensor].shard != shard:
            raise CheckpointError(
                f"{path / INDEX} says that '{tensor}' is in {shard}, but it is in {tensors[tensor].shard}; "
                "correct the index, or download it again"
            )
    omitted = [tensor for tensor in tensors if tensor not in weight_map]
    if not omitted:
        return []
    more = f" and {len(omitted) - 1} more" if len(omitted) > 1 else ""
    return [f"{INDEX} omits '{omitted[0]}'{more}, which the shards hold; they are read, as in transformers"]
