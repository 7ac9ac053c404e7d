"""Damaged GGUF files: an edit of one is a GGUF file again, or there is none."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch
from gguf_files import SIZES, write_gguf
from tiny import build, orthonormal

from hostile.kind import Kind, allow, run_command
from hostile.mutations import jumbled, special
from vectomy.checkpoint.gguf import GgufFile
from vectomy.edits.edit import Edit
from vectomy.edits.export import edit_gguf

__all__ = ["GGUF_KINDS"]


def _build(path: Path) -> None:
    for kind in ("F32", "Q8_0"):
        folder = path / kind.lower()
        tiny = build(folder / "model", "llama", num_hidden_layers=1, vocab_size=24, **SIZES)
        write_gguf(tiny, folder / "in.gguf", kind)
        rows = orthonormal(1, 0, SIZES["hidden_size"])
        Edit.ablation(folder / "model", rows).save(folder / "edit.safetensors")
        edit_gguf(
            Edit.load(folder / "edit.safetensors"),
            folder / "in.gguf",
            folder / "made.gguf",
            base=folder / "model",
        )


def _damage(rng: random.Random, folder: Path) -> bool:
    file = folder / "in.gguf"
    how = rng.random()
    if how < 0.03:
        special(file, rng)
    else:
        raw = file.read_bytes()
        file.unlink()
        file.write_bytes(raw if how < 0.08 else _spoilt(raw, rng))
    return rng.random() < 0.2


def _spoilt(raw: bytes, rng: random.Random) -> bytes:
    """Numbers and names of the head replaced, or bytes jumbled."""
    if rng.random() < 0.5:
        return jumbled(raw, rng)
    data = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2])):
        start = rng.randrange(4, 1200) & ~3
        value = rng.choice([0, 1, 2, 7, 255, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1])
        size = 8 if value >= 2**32 or rng.random() < 0.5 else 4
        data[start : start + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data)


def _steps(folder: Path, out: Path, by_command: bool) -> Iterator[str]:
    import gguf

    source, made = folder / "in.gguf", out / "out.gguf"
    if by_command:
        yield "apply command"
        words = ["--base", str(folder / "model"), "--out", str(made)]
        status, _ = run_command("apply", str(folder / "edit.safetensors"), str(source), *words)
        allow((status == 0) == made.exists(), f"status {status}, and the output is there: {made.exists()}")
        if status != 0:
            return
    else:
        yield "open"
        opened = GgufFile.open(source)
        yield "edit"
        edit_gguf(Edit.load(folder / "edit.safetensors"), opened, made, base=folder / "model")
    yield "read"
    try:
        before = {each.name: each for each in gguf.GGUFReader(source).tensors}
    except (ValueError, KeyError, IndexError, OverflowError, TypeError):
        return  # Others cannot read the input; nothing says what the output should be.
    after = {each.name: each for each in gguf.GGUFReader(made).tensors}
    allow(before.keys() <= after.keys(), "a tensor was lost")
    for name, tensor in after.items():
        # A tensor that is copied as it is keeps the values that damage gave it.
        copied = name in before and tensor.data.tobytes() == before[name].data.tobytes()
        if tensor.data.dtype.kind == "f" and not copied:
            allow(bool(torch.isfinite(torch.from_numpy(tensor.data.copy())).all()), f"{name} is not finite")


GGUF_KINDS = (Kind("gguf", _build, _damage, _steps),)
