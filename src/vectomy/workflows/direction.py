"""`vectomy direction`: from a contrast to one direction, also with a model larger than memory.

Both prompt sets go through the blocks one after the other (models/layerwise.py). The direction is
for `vectomy edit new`; the bake and the verification of that Edit are streamed too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch

from vectomy.checkpoint import Checkpoint
from vectomy.core.config import Runtime
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.output_path import check_file_content, check_file_output
from vectomy.core.progress import Progress, silent
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import json_bytes, write_whole
from vectomy.core.threads import use_threads
from vectomy.core.types import Vector
from vectomy.data.splits import split_contrast
from vectomy.models import (
    check_prompts,
    fits,
    layerwise_memory,
    load_layerwise,
    load_model,
    loaded_bytes,
    probe_architecture,
)
from vectomy.models.demo import model_folder
from vectomy.search.collect import collect
from vectomy.search.estimators import NEEDS_SAMPLES, explain_loud, fit_directions
from vectomy.workflows.needed_packages import list_missing_for_direction
from vectomy.workflows.preflight import refuse
from vectomy.workflows.stages import Log, ignore

__all__ = ["FoundDirection", "find_direction", "fit_direction", "save_direction"]

# The layer that the gradient search of the experiments starts from, as a share of the depth (Arditi
# et al. search up to 0.8).
DEPTH = 0.6

Stream = Literal["auto", "yes", "no"]


def fit_direction(
    config: RunConfig,
    out: str | Path,
    *,
    layer: int | None = None,
    position: int = -1,
    stream: Stream = "auto",
    overwrite: bool = True,
    progress: Progress = silent,
    log: Log = ignore,
) -> dict[str, Any]:
    """Collect both sides of the contrast at resid_pre, fit directions, and write that of `layer`.

    Args:
        out: a .safetensors file for the unit vector `direction`; a .json file of the same name
            records how it was found.
        layer: absent: 0.6 of the depth.
        stream: read the model block by block; auto does so where it does not fit into memory.
        overwrite: replace another direction in `out`.

    Raises:
        ConfigError: a layer that the model lacks.
        FinishedRunError: without `overwrite`, another direction is in `out`. Others as for
            `collect`.
    """
    direction = find_direction(
        config, out, layer=layer, position=position, stream=stream, progress=progress, log=log
    )
    save_direction(direction, out, overwrite=overwrite)
    return {"direction": str(out), **direction.record}


@dataclass(frozen=True, eq=False)
class FoundDirection:
    """A unit vector, and how it was found."""

    vector: Vector
    record: JsonObject


def save_direction(direction: FoundDirection, out: str | Path, *, overwrite: bool) -> None:
    """Write the .safetensors file `out`, and the record beside it.

    Raises:
        FinishedRunError: without `overwrite`, another direction is there; neither file was changed.
    """
    out = Path(out)
    content = {
        out: safetensors.torch.save({"direction": direction.vector.contiguous()}),
        out.with_suffix(".json"): json_bytes(direction.record),
    }
    if not overwrite:
        for file, data in content.items():
            check_file_content(file, data, "another direction is there, or another file")
    for file, data in content.items():
        with write_whole(file) as beside:
            beside.write_bytes(data)


def find_direction(
    config: RunConfig,
    out: str | Path,
    *,
    layer: int | None = None,
    position: int = -1,
    stream: Stream = "auto",
    progress: Progress = silent,
    log: Log = ignore,
) -> FoundDirection:
    """`fit_direction` without writing: `out` is only checked to be writable."""
    out = Path(out)
    if position >= 0:
        raise ConfigError(
            f"--position is {position}: positions are counted back from the end of the template, and -1 is "
            "its last token"
        )
    for file in (out, out.with_suffix(".json")):
        check_file_output(file)
    refuse(*list_missing_for_direction(config))
    use_threads(config.runtime.threads)
    runtime = config.runtime
    source = model_folder(config.model, progress)
    probe_architecture(source, trust_remote_code=config.runtime.trust_remote_code, progress=progress)
    check_file_output(out, source)
    checkpoint = Checkpoint.open(source)
    blockwise = _reads_blockwise(checkpoint, config.runtime, stream)
    positive, negative = split_contrast(config.contrast, config.seed, log)
    fitted = [*positive.fit, *negative.fit]
    check_prompts(source, fitted, 0, runtime=config.runtime, name=config.model, log=log)
    opening = load_layerwise if blockwise else load_model
    chat = opening(
        source,
        runtime=config.runtime,
        name=config.model,
    )
    arch = chat.architecture
    chosen = round(DEPTH * arch.n_layers) if layer is None else layer
    if not 0 <= chosen < arch.n_layers:
        raise ConfigError(f"--layer {chosen}: {config.model} has layers 0 to {arch.n_layers - 1}")
    sides = [side.fit for side in (positive, negative)]
    tokens = sum(len(row) for prompts in sides for row in chat.tokens(prompts))
    needed = (
        layerwise_memory(checkpoint, arch, tokens, chat.pass_tokens(config.runtime.batch_tokens))
        if blockwise
        else loaded_bytes(checkpoint, runtime.dtype, runtime.device, runtime.load_in)
    )
    log(
        f"{len(sides[0])} and {len(sides[1])} prompts, {tokens:,} tokens; the model has "
        f"{checkpoint.bytes / 2**30:.1f} GiB and is "
        f"{'read block by block' if blockwise else 'loaded whole'}, which takes some {needed / 2**30:.1f} "
        "GiB of memory"
    )
    statistics = [
        collect(
            chat,
            prompts,
            sites=["resid_pre"],
            positions=[position],
            samples=config.direction_estimator in NEEDS_SAMPLES,
            covariance=config.covariance,
            batch_tokens=config.runtime.batch_tokens,
            progress=progress,
        )
        for prompts in sides
    ]
    estimator = config.direction_estimator
    if config.chooses_estimator and (note := explain_loud(statistics[1], estimator)):
        estimator = "masked"
        log(f"note: {note}")
    vector = fit_directions(statistics[0], statistics[1], estimator).at("resid_pre", chosen, position)
    length = float(vector.norm())
    if not length:
        raise ConfigError(
            f"the two prompt sets do not differ at layer {chosen}, position {position}; choose a later layer"
        )
    record: JsonObject = {
        "model": config.model,
        "behaviour": config.contrast.behaviour,
        "contrast": [config.contrast.positive.prompts, config.contrast.negative.prompts],
        "prompts": [len(prompts) for prompts in sides],
        "estimator": estimator,
        "site": "resid_pre",
        "layer": chosen,
        "position": position,
        "length": length,
        "block_by_block": blockwise,
    }
    return FoundDirection(vector / length, record)


def _reads_blockwise(checkpoint: Checkpoint, runtime: Runtime, stream: Stream) -> bool:
    """Raises ConfigError: quantised weights are loaded whole."""
    if runtime.load_in is not None and stream == "yes":
        raise ConfigError(
            f"--load-in {runtime.load_in} loads the model whole, and --layerwise yes reads it layer by layer "
            "in full precision; give one of them"
        )
    if stream != "auto":
        return stream == "yes"
    return not fits(checkpoint) if runtime.load_in is None else False
