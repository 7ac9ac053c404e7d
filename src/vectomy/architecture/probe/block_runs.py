"""Find the blocks of a live model, and run one of them alone as it ran in a whole pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input, first_output
from vectomy.core.types import TokenIds

__all__ = ["Call", "Run", "clone_tensors", "find_blocks", "record_calls", "rerun_block", "run_until"]

Call = tuple[tuple[Any, ...], dict[str, object]]
"""Positional and named arguments of a block."""
Run = Callable[[Tensor | None], Tensor]
"""Runs a part of the model, with another incoming stream or the recorded one (None), and gives the
outgoing stream.
"""


def _forward(model: nn.Module, input_ids: TokenIds) -> None:
    model(input_ids=input_ids, use_cache=False)


def find_blocks(model: nn.Module, input_ids: TokenIds) -> tuple[str, list[nn.Module], int]:
    """The outermost list of modules of which each takes a (batch x token x width) stream and gives
    one like it.
    """
    seen: dict[nn.Module, int] = {}

    def watch(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        taken = args[0] if args else kwargs.get("hidden_states")
        given = output[0] if isinstance(output, tuple) else output
        if (
            isinstance(taken, Tensor)
            and isinstance(given, Tensor)
            and taken.shape == given.shape
            and taken.ndim == 3
        ):
            seen[module] = taken.shape[-1]

    lists = {
        name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    }
    with ExitStack() as hooks:
        for module in dict.fromkeys(child for children in lists.values() for child in children):
            hooks.callback(module.register_forward_hook(watch, with_kwargs=True).remove)
        _forward(model, input_ids)
    for name, children in lists.items():
        if children and all(child in seen for child in children):
            return name, children, seen[children[0]]
    raise ArchitectureError(
        f"{type(model).__name__} has no list of blocks that each read and return the residual stream, so its "
        "writers cannot be found"
    )


def record_calls(
    model: nn.Module, blocks: list[nn.Module], input_ids: TokenIds
) -> tuple[list[Call], list[Tensor]]:
    """With what each block is called, and what it gives."""
    calls: list[Call] = []
    results: list[Tensor] = []

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((clone_tensors(args), clone_tensors(kwargs)))

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        results.append(first_output(output).clone())

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        _forward(model, input_ids)
    if len(calls) != len(blocks):
        raise ArchitectureError(
            f"{len(blocks)} blocks were run {len(calls)} times in one pass; their stream is not one"
        )
    return calls, results


def rerun_block(block: nn.Module, call: Call) -> Run:
    """Runs one block alone."""

    def run(stream: Tensor | None) -> Tensor:
        args, kwargs = clone_tensors(call[0]), clone_tensors(call[1])
        if stream is not None and args:
            args = (stream, *args[1:])
        elif stream is not None:
            kwargs["hidden_states"] = stream
        return first_output(block(*args, **kwargs)).float().clone()

    return run


class _EnteredError(Exception):
    """The first block was reached."""


def run_until(model: nn.Module, first: nn.Module, input_ids: TokenIds) -> Run:
    """Runs a model until its first block is entered."""

    def run(_stream: Tensor | None) -> Tensor:
        entered: list[Tensor] = []

        def stop(_m: nn.Module, args: Any, kwargs: Any) -> None:
            entered.append(first_input(args, kwargs).float().clone())
            raise _EnteredError

        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            _forward(model, input_ids)
        except _EnteredError:
            pass
        finally:
            handle.remove()
        return entered[0]

    return run


def clone_tensors(value: Any) -> Any:
    """Tensors cloned, since blocks may add in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(clone_tensors(item) for item in value)
    if type(value) is dict:
        return {key: clone_tensors(item) for key, item in value.items()}
    return value
