"""Things with one fault each: model folders, prompt files, Edits and run folders, made from sound
ones in a second. Not to be written to.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tiny_chat
import torch
from finished_run import finished_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], object]


def make_faulty(path: Path, source: Path, spoil: Spoil) -> Path:
    """A copy of a file or folder at `path`, spoilt."""
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)
    spoil(path)
    return path


def cut(name: str = "") -> Spoil:
    """The first half of the file `name` of a folder, or of the file itself."""

    def spoil(path: Path) -> None:
        file = path / name if name else path
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])

    return spoil


def write(name: str, data: str) -> Spoil:
    return lambda path: (path / name).write_text(data, encoding="utf-8")


def remove(*names: str) -> Spoil:
    return lambda path: [(path / name).unlink() for name in names]


def change_json(name: str, **changes: object) -> Spoil:
    def spoil(path: Path) -> None:
        value = json.loads((path / name).read_text(encoding="utf-8"))
        (path / name).write_text(json.dumps({**value, **changes}), encoding="utf-8")

    return spoil


def change_weight(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Spoil:
    def spoil(path: Path) -> None:
        file = path / "model.safetensors"
        weights = load_file(file)
        weights[name] = change(weights[name])
        save_file(weights, file, {"format": "pt"})

    return spoil


def with_nan(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value[0, 0] = float("nan")
    return value


def pickled(path: Path) -> None:
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def indexed_elsewhere(path: Path) -> None:
    """An index that names a file which is not there."""
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    weights = load_file(path / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(weights, "model-00001-of-00001.safetensors")
    names["lm_head.weight"] = "weights-of-nobody.safetensors"
    text = json.dumps({"metadata": {}, "weight_map": names})
    (path / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def change_edit(
    change: Callable[[Any], object] = lambda _: None,
    tensors: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
) -> Spoil:
    """An Edit file with another header or other tensors."""

    def spoil(path: Path) -> None:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["vectomy"])
        change(header)
        stored = {name: tensors(value).contiguous() for name, value in load_file(path).items()}
        save_file(stored, path, {"vectomy": json.dumps(header)})

    return spoil


def run() -> Path:
    return finished_run(n_search=4, n_test=4)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, where the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    # `make test` keeps its files in a folder that its owner alone may enter.
    folder = Path(tempfile.gettempdir())
    mode = folder.stat().st_mode & 0o7777
    folder.chmod(mode | 0o011)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        folder.chmod(mode)


def prompts(path: Path, rows: Mapping[str, str | bytes]) -> Path:
    """Prompt files by name."""
    for name, data in rows.items():
        (path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


TEXTS = tiny_chat.texts(tiny_chat.NIGHT)[: tiny_chat.PROMPTS]
