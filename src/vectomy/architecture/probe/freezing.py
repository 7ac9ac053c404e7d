"""Replay the recorded outputs of modules, and set parameters to other values, for the length of a
`with` block.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from vectomy.architecture.probe.block_runs import clone_tensors
from vectomy.core.module_io import first_input

__all__ = ["Outputs", "Seen", "freeze_outputs", "keep_input", "record_outputs", "set_parameter"]

Outputs = dict[nn.Module, list[Any]]
"""What each module gave, call by call."""
Seen = dict[nn.Module | None, Tensor]
"""What was seen of a run: the outgoing stream (None), and the input of each norm."""


@contextmanager
def record_outputs(modules: Iterable[nn.Module]) -> Iterator[Outputs]:
    """What each module gives, call by call, while the block is entered."""
    outputs: Outputs = {}

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        outputs.setdefault(module, []).append(clone_tensors(output))

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(after).remove)
        yield outputs


@contextmanager
def freeze_outputs(modules: Iterable[nn.Module], outputs: Outputs) -> Iterator[None]:
    """Within the block every module returns its recorded outputs, call by call, in each run."""
    with ExitStack() as hooks:
        for module in modules:
            if module not in outputs:
                continue
            # No closure: there are thousands of these, and a signature checker would look at each
            # anew.
            hook = partial(_replay, itertools.cycle(outputs[module]))
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _replay(kept: Iterator[Any], _module: nn.Module, _args: Any, _output: Any) -> Any:
    return clone_tensors(next(kept))


def keep_input(seen: Seen, module: nn.Module, args: Any, kwargs: Any) -> None:
    seen.setdefault(module, first_input(args, kwargs).float().clone())


@contextmanager
def set_parameter(parameter: Tensor, value: Tensor) -> Iterator[None]:
    old = parameter.detach().clone()
    parameter.copy_(value)
    try:
        yield
    finally:
        parameter.copy_(old)
