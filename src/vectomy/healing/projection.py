"""Keep training out of the directions that an Edit removed, whatever the loss asks for.

Protected directions are, by module, orthonormal rows R (k x d_model) that the trained part of the
module must not write along: those that the Edit removes, folded through any norm between the writer
and the stream. An adapter s B A on a writer W adds s B A x to its output; with

    B <- (I - R^T R) B
    [D]

r . (s B A x) = 0 for every input x and every row r of R. In training the output of B is projected,
so that the projection is part of the function and of its gradient, also with sharded parameters; in
the saved adapter B itself is projected, which is the same function.

In full training the writer's output keeps its part along R:

    y <- (I - R^T R) y + R^T (C x + c),  C = R W and c = R b of the edited model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.checkpoint.lora import ADAPTER_PREFIX, LORA_UP
from vectomy.core.module_io import first_output

__all__ = [
    "PreservedOutput",
    "WriterDirections",
    "find_composite_writers",
    "preserve_writer_outputs",
    "project_adapter",
    "project_adapter_outputs",
    "project_matrix",
    "restore_weights",
    "share_along",
]

WriterDirections = Mapping[str, Tensor]
"""Protected directions by live module: k x d_model orthonormal rows."""


class PreservedOutput(NamedTuple):
    """What the edited model writes along the protected directions of one module."""

    matrix: Float[Tensor, "k d_in"]
    """C = R W"""
    bias: Float[Tensor, k] | None
    """c = R b; None without bias"""


def project_matrix(
    matrix: Float[Tensor, "d_model n"], rows: Float[Tensor, "k d_model"]
) -> Float[Tensor, "d_model n"]:
    """(I - R^T R) M, computed in float64 on the CPU where the device has no float64; only the
    rounding of the result's dtype remains.
    """
    m = _double(matrix)
    r = rows.to(m)
    return (m - r.T @ (r @ m)).to(matrix.dtype).to(matrix.device)


def _double(tensor: Tensor) -> Tensor:
    """In float64, which MPS lacks: on the CPU there."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def share_along(change: Float[Tensor, "d_model n"], rows: Float[Tensor, "k d_model"]) -> float:
    """|R M| / |M|: the share of a change that lies along the directions."""
    whole = float(change.double().norm())
    return float((rows.double() @ change.double()).norm()) / whole if whole else 0.0


# Adapters


@contextmanager
def project_adapter_outputs(model: nn.Module, directions: WriterDirections) -> Iterator[list[str]]:
    """Project the outputs of a PEFT model's adapter during the block. Yields the modules that have
    an adapter and protected directions.
    """
    modules: list[str] = []
    with ExitStack() as hooks:
        for name, rows in directions.items():
            ups = getattr(_get_submodule(model, ADAPTER_PREFIX + name), "lora_B", None)
            for up in ups.values() if ups is not None else ():
                hooks.callback(up.register_forward_hook(_make_projection_hook(rows)).remove)
                modules.append(name)
        yield modules


def _get_submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _make_projection_hook(rows: Tensor) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        r = rows.to(device=output.device, dtype=torch.float32)
        with torch.autocast(output.device.type, enabled=False):
            y = output.float()
            return (y - (y @ r.T) @ r).to(output.dtype)

    return hook


def project_adapter(tensors: Mapping[str, Tensor], directions: WriterDirections) -> dict[str, Tensor]:
    """The tensors of a LoRA file, with B projected in every module of `directions`."""
    return {
        name: project_matrix(value, directions[module])
        if (module := _writer_of(name)) in directions
        else value
        for name, value in tensors.items()
    }


def _writer_of(name: str) -> str:
    return name.removeprefix(ADAPTER_PREFIX).removesuffix(LORA_UP) if name.endswith(LORA_UP) else ""


# Full training


def find_composite_writers(model: nn.Module, directions: WriterDirections) -> list[str]:
    """Modules that hold more than one matrix (fused experts) or do more than multiply by one. Their
    output cannot be projected, so full training freezes them.
    """
    return [name for name in directions if not _is_plain(model.get_submodule(name))]


def _is_plain(module: nn.Module) -> bool:
    """Whether the module multiplies by one matrix and does nothing else. A subclass may do more:
    Gemma's embedding scales its output.
    """
    return type(module) in (nn.Linear, nn.Embedding) or type(module).__name__ == "Conv1D"


@contextmanager
def preserve_writer_outputs(
    model: nn.Module, directions: WriterDirections
) -> Iterator[dict[str, PreservedOutput]]:
    """During the block the writers write along the directions what they write now, however their
    weights change.

    Yields C and c by module, for `restore_weights`.
    """
    preserved: dict[str, PreservedOutput] = {}
    with ExitStack() as hooks:
        for name, rows in directions.items():
            module = model.get_submodule(name)
            if _is_plain(module):
                preserved[name] = _compute_preserved(module, rows)
                hooks.callback(
                    module.register_forward_hook(_make_preserving_hook(rows, preserved[name])).remove
                )
        yield preserved


def _compute_preserved(module: Any, basis: Tensor) -> PreservedOutput:
    weight = module.weight.detach().float()
    rows = basis.to(weight)
    bias = getattr(module, "bias", None)
    return PreservedOutput(
        rows @ weight.movedim(_stream_axis(module), 0), None if bias is None else rows @ bias.detach().float()
    )


def _stream_axis(module: nn.Module) -> int:
    """The axis of the weight that is d_model: first in nn.Linear, last in an embedding and in
    transformers' Conv1D.
    """
    return 0 if isinstance(module, nn.Linear) else 1


def _make_preserving_hook(rows: Tensor, preserved: PreservedOutput) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        y = first_output(output)
        with torch.autocast(y.device.type, enabled=False):
            value, r, c = y.float(), rows.to(y.device).float(), preserved.matrix.to(y.device)
            along = c.T[args[0]] if isinstance(module, nn.Embedding) else args[0].float() @ c.T
            along = along if preserved.bias is None else along + preserved.bias.to(y.device)
            changed = (value - (value @ r.T) @ r + along @ r).to(y.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


@torch.no_grad()
def restore_weights(
    model: nn.Module, directions: WriterDirections, preserved: Mapping[str, PreservedOutput]
) -> None:
    """Write into the weights what the hooks of `preserve_writer_outputs` made of their outputs."""
    for name, (c, bias) in preserved.items():
        module: Any = model.get_submodule(name)
        r = directions[name].to(module.weight.device)
        matrix = module.weight.detach().movedim(_stream_axis(module), 0)
        new = project_matrix(matrix.float(), r) + r.float().T @ c.to(r.device)
        module.weight.copy_(new.movedim(0, _stream_axis(module)))
        if bias is not None:
            old = module.bias.detach().float()
            module.bias.copy_(project_matrix(old[:, None], r)[:, 0] + bias.to(r.device) @ r.float())
