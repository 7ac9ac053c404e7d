"""Change the residual stream of a live model: at a point of the stream, or on what a writer adds to it.

    with intervene(model, {("resid_pre", 7): add(vector)}):
        model(input_ids)

An intervention is a function of the stream; `ablate`, `scale`, `add` and `affine` make the usual ones. `edit_writers`
is an Edit at run time. Both leave the model clean when the block is left, also by an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy import linalg
from vectomy.architecture import Writer, architecture_of
from vectomy.errors import ArchitectureError
from vectomy.hooks import first_input, first_output
from vectomy.types import SITES, NormMode, Point, Stream, Vector

__all__ = ["Intervention", "WriterEdit", "ablate", "add", "affine", "at", "edit_writers", "intervene", "scale"]

Intervention = Callable[[Stream], Stream]


def ablate(basis: Float[Tensor, "*k d_model"], strength: float = 1.0) -> Intervention:
    """x' = x - strength * (projection of x on the span of `basis`): a unit vector, or k orthonormal rows."""
    rows = torch.atleast_2d(basis)
    return lambda stream: linalg.remove(
        stream, rows.to(stream), torch.full((len(rows),), strength, dtype=stream.dtype, device=stream.device)
    )


def scale(direction: Vector, factor: float) -> Intervention:
    """Multiply the component along the unit vector `direction`: 0 ablates, 1 does nothing, 2 doubles."""
    return ablate(direction, 1.0 - factor)


def add(vector: Vector, coefficient: float = 1.0) -> Intervention:
    """x' = x + c v, the vector with its own length (activation addition)."""
    return lambda stream: stream + coefficient * vector.to(stream)


def affine(direction: Vector, reference: Vector, coefficient: float = 0.0) -> Intervention:
    """Affine concept editing (arXiv 2411.09003): x' = x - proj_r(x) + proj_r(reference) + c r, `direction` a unit r."""

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

    resid_mid is no module's input or output alone (the residual goes around the norm that reads it), so there the
    attention's addition is changed to f(resid_pre + y) - resid_pre, the same up to rounding.

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
            attention = model.get_submodule(architecture.writer("attention", layer).module)
            block = model.get_submodule(architecture.block(layer))
            if site == "resid_pre":
                hooks.callback(block.register_forward_pre_hook(_change_input(change), with_kwargs=True).remove)
            elif site == "resid_post":
                hooks.callback(block.register_forward_hook(_change_output(change)).remove)
            else:
                before: list[Tensor] = []
                hooks.callback(block.register_forward_pre_hook(_remember(before), with_kwargs=True).remove)
                hooks.callback(attention.register_forward_hook(_change_sum(change, before)).remove)
        yield


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


def _remember(before: list[Tensor]) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before[:] = [first_input(args, kwargs)]

    return hook


def _change_sum(change: Intervention, before: list[Tensor]) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        stream = before[0].to(output.device)
        return change(stream + output) - stream

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


@contextmanager
def edit_writers(model: nn.Module, edits: Sequence[tuple[Writer, WriterEdit]]) -> Iterator[None]:
    """Make each writer's output what it would be with edited weights; computed in float32, given back in its dtype."""
    with ExitStack() as hooks:
        for writer, edit in edits:
            module = model.get_submodule(writer.module)
            weight: Tensor = module.weight
            basis = edit.basis.to(device=weight.device, dtype=torch.float32)
            strengths = edit.strengths.to(device=weight.device, dtype=torch.float32)
            addition = None if edit.addition is None else edit.addition.to(basis)
            if writer.component == "embedding":
                change: Callable[[Tensor], Tensor] = _edited_rows(basis, strengths, edit.norm)
            elif edit.norm == "row":
                bias: Any = getattr(module, "bias", None)
                change = _edited_row_form(weight.detach().float(), bias, basis, strengths)
            else:
                change = _edited_output(basis, strengths)
                if edit.norm == "column":
                    columns = _column_scale(weight.detach().float(), basis, strengths)
                    hooks.callback(module.register_forward_pre_hook(_scaled_input(columns)).remove)
            hooks.callback(module.register_forward_hook(_rounded(change, addition)).remove)
        yield


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


def _rounded(change: Callable[[Tensor], Tensor], addition: Tensor | None) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        changed = change(output.float())
        return (changed if addition is None else changed + addition).to(output.dtype)

    return hook
