"""Several forward passes of a chat model, one after the other or, where the model is read block by
block, all of them through each block before the next one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vectomy.core.module_io import inner_model
from vectomy.core.types import Stream
from vectomy.models.attention_kernels import without_cudnn_attention
from vectomy.models.batch import Pass
from vectomy.models.chat import ChatModel
from vectomy.models.layerwise import LayerwisePass
from vectomy.models.teacher_forcing import resume_at

__all__ = ["ModelPass", "run_passes"]


@dataclass(frozen=True, eq=False)
class ModelPass:
    """One forward pass.

    Attributes:
        read: takes what is wanted from the last hidden states.
        stream: the residual stream at the layer where the pass resumes; None: it starts at the
            embeddings.
        hooks: makes the context in which the pass runs, such as an edit's hooks.
    """

    batch: Pass
    read: Callable[[Stream], Tensor]
    stream: Stream | None = None
    hooks: Callable[[], AbstractContextManager[Any]] = nullcontext


def run_passes(chat: ChatModel, passes: Sequence[ModelPass], layer: int = 0) -> list[Tensor]:
    """What each pass reads from its last hidden states, in the caller's gradient mode.

    Args:
        layer: where passes with a stream resume. Either all passes have one, or none.
    """
    resumed = bool(layer) and all(item.stream is not None for item in passes)
    resuming: AbstractContextManager[list[Stream]] = resume_at(chat, layer) if resumed else nullcontext([])
    with resuming as given:
        if chat.stream is None:
            return [_run(chat, item, given) for item in passes]
        runs = [
            LayerwisePass(partial(_start, chat, item, given), item.hooks, partial(_read_output, item))
            for item in passes
        ]
        with without_cudnn_attention():
            return chat.stream.run_together(runs, layer if resumed else 0)


def _run(chat: ChatModel, item: ModelPass, given: list[Stream]) -> Tensor:
    if item.stream is not None:
        given[:] = [item.stream]
    with item.hooks():
        return item.read(chat.hidden(item.batch))


def _start(chat: ChatModel, item: ModelPass, given: list[Stream]) -> Callable[[], Any]:
    if item.stream is not None:
        given[:] = [item.stream]
    return partial(inner_model(chat.model), **item.batch.inputs())


def _read_output(item: ModelPass, output: Any) -> Tensor:
    return item.read(output.last_hidden_state)
