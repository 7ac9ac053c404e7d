"""Teacher-forced passes of the base and of edits on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor

from vectomy.core.types import Point, Stream
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.models import ChatModel, ModelPass, TeacherForcedBatch, run_passes

__all__ = ["run_base", "run_edited"]


def run_base(
    chat: ChatModel, batches: Sequence[TeacherForcedBatch], layer: int
) -> tuple[list[Tensor | None], list[Tensor]]:
    """For each batch the stream that enters `layer` (None for layer 0), and the last hidden states
    that predict the labels (label x d_model).
    """
    streams: list[Tensor | None] = [None] * len(batches)

    def store(index: int) -> AbstractContextManager[Any]:
        consume = partial(_store_clone, streams, index)
        return capture(chat.model, ["resid_pre"], layers=[layer] if layer else [], consume=consume)

    passes = [
        ModelPass(batch, batch.predicting, hooks=partial(store, index)) for index, batch in enumerate(batches)
    ]
    return streams, run_passes(chat, passes)


def _store_clone(streams: list[Tensor | None], index: int, _point: Point, value: Stream) -> None:
    streams[index] = value.clone()


def run_edited(
    chat: ChatModel,
    batches: Sequence[TeacherForcedBatch],
    streams: Sequence[Tensor | None],
    edits: Sequence[Edit],
    layer: int,
) -> Iterator[list[Tensor]]:
    """For each batch, the states that predict its labels under each edit (label x d_model).

    Args:
        streams: of `run_base`. Passes resume at `layer`; the edits must not touch anything below.
    """
    passes = [
        [ModelPass(batch, batch.predicting, stream, partial(edit.hooks, chat.model)) for edit in edits]
        for batch, stream in zip(batches, streams, strict=True)
    ]
    if chat.stream is None:
        for of_batch in passes:
            yield run_passes(chat, of_batch, layer)
        return
    states = run_passes(chat, [item for of_batch in passes for item in of_batch], layer)
    for index in range(len(batches)):
        yield states[index * len(edits) : (index + 1) * len(edits)]
