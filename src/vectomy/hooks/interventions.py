"""Change the residual stream of a live model: at a point of the stream, or on what a writer adds to
it.

    with intervene(model, {("resid_pre", 7): add(vector)}):
        model(input_ids)

An intervention is a function of the stream; `ablate`, `scale`, `add` and `affine` make the usual
ones. `edit_writers` is an Edit at run time. Both leave the model clean when the block is left, also
by an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Architecture, Gain, Writer, architecture_of
from vectomy.core import linalg
from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input, first_output
from vectomy.core.types import OUTSIDE, SITES, NormMode, Point, Stream, Vector

__all__ = [
    "Intervention",
    "OutputChange",
    "WriterEdit",
    "ablate",
    "add",
    "affine",
    "at",
    "change_outputs",
    "edit_writers",
    "fold",
    "folded",
    "hookable",
    "intervene",
    "output_change",
    "scale",
]

Intervention = Callable[[Stream], Stream]


def ablate(basis: Float[Tensor, "*k d_model"], strength: float = 1.0) -> Intervention:
    """x' = x - strength * (projection of x on the span of `basis`): a unit vector, or k orthonormal
    rows.
    """
    rows = torch.atleast_2d(basis)
    return lambda stream: linalg.remove(
        stream, rows.to(stream), torch.full((len(rows),), strength, dtype=stream.dtype, device=stream.device)
    )


def scale(direction: Vector, factor: float) -> Intervention:
    """Multiply the component along the unit vector `direction`: 0 ablates, 1 does nothing, 2
    doubles.
    """
    return ablate(direction, 1.0 - factor)


def add(vector: Vector, coefficient: float = 1.0) -> Intervention:
    """x' = x + c v, the vector with its own length (activation addition)."""
    return lambda stream: stream + coefficient * vector.to(stream)


def affine(direction: Vector, reference: Vector, coefficient: float = 0.0) -> Intervention:
    """Affine concept editing (arXiv 2411.09003): x' = x - proj_r(x) + proj_r(reference) + c r,
    `direction` a unit r.
    """

    def apply(stream: Stream) -> Stream:
        r = direction.to(stream)
        wanted = reference.to(stream) @ r + coefficient
        return stream + (wanted - stream @ r)[..., None] * r

    return apply


def at(positions: Sequence[int], intervention: Intervention) -> Intervention:
    """The same intervention at some token positions only (negative ones count from the end)."""

    def apply(stream: Stream) -> Stream:
        changed = stream.clone()
        changed[:, list(positions)] = intervention(stream[:, list(positions)])
        return changed

    return apply


@contextmanager
def intervene(model: nn.Module, interventions: Mapping[Point, Intervention]) -> Iterator[None]:
    """Apply interventions at points (site, layer) of the stream.

    resid_mid goes into the norm that reads it and around it, as one tensor; it is changed in place,
    before the norm runs. What makes it up is no module's output in every family (Granite scales
    what its attention writes).

    Raises:
        ArchitectureError: a model type, site or layer that is not known.
    """
    architecture = architecture_of(model)
    for site, _ in interventions:
        if site not in SITES:
            raise ArchitectureError(f"there is no site '{site}'; sites are {', '.join(SITES)}")
    with ExitStack() as hooks:
        # In stream order: at one block its resid_pre is changed before its resid_mid looks at it.
        for (site, layer), change in sorted(
            interventions.items(), key=lambda item: (item[0][1], SITES.index(item[0][0]))
        ):
            block = model.get_submodule(architecture.block(layer))
            if site == "resid_pre":
                hooks.callback(
                    block.register_forward_pre_hook(_change_input(change), with_kwargs=True).remove
                )
            elif site == "resid_post":
                hooks.callback(block.register_forward_hook(_change_output(change)).remove)
            else:
                reader = block.get_submodule(_reader_of_mid(architecture))
                hooks.callback(
                    reader.register_forward_pre_hook(_change_in_place(change), with_kwargs=True).remove
                )
        yield


def _reader_of_mid(architecture: Architecture) -> str:
    if architecture.family.mid is None:
        raise ArchitectureError(
            f"blocks of a {architecture.model_type} model have no one point resid_mid between attention and MLP; use resid_pre or "
            "resid_post"
        )
    return architecture.family.mid


def _change_input(change: Intervention) -> Callable[..., Any]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        changed = change(first_input(args, kwargs))
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return hook


def _change_output(change: Intervention) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        changed = change(first_output(output))
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook


def _change_in_place(change: Intervention) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream = first_input(args, kwargs)
        stream.copy_(change(stream))

    return hook


@runtime_checkable
class WriterEdit(Protocol):
    """What an operation of an Edit says about one writer (edit.py)."""

    @property
    def basis(self) -> Float[Tensor, "k d_model"]: ...
    @property
    def strengths(self) -> Float[Tensor, " k"]: ...
    @property
    def norm(self) -> NormMode: ...
    @property
    def addition(self) -> Vector | None: ...
    @property
    def expert(self) -> int | None: ...


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
            hooks.callback(module.register_forward_hook(_rounded(change, None)).remove)
        yield


def hookable(writer: Writer) -> bool:
    """Whether the writer is a module that is called, so that its output can be changed."""
    return not writer.slot.functional


def fold(model: nn.Module, writer: Writer, rows: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """What directions of the stream are in front of the norms behind a writer, as unit vectors;
    gradients flow through.
    """
    for passed in reversed(writer.norms):
        norm = model.get_submodule(passed.module)
        gain = norm.weight.detach().float().cpu() if passed.norm.learned else torch.ones(rows.shape[-1])
        rows = Gain(gain + passed.norm.offset, torch.zeros_like(gain), passed.norm.centred).fold(rows)
    return rows


@contextmanager
def edit_writers(model: nn.Module, edits: Sequence[tuple[Writer, WriterEdit]]) -> Iterator[None]:
    """Make each writer's output what it would be with edited weights; computed in float32, given
    back in its dtype.

    What no hook on a module's output can do has its parameters changed in place for the length of
    the block: single experts, kept lengths inside of fused experts, biases that are added behind
    the module, and weights that fast kernels take without calling the module.
    """
    with ExitStack() as changes:
        for writer, edit in edits:
            module = model.get_submodule(writer.module)
            basis, strengths = folded(model, writer, edit.basis, edit.strengths)
            weight = model.get_parameter(writer.weight)
            basis = basis.to(device=weight.device, dtype=torch.float32)
            strengths = strengths.to(device=weight.device, dtype=torch.float32)
            if _needs_swap(module, writer, edit):
                _swap_writer(changes, model, writer, edit, basis, strengths)
                made = OutputChange(None, None)
            else:
                made = _output_change(module, writer, edit, weight, basis, strengths)
            if made.columns is not None:
                changes.callback(module.register_forward_pre_hook(_scaled_input(made.columns)).remove)
            for name in _swapped_biases(model, writer):
                # What the last norm adds comes to the stream as it is: there the basis is not
                # folded.
                loose = name == writer.bias
                rows = (basis, strengths) if loose else (edit.basis.to(basis), edit.strengths.to(strengths))
                _swap(changes, model.get_parameter(name), _edited_output(*rows))
            addition = None if edit.addition is None else edit.addition.to(basis)
            if made.change is not None or addition is not None:
                changes.callback(module.register_forward_hook(_rounded(made.change, addition)).remove)
        yield


@dataclass(frozen=True)
class OutputChange:
    """What an edit of a writer does where its module is called: to its output, and (norm mode
    column) to its input.
    """

    change: Callable[[Tensor], Tensor] | None
    columns: Float[Tensor, " d_in"] | None
    addition: Vector | None = None


def output_change(model: nn.Module, writer: Writer, edit: WriterEdit) -> OutputChange | None:
    """The edit as a function of what its module takes and gives, in float32; None where parameters
    have to be changed instead.
    """
    module = model.get_submodule(writer.module)
    if _needs_swap(module, writer, edit) or (bool(edit.strengths.any()) and _swapped_biases(model, writer)):
        return None
    weight = model.get_parameter(writer.weight)
    basis, strengths = (
        value.to(device=weight.device, dtype=torch.float32)
        for value in folded(model, writer, edit.basis, edit.strengths)
    )
    made = _output_change(module, writer, edit, weight, basis, strengths)
    return replace(made, addition=None if edit.addition is None else edit.addition.to(basis))


def _output_change(
    module: nn.Module, writer: Writer, edit: WriterEdit, weight: Tensor, basis: Tensor, strengths: Tensor
) -> OutputChange:
    if writer.slot.axis == 1 and writer.component in OUTSIDE:
        return OutputChange(_edited_rows(basis, strengths, edit.norm), None)
    if edit.norm == "row":
        bias: Any = getattr(module, "bias", None)
        return OutputChange(_edited_row_form(_matrix(writer, weight), bias, basis, strengths), None)
    columns = _column_scale(_matrix(writer, weight), basis, strengths) if edit.norm == "column" else None
    return OutputChange(_edited_output(basis, strengths), columns)


def _swapped_biases(model: nn.Module, writer: Writer) -> list[str]:
    """Biases that reach the stream behind the writer's module: one that is added loose, and that of
    the last norm.
    """
    found = [writer.bias] if writer.slot.loose_bias and writer.bias is not None else []
    for passed in writer.norms[-1:]:
        if passed.norm.centred and getattr(model.get_submodule(passed.module), "bias", None) is not None:
            found.append(f"{passed.module}.bias")
    return found


def folded(
    model: nn.Module, writer: Writer, basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """What to remove from a writer's output so that the basis is removed from what reaches the
    stream.
    """
    if not writer.norms:
        return basis, strengths
    return linalg.folded_removal(basis, strengths, fold(model, writer, basis))


def _matrix(writer: Writer, weight: Tensor) -> Float[Tensor, "d_model d_in"]:
    return weight.detach().float().movedim(writer.slot.axis, 0)


def _needs_swap(module: nn.Module, writer: Writer, edit: WriterEdit) -> bool:
    plain = f"{writer.module}.weight" == writer.weight and module.weight.ndim == 2
    return bool(edit.strengths.any()) and (
        writer.slot.functional or edit.expert is not None or (edit.norm != "none" and not plain)
    )


def _swap_writer(
    changes: ExitStack, model: nn.Module, writer: Writer, edit: WriterEdit, basis: Tensor, strengths: Tensor
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

    _swap(changes, model.get_parameter(writer.weight), weight)
    if writer.bias is not None and not writer.slot.loose_bias:
        if edit.expert is not None and model.get_parameter(writer.bias).ndim == 1:
            return  # A bias that all experts share is no single one's.
        _swap(changes, model.get_parameter(writer.bias), bias)


def _is_row(value: Tensor, row: int) -> Tensor:
    return (torch.arange(len(value), device=value.device) == row)[:, None]


def _swap(changes: ExitStack, parameter: Tensor, change: Callable[[Tensor], Tensor]) -> None:
    old = parameter.data
    changes.callback(setattr, parameter, "data", old)
    parameter.data = change(old.float() if old.ndim == 1 else old).to(old.dtype)


def _edited_output(basis: Tensor, strengths: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: linalg.remove(output, basis, strengths)


def _edited_rows(basis: Tensor, strengths: Tensor, norm: NormMode) -> Callable[[Tensor], Tensor]:
    return lambda output: linalg.edit_rows(output, basis, strengths, norm)


def _edited_row_form(
    weight: Tensor, bias: Tensor | None, basis: Tensor, strengths: Tensor
) -> Callable[[Tensor], Tensor]:
    lengths, kept = linalg.row_factors(weight, basis, strengths)
    offset = torch.zeros_like(lengths) if bias is None else bias.detach().float()

    def change(output: Tensor) -> Tensor:
        rows = linalg.remove((output - offset) / lengths, basis, strengths)
        return kept * lengths * rows + linalg.remove(offset, basis, strengths)

    return change


def _column_scale(weight: Tensor, basis: Tensor, strengths: Tensor) -> Float[Tensor, " d_in"]:
    """What each input is multiplied with so that the edited columns have their old length."""
    old = torch.linalg.vector_norm(weight, dim=0)
    new = torch.linalg.vector_norm(linalg.edit_matrix(weight, basis, strengths), dim=0)
    return torch.where(new > linalg.NEGLIGIBLE * old, old / new.clamp_min(torch.finfo(new.dtype).tiny), 1.0)


def _scaled_input(columns: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return ((args[0].float() * columns).to(args[0].dtype), *args[1:])

    return hook


def _rounded(change: Callable[[Tensor], Tensor] | None, addition: Tensor | None) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        value = first_output(output)
        changed = value.float() if change is None else change(value.float())
        changed = (changed if addition is None else changed + addition).to(value.dtype)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return hook
