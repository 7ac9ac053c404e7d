"""The base of an Edit where it is at hand: a folder that the Edit, a record or a run names, or a
model in the Hub's cache. Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.checkpoint.index import RECORDS
from vectomy.core.errors import VectomyError
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import MARK
from vectomy.core.text_file import read_text
from vectomy.edits.operation import BaseModelRef
from vectomy.models.demo import is_demo, model_folder

__all__ = ["find_base"]


def find_base(base: BaseModelRef, checkpoint: Path) -> Checkpoint | None:
    """The unedited model, with the very weights that the fingerprint names; None if it is not here.

    Args:
        checkpoint: the folder that is verified: its record and its run name the base, and the base
            often lies beside it.
    """
    names = dict.fromkeys(name for name in (*_recorded_names(checkpoint), base.name) if name)
    for name in names:
        for folder in _folders(name, checkpoint):
            try:
                # The fingerprint reads samples: by it an edited checkpoint could be its own base.
                if folder.resolve() == checkpoint.resolve():
                    continue
                opened = Checkpoint.open(folder)
                if fingerprint(opened) == base.fingerprint:
                    return opened
            except (VectomyError, OSError):
                continue
    return None


def _recorded_names(checkpoint: Path) -> Iterator[str]:
    """The base's name in the record of a baked checkpoint, and in the run around it."""
    record = _read_object(checkpoint / RECORDS / "record.json").get("base")
    if isinstance(record, dict) and isinstance(record.get("model"), str):
        yield record["model"]
    if (checkpoint.parent / MARK).is_file():
        model = _read_object(checkpoint.parent / "config.json").get("model")
        if isinstance(model, str):
            yield model


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _folders(name: str, checkpoint: Path) -> Iterator[Path]:
    """Folders that a base of this name may lie in."""
    if is_demo(name):
        try:
            yield model_folder(name)
        except VectomyError:
            return
        return
    here = checkpoint.absolute()
    yield from (Path(name).expanduser(), here.parent / name, here.parent.parent / name)
    from huggingface_hub.constants import HF_HUB_CACHE

    owner, _, repository = split_revision(name)[0].rpartition("/")
    if repository and not set("*?[") & set(name) and "/" not in owner:
        cache = Path(HF_HUB_CACHE)
        if cache.is_dir():
            yield from sorted(cache.glob(f"models--{owner or '*'}--{repository}/snapshots/*"))
