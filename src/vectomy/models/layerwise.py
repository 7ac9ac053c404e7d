"""Runs a model that is larger than memory: all batches through one block, then all through the
next.

Each batch is a forward pass of the model itself, paused before a block that is not loaded yet. So
the model's own code does everything around its blocks: masks, rotary tables, per-layer embeddings,
several streams, keys that later layers reuse. A pass is a greenlet: a stack that can be left and
re-entered in the same thread. Threads would each start a pool of OpenMP workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import nn

from vectomy.architecture import architecture_of
from vectomy.core.errors import ModelError
from vectomy.core.module_io import inner_model
from vectomy.core.quoted_error import quote_error
from vectomy.models.batch import Batch
from vectomy.models.block_pages import BlockPages
from vectomy.models.memory import available_memory
from vectomy.models.weights import Weights, is_empty

__all__ = ["LayerBatches", "LayerwiseModel", "LayerwisePass"]

LayerBatches = tuple[range, Iterator[Batch]]
"""Layers, and an iterator that runs the batches through them and yields each one afterwards."""

# An embedding with more rows than this is a token table, of which few rows are read; tables of
# positions have fewer.
TOKEN_TABLE = 1 << 16


@dataclass(frozen=True, eq=False)
class LayerwisePass:
    """One of several passes that run together.

    Attributes:
        start: prepares the pass, and returns the call of the model.
        hooks: makes the context in which every part of the pass runs.
        read: takes what is wanted from the model's output.
    """

    start: Callable[[], Callable[[], Any]]
    hooks: Callable[[], AbstractContextManager[Any]]
    read: Callable[[Any], Any]


class LayerwiseModel:
    """A model without weights, its weights on disk, and the loop over its blocks.

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
            raise self._error("uses one block at several layers")
        self.pages = BlockPages(weights, list(zip(paths, self.blocks, strict=True)))
        self._others = ExitStack()
        self.runs_passes = False

    def allow_passes(self) -> None:
        """Let whole passes run, each of which reads all blocks: `ChatModel.hidden`, logits, answers
        and backward passes with recomputed blocks. The head, norms and biases stay in memory, and
        as many blocks as there is room for.
        """
        if self.runs_passes:
            return
        # The architecture is known by whether head and embedding are one, which ends here.
        architecture_of(self.model)
        self.weights.load_head()
        self.weights.load_vectors(self.paths)
        self._load_others_when_called(self._others)
        self.runs_passes = True
        self.pages.expect_passes()

    def run_together(self, passes: Sequence[LayerwisePass], first: int = 0) -> list[Any]:
        """Run passes block by block: all of them through each block from `first` on before the next
        one. What the blocks below `first` do is up to the caller.

        Returns:
            What each pass reads from its output.
        """
        with ExitStack() as stack:
            self._pause_before_blocks(stack, first)
            runs: list[Any] = []
            stack.callback(_abandon, runs)
            for item in passes:
                runs.append(greenlet(item.start()))
                with item.hooks():
                    self._switch(runs[-1], first)
            for layer in range(first + 1, len(self.blocks)):
                for run, item in zip(runs, passes, strict=True):
                    with item.hooks():
                        self._switch(run, layer)
            results = []
            for run, item in zip(runs, passes, strict=True):
                with item.hooks():
                    results.append(item.read(self._switch(run, len(self.blocks))))
            return results

    def iter_layers(
        self, batches: Sequence[Batch], state_bytes: int | None = None
    ) -> Generator[LayerBatches]:
        """Yields once per layer, in order.

        Batches whose states need more than `state_bytes` are divided into groups, and each group
        runs through all layers. Close the generator (contextlib.closing): one that is left early
        holds weights and hooks.

        Raises:
            ModelError: the model does not run its blocks one after the other.
            CheckpointError: weights are missing.
        """
        room = available_memory(self.device) - 2 * self.pages.largest
        state_bytes = max(room // 2, 0) if state_bytes is None else state_bytes
        self.pages.ahead = room > 0
        try:
            for group in self._groups(batches, state_bytes):
                yield from self._iter_group(group)
        finally:
            if not self.runs_passes:
                self.pages.clear()

    def _groups(self, batches: Sequence[Batch], state_bytes: int) -> Iterator[list[Batch]]:
        group: list[Batch] = []
        size = 0
        for batch in batches:
            # The stream, and the embeddings, which the model's own forward keeps.
            more = 2 * batch.input_ids.numel() * self.d_model * self.model.dtype.itemsize
            if group and size + more > state_bytes:
                yield group
                group, size = [], 0
            group.append(batch)
            size += more
        if group:
            yield group

    def _iter_group(self, batches: list[Batch]) -> Iterator[LayerBatches]:
        with ExitStack() as stack:
            if not self.runs_passes:
                self._load_others_when_called(stack)
            self._pause_before_blocks(stack)
            passes: list[Any] = []
            stack.callback(_abandon, passes)
            for batch in batches:
                # No function of ours may be on a stack that pauses: jaxtyping keeps its bindings on
                # a stack per thread, which must be left in the order it was entered. Hence
                # `partial` here, and a lambda in `_pause_before`.
                passes.append(greenlet(partial(inner_model(self.model), **batch.inputs())))
                self._resume(passes[-1], 0)
            for layer in range(len(self.paths)):
                with self.pages.loaded(layer):
                    finished = self._run_layer(layer, passes, batches)
                    yield range(layer, layer + 1), finished
                    for _ in finished:  # a caller that left early still gets the next layer's input
                        pass

    def _run_layer(self, layer: int, passes: list[Any], batches: list[Batch]) -> Iterator[Batch]:
        for run, batch in zip(passes, batches, strict=True):
            self._resume(run, layer + 1)
            yield batch

    def _resume(self, run: Any, layer: int) -> None:
        with torch.inference_mode():
            self._switch(run, layer)

    def _switch(self, run: Any, layer: int) -> Any:
        """Continue a pass up to block `layer`, or to its end if `layer` is after the last block.
        Returns the result at its end.
        """
        try:
            arrived = run.switch()
        except (RuntimeError, NotImplementedError) as error:
            if "meta" not in str(error):
                raise
            raise self._error(
                f"uses weights outside its blocks that are not loaded ({quote_error(error)})"
            ) from error
        if run.dead != (layer == len(self.blocks)) or (not run.dead and arrived != layer):
            where = "ended" if run.dead else f"came to block {arrived}"
            raise self._error(
                f"does not run its blocks one after the other ({where} where {layer} comes next)"
            )
        return arrived

    def _error(self, reason: str) -> ModelError:
        return ModelError(
            f"the forward pass of model type '{self.model.config.model_type}' {reason}, so it cannot be "
            "read block by block; "
            "load the model whole"
        )

    def _pause_before_blocks(self, stack: ExitStack, first: int = 0) -> None:
        for layer, block in enumerate(self.blocks[first:], first):
            # torch.nn.Module calls this attribute, if set, instead of the module and its hooks,
            # which may be registered during the pause.
            block._compiled_call_impl = _pause_before(layer, block)
            stack.callback(block.__dict__.pop, "_compiled_call_impl", None)

    def _load_others_when_called(self, stack: ExitStack) -> None:
        """Read the modules outside the blocks (embeddings, norms, projections) when the pass
        reaches them. Of token tables, only the rows that occur are read.
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
                # It may be beyond the rows that are read, and matters in training alone.
                stack.callback(setattr, module, "padding_idx", module.padding_idx)
                module.padding_idx = None
                # One NaN in the shape of the table: models read its device, and any other read
                # shows up as NaN.
                blank = torch.full((), torch.nan, dtype=module.weight.dtype, device=self.device)
                module.weight = nn.Parameter(blank.expand(module.weight.shape), requires_grad=False)
                stack.callback(module.register_forward_pre_hook(partial(self._load_rows, table)).remove)
                stack.callback(module.register_forward_hook(partial(_set_weight, module.weight)).remove)

    def _load(self, stack: ExitStack, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        if is_empty(module):
            tensors = self.weights.read(self.weights.names(name, below=False))
            stack.enter_context(self.weights.loaded(name, tensors, below=False))

    def _load_rows(self, table: str, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give an embedding only the rows of this batch's tokens, and replace the tokens by indices
        into them.
        """
        ids, places = args[0].unique(return_inverse=True)
        rows = self.weights.rows(table, ids.cpu()).to(self.device, module.weight.dtype)
        module.weight = nn.Parameter(rows, requires_grad=False)
        return (places, *args[1:])


def _pause_before(layer: int, block: nn.Module) -> Callable[..., Any]:
    return lambda *args, **kwargs: (getcurrent().parent.switch(layer), block._call_impl(*args, **kwargs))[1]


def _set_weight(weight: nn.Parameter, module: nn.Module, args: Any, output: Any) -> None:
    module.weight = weight


def _is_token_table(model: Any, module: nn.Module) -> bool:
    if not isinstance(module, nn.Embedding):
        return False
    return module is model.get_input_embeddings() or module.num_embeddings > TOKEN_TABLE


@torch.inference_mode()
def _abandon(passes: list[Any]) -> None:
    """End paused passes, in the mode they run in: a pass paused within `no_grad` restores the mode
    that it entered with.
    """
    for run in passes:
        run.throw()  # GreenletExit: the stack unwinds and frees its tensors
