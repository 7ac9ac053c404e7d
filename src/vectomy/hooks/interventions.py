"""Change the residual stream of a live model at a point of the stream.

    with intervene(model, {("resid_pre", 7): add(vector)}):
        model(input_ids)

An intervention is a function of the stream; `ablate`, `scale`, `add` and `affine` make the usual
ones, and `at` limits one to some token positions. The hooks are removed when the `with` block ends,
also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import architecture_of
from vectomy.core import linalg
from vectomy.core.arguments import name_of
from vectomy.core.errors import ArchitectureError, UsageError
from vectomy.core.module_io import live_module
from vectomy.core.types import BLOCK_SITES, Point, Stream, Vector
from vectomy.hooks.sites import locate_site

__all__ = ["Intervention", "ablate", "add", "affine", "at", "intervene", "scale"]

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
def intervene(model: object, interventions: Mapping[Point, Intervention]) -> Iterator[None]:
    """Apply interventions at points (site, layer) of the stream, or at what a block adds to it.

    At `attn_out` and `mlp_out` a function gets batch x position x d_model, at `head_z` batch x
    position x head x d_head.

    resid_mid goes into the norm that reads it and around it, as one tensor; it is changed in place,
    before the norm runs. In some families it is no sum of module outputs (Granite scales what its
    attention writes).

    Raises:
        UsageError: `model` is no language model, or `interventions` no mapping of points to
            functions.
        ArchitectureError: a model type, site or layer that is not known.
    """
    module = live_module(model)
    architecture = architecture_of(module)
    _check_interventions(interventions)
    with ExitStack() as hooks:
        # In stream order: at one block its resid_pre is changed before its resid_mid looks at it.
        for point, change in sorted(
            interventions.items(), key=lambda item: (item[0][1], BLOCK_SITES.index(item[0][0]))
        ):
            hooks.callback(locate_site(module, architecture, point).change(module, change))
        yield


def _check_interventions(interventions: object) -> None:
    """Raises UsageError for what is no mapping of points to functions, ArchitectureError for a site
    that there is not.
    """
    form = "write {('resid_pre', 7): vectomy.hooks.interventions.add(vector)}"
    if not isinstance(interventions, Mapping):
        raise UsageError(f"the interventions are {name_of(interventions)}; {form}")
    for point, change in interventions.items():
        if not isinstance(point, tuple) or len(point) != 2 or not isinstance(point[1], int):
            raise UsageError(f"{point!r:.80} is no site and layer; {form}")
        if point[0] not in BLOCK_SITES:
            raise ArchitectureError(f"there is no site '{point[0]}'; sites are {', '.join(BLOCK_SITES)}")
        if not callable(change):
            raise UsageError(f"the intervention at {point!r:.80} is {name_of(change)}, no function; {form}")
