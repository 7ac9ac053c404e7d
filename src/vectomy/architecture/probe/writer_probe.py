"""The probe of a whole model: its embeddings, then block by block."""

from __future__ import annotations

import torch
from torch import nn

from vectomy.architecture.probe.block_runs import find_blocks, record_calls, rerun_block, run_until
from vectomy.architecture.probe.probed_part import ProbedPart, ProbedWriter, RandomDirections
from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input
from vectomy.core.types import TokenIds

__all__ = ["probe"]


@torch.no_grad()
def probe(model: nn.Module, input_ids: TokenIds | None = None, *, seed: int = 0) -> list[ProbedWriter]:
    """All parameters that write to the stream of a live model: embeddings first, then block by
    block.

    Costs one forward pass of the model, and for each parameter as wide as the stream a few of its
    block alone, on some twenty tokens. The weights have to be real, in a dtype of at least float32
    precision.

    Raises:
        ArchitectureError: no stack of blocks shares a stream; the stream is changed between or on
            its way through blocks; a parameter reaches the stream in a way that no edit of its
            weights can follow; a part was never run.
    """
    generator = torch.Generator().manual_seed(seed)
    if input_ids is None:
        count = model.get_input_embeddings().weight.shape[0]
        input_ids = torch.randint(min(8, count // 2), count, (2, 12), generator=generator)
    path, blocks, width = find_blocks(model, input_ids)
    calls, results = record_calls(model, blocks, input_ids)
    for layer in range(1, len(blocks)):
        if not torch.equal(results[layer - 1], first_input(*calls[layer])):
            raise ArchitectureError(
                f"something outside of both changes the stream between {path}.{layer - 1} and {path}.{layer}"
            )
    random, asleep = RandomDirections(generator, width), set[nn.Parameter]()
    found = ProbedPart(
        "",
        model,
        run_until(model, blocks[0], input_ids),
        random,
        {inner for block in blocks for inner in block.modules()},
    ).writers(None, None, asleep)
    awake: set[nn.Parameter] = set()
    for layer, (block, call) in enumerate(zip(blocks, calls, strict=True)):
        part = ProbedPart(f"{path}.{layer}", block, rerun_block(block, call), random)
        idle: set[nn.Parameter] = set()
        stream = first_input(*call)
        part.check_stream_passes(stream)
        found += part.writers(layer, stream, idle)
        asleep |= idle
        awake |= set(block.parameters()) - idle
    names = {value: name for name, value in model.named_parameters()}
    for value in asleep - awake:
        raise ArchitectureError(f"the probe never used '{names[value]}', so what it writes is not known")
    return found
