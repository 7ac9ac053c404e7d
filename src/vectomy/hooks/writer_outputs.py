"""Change what writers add to the residual stream of a live model: the outputs of their modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from vectomy.architecture import Writer
from vectomy.core.module_io import first_output

__all__ = ["change_outputs", "is_hookable", "output_hook"]


@contextmanager
def change_outputs(
    model: nn.Module, changes: Sequence[tuple[Writer, Callable[[Tensor], Tensor]]]
) -> Iterator[None]:
    """Each writer's output through a function, in float32 and given back in its dtype; gradients
    flow through.

    For writers whose module is called (`hookable`), and at their module: before any norm behind it.
    """
    with ExitStack() as hooks:
        for writer, change in changes:
            module = model.get_submodule(writer.module)
            hooks.callback(module.register_forward_hook(output_hook(change, None)).remove)
        yield


def is_hookable(writer: Writer) -> bool:
    """Whether the writer is a module that is called, so that its output can be changed."""
    return not writer.slot.functional


def output_hook(change: Callable[[Tensor], Tensor] | None, addition: Tensor | None) -> Callable[..., Any]:
    """A forward hook that changes a module's output and adds a vector, in float32; the result has
    the output's dtype.
    """

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        value = first_output(output)
        changed = value.float() if change is None else change(value.float())
        changed = (changed if addition is None else changed + addition).to(value.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
