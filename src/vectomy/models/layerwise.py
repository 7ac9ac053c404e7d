"""Run a model that is larger than memory: all batches through one block, then all through the next.

Each batch is a forward pass of the model itself, paused in front of the block that is not there
yet. So whatever the model does around its blocks (masks, rotary tables, per-layer embeddings,
several streams, keys that later layers use again) is done by its own code, and nothing of it is
written again here. A pass is a greenlet: a stack that can be left and entered again, in the same
thread; threads would each bring their own pool of OpenMP workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from vectomy.core.errors import ModelError
from vectomy.models.batch import Batch
from vectomy.models.memory import available_memory
from vectomy.models.weights import Weights, is_empty

__all__ = ["LayerwiseModel", "Sweep"]

Sweep = tuple[range, Iterator[Batch]]
"""Layers, and the batches as they have just gone through them."""

# An embedding with more rows than this is a table of tokens, of which few occur; positions are
# fewer.
TOKEN_TABLE = 1 << 16


class LayerwiseModel:
    """A skeleton, its weights on disk, and the walk over its blocks.

    Raises:
        ModelError: one block serves several layers.
    """

    def __init__(self, model: Any, weights: Weights, paths: Sequence[str], d_model: int) -> None:
        """`paths` are the module paths of the blocks, in order."""
        self.model = model
        self.weights = weights
        self.device = weights.device
        self.paths = paths
        self.blocks = [model.get_submodule(path) for path in paths]
        self.d_model = d_model
        if len(set(map(id, self.blocks))) < len(self.blocks):
            raise self._refused("uses one block at several layers")

    def iter_layers(self, batches: Sequence[Batch], budget: int | None = None) -> Generator[Sweep]:
        """One sweep a layer, in order. Batches whose states are more than `budget` bytes go in
        groups, each with a walk of its own over all layers. Close it (contextlib.closing): left in
        the middle, it holds weights and hooks.

        Raises:
            ModelError, CheckpointError: weights that are missing, or blocks that are not run one
                after the other.
        """
        block = max(map(self.weights.bytes, self.paths))
        room = available_memory(self.device) - 2 * block
        budget = max(room // 2, 0) if budget is None else budget
        for group in self._groups(batches, budget):
            yield from self._walk(group, ahead=room > 0)

    def _groups(self, batches: Sequence[Batch], budget: int) -> Iterator[list[Batch]]:
        group: list[Batch] = []
        size = 0
        for batch in batches:
            # The stream, and the embeddings, which the model's own forward holds on to.
            more = 2 * batch.input_ids.numel() * self.d_model * self.model.dtype.itemsize
            if group and size + more > budget:
                yield group
                group, size = [], 0
            group.append(batch)
            size += more
        if group:
            yield group

    def _walk(self, batches: list[Batch], ahead: bool) -> Iterator[Sweep]:
        with ExitStack() as stack:
            reader = stack.enter_context(ThreadPoolExecutor(1))
            self._load_others_when_called(stack)
            self._pause_before_blocks(stack)
            passes: list[Any] = []
            stack.callback(_abandon, passes)
            for batch in batches:
                # Nothing of ours on a stack that pauses: jaxtyping's bindings are a stack of the
                # thread's, which has to be left in the order it was entered. Hence `partial` here,
                # and a lambda in `_pausing`.
                passes.append(greenlet(partial(self.model.base_model, **batch.inputs())))
                self._resume(passes[-1], 0)
            coming = self._read(reader, 0)
            for layer, path in enumerate(self.paths):
                tensors = coming.result()
                if ahead:
                    coming = self._read(reader, layer + 1)
                with self.weights.loaded(path, tensors):
                    passed = self._through(layer, passes, batches)
                    yield range(layer, layer + 1), passed
                    for _ in passed:  # a caller that left early still gets the next layer's input
                        pass
                if not ahead:
                    coming = self._read(reader, layer + 1)

    def _read(self, reader: ThreadPoolExecutor, layer: int) -> Future[dict[str, Tensor]]:
        names = self.weights.names(self.paths[layer]) if layer < len(self.paths) else []
        return reader.submit(self.weights.read, names)

    def _through(self, layer: int, passes: list[Any], batches: list[Batch]) -> Iterator[Batch]:
        for run, batch in zip(passes, batches, strict=True):
            self._resume(run, layer + 1)
            yield batch

    def _resume(self, run: Any, layer: int) -> None:
        """Let a pass go on until it stands before block `layer`, or behind the last one to its end."""
        try:
            with torch.inference_mode():
                arrived = run.switch()
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error):
                raise
            raise self._refused(
                f"uses weights outside of its blocks that are not there ({str(error)[:200]})"
            ) from error
        if run.dead != (layer == len(self.blocks)) or (not run.dead and arrived != layer):
            where = "ended" if run.dead else f"came to block {arrived}"
            raise self._refused(
                f"does not run its blocks one after the other ({where} where {layer} comes next)"
            )

    def _refused(self, reason: str) -> ModelError:
        return ModelError(
            f"the forward pass of model type '{self.model.config.model_type}' {reason}, so it cannot be read block by block; "
            "load the model whole"
        )

    def _pause_before_blocks(self, stack: ExitStack) -> None:
        for layer, block in enumerate(self.blocks):
            # Where torch.nn.Module puts what stands in for a call, hooks included: they may be
            # registered during the pause.
            block._compiled_call_impl = _pausing(layer, block)
            stack.callback(block.__dict__.pop, "_compiled_call_impl", None)

    def _load_others_when_called(self, stack: ExitStack) -> None:
        """Embeddings, norms, projections outside of the blocks: read when the pass comes to them.
        Token tables by row.
        """
        inside = tuple(path + "." for path in self.paths)
        for name, module in self.model.named_modules():
            if f"{name}.".startswith(inside) or not is_empty(module):
                continue
            table = self.weights.table(name) if _is_token_table(self.model, module) else None
            if table is None:
                load = partial(self._load, stack, name)
                stack.callback(module.register_forward_pre_hook(load).remove)
            else:
                stack.callback(setattr, module, "weight", module.weight)
                # One NaN in the shape of the table: models ask it for its device, and what else
                # reads it is found out.
                blank = torch.full((), torch.nan, dtype=module.weight.dtype, device=self.device)
                module.weight = nn.Parameter(blank.expand(module.weight.shape), requires_grad=False)
                stack.callback(module.register_forward_pre_hook(partial(self._load_rows, table)).remove)
                stack.callback(module.register_forward_hook(partial(_set_weight, module.weight)).remove)

    def _load(self, stack: ExitStack, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if is_empty(module):
            tensors = self.weights.read(self.weights.names(name, below=False))
            stack.enter_context(self.weights.loaded(name, tensors, below=False))

    def _load_rows(self, table: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give an embedding the rows of this batch's tokens alone, and the tokens as places among
        them.
        """
        ids, places = args[0].unique(return_inverse=True)
        rows = self.weights.rows(table, ids.cpu()).to(self.device, module.weight.dtype)
        module.weight = nn.Parameter(rows, requires_grad=False)
        return (places, *args[1:])


def _pausing(layer: int, block: nn.Module) -> Callable[..., Any]:
    return lambda *args, **kwargs: (getcurrent().parent.switch(layer), block._call_impl(*args, **kwargs))[1]


def _set_weight(weight: nn.Parameter, module: nn.Module, args: Any, output: Any) -> None:
    module.weight = weight


def _is_token_table(model: Any, module: nn.Module) -> bool:
    if not isinstance(module, nn.Embedding):
        return False
    return module is model.get_input_embeddings() or module.num_embeddings > TOKEN_TABLE


@torch.inference_mode()
def _abandon(passes: list[Any]) -> None:
    """End paused passes, in the mode they run in: one paused within `no_grad` restores what it
    found when it entered.
    """
    for run in passes:
        run.throw()  # GreenletExit: its stack unwinds, and what it holds goes
