"""Keep what is learned out of directions that an Edit removed, whatever the loss asks for.

`rows` are, by module, the orthonormal directions R (k x d_model) that the module's learned part
must not write along: those the Edit removes, folded through any norm behind the writer. An adapter
s B A on a writer W adds s B A x to its output; with

    B <- (I - R^T R) B
    [D]

r . (s B A x) = 0 for every input x. In training this is done to the output of B, so that it is a
part of the function and of its gradient, and holds for sharded parameters too; when the adapter is
saved it is done to B itself, which is the same function. In full training the writer's output keeps
what it was along R: y <- (I - R^T R) y + R^T (C x + c), with C = R W, c = R b of the edited model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.core.module_io import first_output

__all__ = [
    "ADAPTER_PREFIX",
    "Rows",
    "along",
    "frozen_writers",
    "keep_adapter_out",
    "keep_weights_out",
    "project_adapter",
    "project_out",
    "restore_weights",
]

Rows = Mapping[str, Tensor]
"""By live module, k x d_model orthonormal rows."""
ADAPTER_PREFIX = "base_model.model."
UP = ".lora_B.weight"


def project_out(
    matrix: Float[Tensor, "d_model n"], rows: Float[Tensor, "k d_model"]
) -> Float[Tensor, "d_model n"]:
    """(I - R^T R) M in float64; rounding of the result's dtype is all that stays."""
    r, m = rows.double(), matrix.double()
    return (m - r.T @ (r @ m)).to(matrix.dtype)


def along(change: Float[Tensor, "d_model n"], rows: Float[Tensor, "k d_model"]) -> float:
    """|R M| / |M|: the share of a change that lies along the directions."""
    whole = float(change.double().norm())
    return float((rows.double() @ change.double()).norm()) / whole if whole else 0.0


@contextmanager
def keep_adapter_out(model: nn.Module, rows: Rows) -> Iterator[list[str]]:
    """A PEFT model whose adapter writes nothing along the rows, for the length of the block. Gives
    the modules it holds for.
    """
    held: list[str] = []
    with ExitStack() as hooks:
        for name, basis in rows.items():
            ups = getattr(_submodule(model, ADAPTER_PREFIX + name), "lora_B", None)
            for up in ups.values() if ups is not None else ():
                hooks.callback(up.register_forward_hook(_without(basis)).remove)
                held.append(name)
        yield held


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def _without(basis: Tensor) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        r = basis.to(device=output.device, dtype=torch.float32)
        with torch.autocast(output.device.type, enabled=False):
            y = output.float()
            return (y - (y @ r.T) @ r).to(output.dtype)

    return hook


def project_adapter(tensors: Mapping[str, Tensor], rows: Rows) -> dict[str, Tensor]:
    """The tensors of a LoRA file with every B of these modules projected."""
    return {
        name: project_out(value, rows[module]) if (module := _writer(name)) in rows else value
        for name, value in tensors.items()
    }


def _writer(name: str) -> str:
    return name.removeprefix(ADAPTER_PREFIX).removesuffix(UP) if name.endswith(UP) else ""


# Full training


def frozen_writers(model: nn.Module, rows: Rows) -> list[str]:
    """Modules whose learned part cannot be kept out by their output: they hold more than one matrix
    (fused experts).
    """
    return [name for name in rows if not _is_plain(model.get_submodule(name))]


def _is_plain(module: nn.Module) -> bool:
    """One matrix that is all the module does; a subclass may do more (Gemma's embedding scales what
    it gives).
    """
    return type(module) in (nn.Linear, nn.Embedding) or type(module).__name__ == "Conv1D"


@contextmanager
def keep_weights_out(model: nn.Module, rows: Rows) -> Iterator[dict[str, tuple[Tensor, Tensor | None]]]:
    """A model whose writers write along the rows what they do now, however their weights change in
    the block.

    Gives C and c by module, with which `restore_weights` makes the weights that compute the same.
    """
    kept: dict[str, tuple[Tensor, Tensor | None]] = {}
    with ExitStack() as hooks:
        for name, basis in rows.items():
            module = model.get_submodule(name)
            if _is_plain(module):
                kept[name] = _held(module, basis)
                hooks.callback(module.register_forward_hook(_fixed(basis, *kept[name])).remove)
        yield kept


def _held(module: Any, basis: Tensor) -> tuple[Float[Tensor, "k d_in"], Tensor | None]:
    weight = module.weight.detach().float()
    rows = basis.to(weight)
    bias = getattr(module, "bias", None)
    return rows @ weight.movedim(_axis(module), 0), None if bias is None else rows @ bias.detach().float()


def _axis(module: nn.Module) -> int:
    """The stream's axis of the weight: the first of nn.Linear, the last of an embedding and of
    transformers' Conv1D.
    """
    return 0 if isinstance(module, nn.Linear) else 1


def _fixed(basis: Tensor, c: Tensor, bias: Tensor | None) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        y = first_output(output)
        with torch.autocast(y.device.type, enabled=False):
            value, r, fixed = y.float(), basis.to(y.device).float(), c.to(y.device)
            given = fixed.T[args[0]] if isinstance(module, nn.Embedding) else args[0].float() @ fixed.T
            given = given if bias is None else given + bias.to(y.device)
            changed = (value - (value @ r.T) @ r + given @ r).to(y.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


@torch.no_grad()
def restore_weights(model: nn.Module, rows: Rows, kept: Mapping[str, tuple[Tensor, Tensor | None]]) -> None:
    """Write into the weights what the hooks of `keep_weights_out` made of their outputs."""
    for name, (c, bias) in kept.items():
        module: Any = model.get_submodule(name)
        r = rows[name].to(module.weight.device)
        matrix = module.weight.detach().movedim(_axis(module), 0)
        new = project_out(matrix.float(), r) + r.float().T @ c.to(r.device)
        module.weight.copy_(new.movedim(0, _axis(module)))
        if bias is not None:
            old = module.bias.detach().float()
            module.bias.copy_(project_out(old[:, None], r)[:, 0] + bias.to(r.device) @ r.float())
