"""An Edit at run time: hooks that give each writer's output what edited weights would give.

What no hook can do has its parameters changed in place for the length of a `with` block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Writer
from vectomy.architecture.live_weights import is_packed, measure_matrix
from vectomy.architecture.norms import fold_live_removal
from vectomy.core import linalg
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import EditError
from vectomy.core.placed_module import execution_device, read_parameter, replace_offloaded
from vectomy.core.types import NormMode, Vector
from vectomy.edits.operation import Operation
from vectomy.hooks.writer_outputs import output_hook

__all__ = ["OutputChange", "edit_writers", "output_change"]


@contextmanager
def edit_writers(
    model: nn.Module, edits: Sequence[tuple[Writer, Operation]], *, in_weights: bool = False
) -> Iterator[None]:
    """Make each writer's output what it would be with edited weights; computed in float32, given
    back in its dtype.

    What no hook on a module's output can do has its parameters changed in place for the length of
    the block: single experts, kept lengths inside of fused experts, biases that are added behind
    the module, and weights that fast kernels take without calling the module.

    Args:
        in_weights: change all parameters in place that can be, so that a pass costs no more than
            without the edit. In 16 bits they are rounded as a bake rounds them, hooks otherwise.
    """
    shared = _list_shared(model) if in_weights else frozenset()
    with ExitStack() as changes:
        for writer, edit in edits:
            module = model.get_submodule(writer.module)
            basis, strengths = fold_live_removal(model, writer, edit.basis, edit.strengths)
            swapped = _needs_swap(module, writer, edit)
            _check_readable(model, writer, edit, swapped)
            swapped = swapped or (in_weights and _can_be_changed(model, writer, edit, shared))
            # Not where the weight is: that may be offloaded.
            device = execution_device(module)
            basis, strengths = (value.to(device, torch.float32) for value in (basis, strengths))
            if swapped:
                _swap_writer(changes, model, writer, edit, basis, strengths)
                made = OutputChange(None, None)
            else:
                made = _output_change(model, writer, edit, basis, strengths)
            if made.columns is not None:
                changes.callback(module.register_forward_pre_hook(_scale_input(made.columns)).remove)
            for name in _biases_to_swap(writer):
                # What the last norm adds comes to the stream as it is: there the basis is not
                # folded.
                loose = name == writer.bias
                rows = (basis, strengths) if loose else (edit.basis, edit.strengths)
                _swap(changes, model, name, _removal(*(value.float() for value in rows)))
            addition = None if edit.addition is None else edit.addition.to(basis)
            if made.change is not None or addition is not None:
                changes.callback(module.register_forward_hook(output_hook(made.change, addition)).remove)
        yield


def _list_shared(model: nn.Module) -> frozenset[str]:
    """Names of parameters that have another name as well, such as a tied head."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return frozenset(name for several in names.values() if len(several) > 1 for name in several)


def _can_be_changed(model: nn.Module, writer: Writer, edit: Operation, shared: Collection[str]) -> bool:
    module = model.get_submodule(writer.module)
    # An adapter adds to what its layer's weight gives, so there the output is changed.
    if not edit.strengths.any() or is_packed(module) or "base_layer" in module._modules:
        return False
    parameter = model.get_parameter(writer.weight)
    return writer.weight not in shared and _is_plain(parameter) and not parameter.is_meta


def _check_readable(model: nn.Module, writer: Writer, edit: Operation, swapped: bool) -> None:
    """Raises EditError: the edit changes a weight that is packed or not in memory, or needs its
    numbers where the model is read block by block.
    """
    packed = is_packed(model.get_submodule(writer.module))
    if swapped and (packed or not _is_plain(model.get_parameter(writer.weight))):
        raise EditError(
            f"the weights of '{writer.module}' are packed, and this edit has to change them in place, since "
            "its kernel or its experts take them directly; load the model without quantisation, or with "
            "--load-in, which leaves such layers as they are"
        )
    if packed:
        return
    if (swapped or edit.norm != "none") and read_parameter(model, writer.weight).is_meta:
        raise EditError(
            f"the edit of '{writer.weight}' changes the weight itself, or keeps its lengths, and the model "
            "is read block by block; bake the edit, or load the model whole"
        )


@dataclass(frozen=True)
class OutputChange:
    """What an edit of a writer does where its module is called: to its output, and (norm mode
    column) to its input.
    """

    change: Callable[[Tensor], Tensor] | None
    columns: Float[Tensor, " d_in"] | None
    addition: Vector | None = None


def output_change(model: nn.Module, writer: Writer, edit: Operation) -> OutputChange | None:
    """The edit as a function of what its module takes and gives, in float32; None where parameters
    have to be changed instead.
    """
    module = model.get_submodule(writer.module)
    if _needs_swap(module, writer, edit) or (bool(edit.strengths.any()) and _biases_to_swap(writer)):
        return None
    basis, strengths = (
        value.to(device=execution_device(module), dtype=torch.float32)
        for value in fold_live_removal(model, writer, edit.basis, edit.strengths)
    )
    made = _output_change(model, writer, edit, basis, strengths)
    return replace(made, addition=None if edit.addition is None else edit.addition.to(basis))


def _output_change(
    model: nn.Module, writer: Writer, edit: Operation, basis: Tensor, strengths: Tensor
) -> OutputChange:
    if writer.slot.axis == 1 and writer.component in OUTSIDE:
        return OutputChange(_row_removal(basis, strengths, edit.norm), None)
    if edit.norm == "row":
        biased = getattr(model.get_submodule(writer.module), "bias", None) is not None
        bias = read_parameter(model, f"{writer.module}.bias").to(basis) if biased else None
        matrix = _read_matrix(model, writer, basis)
        return OutputChange(_row_norm_removal(matrix, bias, basis, strengths), None)
    columns = None
    if edit.norm == "column":
        columns = _column_scale(_read_matrix(model, writer, basis), basis, strengths)
    return OutputChange(_removal(basis, strengths), columns)


def _biases_to_swap(writer: Writer) -> list[str]:
    """Biases that reach the stream behind the writer's module: one that is added loose, and that of
    the last norm.
    """
    names = [writer.bias] if writer.slot.loose_bias and writer.bias is not None else []
    norm = writer.biased_norm
    return names if norm is None else [*names, norm.live_bias]


def _read_matrix(model: nn.Module, writer: Writer, basis: Tensor) -> Float[Tensor, "d_model d_in"]:
    module = model.get_submodule(writer.module)
    if is_packed(module):
        return measure_matrix(module, getattr(model, "dtype", torch.float32)).to(basis)
    return read_parameter(model, writer.weight).to(basis).movedim(writer.slot.axis, 0)


def _needs_swap(module: nn.Module, writer: Writer, edit: Operation) -> bool:
    plain = f"{writer.module}.weight" == writer.weight and (is_packed(module) or module.weight.ndim == 2)
    return bool(edit.strengths.any()) and (
        writer.slot.functional or edit.expert is not None or (edit.norm != "none" and not plain)
    )


def _swap_writer(
    changes: ExitStack, model: nn.Module, writer: Writer, edit: Operation, basis: Tensor, strengths: Tensor
) -> None:
    """Weight and bias changed as a bake would change them, all experts or one."""
    axis = writer.slot.axis

    def weight(old: Tensor) -> Tensor:
        if edit.expert is None:
            return linalg.edit_stored(old.clone(), axis, basis, strengths, edit.norm)
        new = old.clone()
        new[edit.expert] = linalg.edit_along(
            old[edit.expert].float(), axis - 1, basis, strengths, edit.norm
        ).to(old.dtype)
        return new

    def bias(old: Tensor) -> Tensor:
        new = linalg.remove(old.float(), basis, strengths).to(old.dtype)
        return new if edit.expert is None else torch.where(_is_row(old, edit.expert), new, old)

    _swap(changes, model, writer.weight, weight)
    if writer.bias is not None and not writer.slot.loose_bias:
        if edit.expert is not None and model.get_parameter(writer.bias).ndim == 1:
            return  # A bias that all experts share is no single one's.
        _swap(changes, model, writer.bias, bias)


def _is_plain(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype.itemsize > 1


def _is_row(value: Tensor, row: int) -> Tensor:
    return (torch.arange(len(value), device=value.device) == row)[:, None]


def _swap(changes: ExitStack, model: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    parameter, old = model.get_parameter(name), read_parameter(model, name)
    device = execution_device(model.get_submodule(name.rpartition(".")[0]))
    new = change((old.float() if old.ndim == 1 else old).to(device)).to(old)
    if parameter.is_meta:
        changes.callback(replace_offloaded(model, name, new))
    else:
        changes.callback(setattr, parameter, "data", parameter.data)
        parameter.data = new


def _removal(basis: Tensor, strengths: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: linalg.remove(output, basis.to(output.device), strengths.to(output.device))


def _row_removal(basis: Tensor, strengths: Tensor, norm: NormMode) -> Callable[[Tensor], Tensor]:
    return lambda output: linalg.edit_rows(output, basis, strengths, norm)


def _row_norm_removal(
    weight: Tensor, bias: Tensor | None, basis: Tensor, strengths: Tensor
) -> Callable[[Tensor], Tensor]:
    lengths, kept = linalg.row_factors(weight, basis, strengths)
    offset = torch.zeros_like(lengths) if bias is None else bias

    def change(output: Tensor) -> Tensor:
        rows = linalg.remove((output - offset) / lengths, basis, strengths)
        return kept * lengths * rows + linalg.remove(offset, basis, strengths)

    return change


def _column_scale(weight: Tensor, basis: Tensor, strengths: Tensor) -> Float[Tensor, " d_in"]:
    """What each input is multiplied with so that the edited columns have their old length."""
    old = torch.linalg.vector_norm(weight, dim=0)
    new = torch.linalg.vector_norm(linalg.edit_matrix(weight, basis, strengths), dim=0)
    return torch.where(new > linalg.NEGLIGIBLE * old, old / new.clamp_min(torch.finfo(new.dtype).tiny), 1.0)


def _scale_input(columns: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((args[0].float() * columns).to(args[0].dtype), *args[1:])

    return hook
