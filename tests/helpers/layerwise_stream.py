"""Batches, and the stream of a model that is read block by block or whole."""

from collections.abc import Sequence

import torch
from tiny import VOCAB
from torch import Tensor

from vectomy.core.types import SITES
from vectomy.hooks.capture import capture
from vectomy.models import (
    Batch,
    ChatModel,
)


def random_batches(chat: ChatModel, count: int = 3) -> list[Batch]:
    """Prompts of 3 to 12 random tokens, so that batches are padded and differ in width."""
    generator = torch.Generator().manual_seed(3)
    lengths = range(3, 13, 1)
    ids = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return list(chat.batches(ids, batch_tokens=120 // count))


def stream_of(chat: ChatModel, batches: Sequence[Batch]) -> dict[object, Tensor]:
    """The last token's stream by batch, site and layer."""
    found: dict[object, Tensor] = {}
    with chat.iter_layers(batches) as sweeps:
        for layers, passed in sweeps:
            with capture(chat.model, SITES, layers=layers, positions=[-1]) as stream:
                for batch in passed:
                    found |= {(tuple(batch.rows), *point): value for point, value in stream.items()}
    return found


def pair() -> Batch:
    ids = torch.randint(3, VOCAB, (2, 7))
    return Batch([0, 1], ids, torch.ones_like(ids))
