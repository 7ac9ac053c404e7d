"""A GGUF file put where LM Studio and Ollama find it.

LM Studio lists `models/PUBLISHER/NAME/FILE.gguf` of its folder
(https://lmstudio.ai/docs/app/advanced/import-model); Ollama makes a model of its own from a
Modelfile (https://docs.ollama.com/modelfile).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from vectomy.core.errors import ArtifactError, VectomyError
from vectomy.core.run_folder import write_whole

__all__ = ["Program", "check_ollama_name", "place_gguf", "write_modelfile"]

Program = Literal["lmstudio", "ollama"]
PUBLISHER = "vectomy"
POINTER = ".lmstudio-home-pointer"
"""In the home folder: a file that holds the path of LM Studio's own folder, if it was moved."""


def write_modelfile(gguf: Path) -> Path:
    """A Modelfile for Ollama beside the file, as NAME.Modelfile; one that is there stays."""
    path = gguf.with_suffix(".Modelfile")
    if not path.exists():
        lines = (
            "# ollama create NAME -f this file. The template is read from the GGUF file.",
            f"FROM ./{gguf.name}",
        )
        with write_whole(path) as beside:
            beside.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def check_ollama_name(gguf: Path) -> None:
    """Raises ArtifactError: Ollama is here and has a model of the name that the file would get."""
    name = model_name(gguf)
    if shutil.which("ollama") is None:
        return
    shown = subprocess.run(["ollama", "show", name], capture_output=True, check=False)
    if shown.returncode == 0:
        raise ArtifactError(
            f"Ollama has a model {name} already; write another --out, or replace it with --overwrite"
        )


def place_gguf(gguf: Path, program: Program, home: Path | None = None, *, overwrite: bool = False) -> str:
    """Put a GGUF file in place for a program; returns where it is, or what to do where the program
    is not here.

    Args:
        home: the user's home folder.
        overwrite: replace a model of Ollama that has the name.

    Raises:
        ArtifactError: another file or model has its name there.
        VectomyError: the program refuses the file.
    """
    if program == "ollama":
        if not overwrite:
            check_ollama_name(gguf)
        return _into_ollama(gguf)
    return _into_lm_studio(gguf, home or Path.home())


def _into_lm_studio(gguf: Path, home: Path) -> str:
    """A hard link (a copy on another disk) at models/PUBLISHER/NAME/FILE."""
    folder = _lm_studio_folder(home)
    target = folder / "models" / PUBLISHER / model_name(gguf) / gguf.name
    if not folder.is_dir():
        return (
            f"LM Studio is not here (no {folder}); there, copy the file to "
            f"{target}, or run: lms import {gguf.name}"
        )
    if target.exists():
        if os.path.samefile(target, gguf):
            return f"LM Studio has it already: {target}"
        raise ArtifactError(
            f"LM Studio has another file at {target}; delete it there, or write another --out"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(gguf, target)
    except OSError:
        with write_whole(target) as beside:
            shutil.copyfile(gguf, beside)
    return f"LM Studio lists it as {PUBLISHER}/{model_name(gguf)}: {target}"


def _lm_studio_folder(home: Path) -> Path:
    pointer = home / POINTER
    if pointer.is_file():
        return Path(pointer.read_text(encoding="utf-8").strip())
    old = home / ".cache" / "lm-studio"
    return old if old.is_dir() and not (home / ".lmstudio").is_dir() else home / ".lmstudio"


def _into_ollama(gguf: Path) -> str:
    modelfile, name = write_modelfile(gguf), model_name(gguf)
    command = ["ollama", "create", name, "-f", str(modelfile)]
    if shutil.which("ollama") is None:
        return f"Ollama is not here; where it is, run: {' '.join(command)}"
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise VectomyError(f"ollama create failed: {(lines or ['no message'])[-1]:.300}")
    return f"ollama run {name}"


def model_name(gguf: Path) -> str:
    """The name of a model made from a file: lower case, without what Ollama does not take."""
    return re.sub(r"[^a-z0-9._-]+", "-", gguf.stem.lower()).strip("-._") or "edited"
