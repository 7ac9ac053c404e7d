"""Write what was learned into a checkpoint: W + s B A of an adapter, or trained weights, a tensor
at a time.

What was not trained keeps its bytes. An adapter of another base is refused: by the fingerprint that
training left beside it, or, of a stranger's, by the modules and shapes it names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vectomy.checkpoint import Change, Checkpoint, architecture_in, fingerprint, rewrite
from vectomy.core.errors import CheckpointError, FingerprintError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import read_json
from vectomy.healing.projection import ADAPTER_PREFIX, UP, Rows, project_adapter
from vectomy.healing.training import RECORD, TENSORS, WEIGHTS

__all__ = ["adapter_changes", "check_adapter", "merge_learned", "updates_of"]

DOWN, CONFIG = ".lora_A.weight", "adapter_config.json"
# What an adapter may ask for that B A alone does not say.
UNTOLD = ("use_dora", "use_rslora", "modules_to_save", "lora_bias", "target_parameters")


def merge_learned(
    learned: Path,
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    rows: Rows | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """The checkpoint with what was learned in it, as the new folder `out`; gives the names of the
    changed tensors.

    Args:
        learned: the folder of an adapter, or of trained weights.
        rows: what to keep an adapter out of, by module, where it was not trained so.

    Raises:
        FingerprintError: what was learned belongs to another base.
        CheckpointError: the adapter does more than W + s B A.
        ArtifactError, DiskFullError: see checkpoint/.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
    _check_record(learned, opened)
    make = (
        _trained(learned, opened) if learned.name == WEIGHTS else adapter_changes(learned, opened, rows or {})
    )
    changes = [Change.of(name, change) for name, change in make.items()]
    rewrite(opened, out, changes, purpose="heal", progress=progress)
    return tuple(make)


def _check_record(learned: Path, checkpoint: Checkpoint) -> None:
    file = learned / RECORD
    if not file.is_file():
        return
    made_for, found = read_json(file).get("base"), fingerprint(checkpoint)
    if made_for != found:
        raise FingerprintError(
            f"the adapter {learned} was trained on weights {str(made_for)[:12]}; {checkpoint.path} holds {found[:12]}. Use the model it "
            "was trained on"
        )


def check_adapter(learned: Path, checkpoint: Checkpoint) -> None:
    """Raises as `merge_learned` does, before anything is written."""
    _check_record(learned, checkpoint)
    adapter_changes(learned, checkpoint, {})


def adapter_changes(
    learned: Path, checkpoint: Checkpoint, rows: Rows
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What makes each changed tensor of the checkpoint from its old value, by stored name."""
    updates = updates_of(learned, rows)
    # A square matrix does not show by its shape which way round it is stored.
    turned_square = bool(json.loads((learned / CONFIG).read_text(encoding="utf-8")).get("fan_in_fan_out"))
    arch = architecture_in(checkpoint)
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    for module, (shape, update) in updates.items():
        name = arch.stored(f"{module}.weight")
        entry = checkpoint.tensors.get(name)
        if entry is None or (tuple(entry.shape) != shape and tuple(entry.shape) != shape[::-1]):
            holds = "no such weight" if entry is None else f"one of shape {list(entry.shape)}"
            raise FingerprintError(
                f"the adapter {learned} changes '{module}' by a matrix of shape {list(shape)}; {checkpoint.path} has {holds}. It is an "
                "adapter of another base"
            )
        turned = turned_square if shape[0] == shape[1] else tuple(entry.shape) != shape
        changes[name] = _added(update, turned)
    return changes


def updates_of(learned: Path, rows: Rows) -> dict[str, tuple[tuple[int, int], Callable[[], Tensor]]]:
    """By module, shape and maker of s B A in float32.

    Raises:
        CheckpointError: it cannot be read, or is more than B A.
    """
    try:
        config: dict[str, Any] = json.loads((learned / CONFIG).read_text(encoding="utf-8"))
        tensors = project_adapter(safetensors.torch.load_file(learned / TENSORS), rows)
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{learned} holds no PEFT adapter ({error})") from None
    more = [name for name in UNTOLD if config.get(name)]
    if more or config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise CheckpointError(
            f"the adapter {learned} has {', '.join(more) or config.get('peft_type')}, which is more than W + s B A; merge it with PEFT"
        )
    made: dict[str, tuple[tuple[int, int], Callable[[], Tensor]]] = {}
    for name, down in tensors.items():
        if name.endswith(DOWN):
            module = name.removeprefix(ADAPTER_PREFIX).removesuffix(DOWN)
            up = tensors[name.removesuffix(DOWN) + UP]
            rank = config.get("rank_pattern", {}).get(module, config["r"])
            scale = config.get("alpha_pattern", {}).get(module, config["lora_alpha"]) / rank
            made[module] = ((up.shape[0], down.shape[1]), _product(scale, up, down))
    if not made:
        raise CheckpointError(f"the adapter {learned} holds no LoRA of a linear layer")
    return made


def _product(scale: float, up: Tensor, down: Tensor) -> Callable[[], Tensor]:
    return lambda: scale * (up.float() @ down.float())


def _added(update: Callable[[], Tensor], turned: bool) -> Callable[[Tensor], Tensor]:
    def change(weight: Tensor) -> Tensor:
        learned = update()
        return (weight.float() + (learned.T if turned else learned)).to(weight.dtype)

    return change


def _trained(learned: Path, checkpoint: Checkpoint) -> dict[str, Callable[[Tensor], Tensor]]:
    """The trained weights that differ from the checkpoint's, by stored name."""
    arch = architecture_in(checkpoint)
    where = _files(learned)
    changes: dict[str, Callable[[Tensor], Tensor]] = {}
    for live, file in where.items():
        name = arch.stored(live)
        if name in checkpoint.tensors:
            changes[name] = _replaced(file, live)
    if not changes:
        raise FingerprintError(
            f"the weights in {learned} name none of the tensors of {checkpoint.path}; they are of another base"
        )
    return changes


def _files(learned: Path) -> Mapping[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(learned.glob("*.safetensors")):
        with safetensors.safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _replaced(file: Path, name: str) -> Callable[[Tensor], Tensor]:
    def change(old: Tensor) -> Tensor:
        with safetensors.safe_open(file, framework="pt") as opened:
            new: Tensor = opened.get_tensor(name)
        # Rounding that training left where nothing was learned is no change.
        return old if torch.equal(new.to(old.dtype), old) else new.to(old.dtype)

    return change
