"""The directions that many differences share, and each difference in their terms.

Behind norms a writer removes f = g * r where the stream loses r (architecture/norms.py), so what it
shows is taken through its gain before it is held against the others'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture.norms import combine_removals
from vectomy.comparison.matrix_pairs import MatrixPair
from vectomy.comparison.removal_fit import Fit, NormalEquations
from vectomy.core import linalg

__all__ = ["Refinement", "Stack", "common_directions", "in_front", "in_stream", "rotation", "strengths_along"]

# Rows that are kept before they are summed up by their leading directions.
ROWS = 1024
# A removal that the directions found so far leave out by less than this share of the strongest has
# no direction of its own.
APART = 0.05
# Strengths below this are none, and a core that is off by no more is the one asked for.
NONE = 3e-3
TOLERANCE = 1e-2
PACKED_APART = 0.5
# Nor does one that is left out by no more than this many times what rounding may have turned it.
BLURS = 3
# A gain this much smaller than the largest hides what it multiplies.
HIDDEN = 1e-3


@dataclass
class Stack:
    """Weighted rows of many matrices: what directions they have in common."""

    rows: list[Tensor] = field(default_factory=list)
    total: float = 0.0
    """All weight that was there to be explained."""

    def add(self, rows: Float[Tensor, "n d_model"], total: float) -> None:
        self.rows.append(rows)
        self.total += total
        if sum(len(block) for block in self.rows) > ROWS:
            values, axes = self._axes()
            kept = min(ROWS // 2, len(values))
            self.rows = [values[:kept, None] * axes[:kept]]

    def _axes(self) -> tuple[Tensor, Tensor]:
        _, values, axes = torch.linalg.svd(torch.cat(self.rows), full_matrices=False)
        return values, axes

    def explained(self, most: int) -> list[float]:
        """Of all weight, what the first 1, 2, ... shared directions explain."""
        if not self.rows or not self.total:
            return []
        values = self._axes()[0].double().square()
        return [min(1.0, share) for share in (torch.cumsum(values, 0)[:most] / self.total).tolist()]

    def leading(self) -> Float[Tensor, "k d_model"]:
        """The direction that explains most, if there is anything to explain."""
        return self._axes()[1][:1].contiguous() if self.rows else torch.empty(0, 0)


def common_directions(fits: Sequence[tuple[MatrixPair, Fit]], width: int) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows of the stream whose removal in some share is what every matrix shows.

    From the plainest matrix to the others: not packed, without norms, whose small gains hide
    coordinates, and strong. A direction is added where the ones so far, taken through the matrix's
    own gain, leave it out.
    """
    basis = torch.empty(0, width)
    strongest = max((float(fit.core.norm()) for _, fit in fits), default=0.0)
    for piece, fit in sorted(fits, key=_plainness):
        strengths, axes = torch.linalg.eigh(fit.core)
        for strength, row in zip(strengths, axes.T @ fit.basis, strict=True):
            left = row
            if len(basis):
                inside = torch.linalg.qr(in_front(basis, piece).T)[0]
                left = row - inside @ (inside.T @ row)
            if float(strength.abs() * left.norm()) <= max(
                (PACKED_APART if piece.packed else APART) * strongest, BLURS * fit.blur
            ):
                continue
            new = in_stream(left[None], piece)
            new = linalg.normalise(new - new @ basis.T @ basis)
            basis = torch.cat([basis, linalg.normalise(new - new @ basis.T @ basis)])
            if len(basis) == width:
                return basis
    return basis


def _plainness(pair: tuple[MatrixPair, Fit]) -> tuple[bool, bool, float]:
    piece, fit = pair
    return piece.packed, piece.gain is not None, -float(fit.core.norm())


def in_stream(rows: Float[Tensor, "n d_model"], piece: MatrixPair) -> Float[Tensor, "n d_model"]:
    """Unit vectors that the stream loses if the rows are removed in front of a matrix's norms."""
    if piece.gain is None:
        return rows
    visible = piece.gain.abs() > HIDDEN * piece.gain.abs().max()
    return linalg.normalise(torch.where(visible, rows / torch.where(visible, piece.gain, 1.0), 0.0))


def in_front(basis: Float[Tensor, "k d_model"], piece: MatrixPair) -> Float[Tensor, "k d_model"]:
    """The other way, not normalised: the rows that a removal of the basis removes in front of the
    norms.
    """
    if piece.gain is None:
        return basis
    rows = basis * piece.gain
    return rows - rows.mean(-1, keepdim=True) if piece.centred else rows


@dataclass
class Refinement:
    """The shared directions again, from all matrices at once: a regression of each coordinate over
    all of them.
    """

    basis: Float[Tensor, "k d_model"]
    inner: Tensor = field(init=False)
    outer: Tensor = field(init=False)

    def __post_init__(self) -> None:
        k, d = self.basis.shape
        self.inner, self.outer = (
            torch.zeros(d, k, k, dtype=torch.float64),
            torch.zeros(d, k, dtype=torch.float64),
        )

    def add(self, piece: MatrixPair, fit: Fit, equations: NormalEquations, noise: float) -> None:
        """With F = R U what the basis is in front of the norms, coordinate i changes by g_i b_i . Z
        x, Z = R^-T C, x = U w.

        `noise` is the variance of an element's rounding: how much this matrix tells beside others.
        """
        if piece.centred:
            return  # Its coordinates do not stand for themselves.
        gain = torch.ones(piece.width) if piece.gain is None else piece.gain
        mix = (in_front(self.basis, piece) @ fit.basis.T).double()
        z = torch.linalg.pinv(mix).T @ fit.core.double()
        g = gain.double()
        self.inner += (g.square() / noise)[:, None, None] * (z @ equations.xx @ z.T)
        self.outer += (g / noise)[:, None] * (equations.yx @ z.T)

    def solved(self) -> Float[Tensor, "k d_model"]:
        """Orthonormal rows near to the ones that it began with."""
        size = self.inner.diagonal(dim1=1, dim2=2).sum(1)
        told = size > 1e-9 * size.max()
        if not bool(told.any()):
            return self.basis
        eye = torch.eye(len(self.basis), dtype=torch.float64)
        inner = self.inner + (1e-9 * size.max()) * eye
        rows = torch.linalg.solve(inner, self.outer[..., None])[..., 0].T
        rows = torch.where(told, rows, self.basis.double())
        try:
            return linalg.symmetric_basis(rows).float()
        except ValueError:
            return self.basis


def rotation(
    basis: Float[Tensor, "k d_model"], fits: Iterable[tuple[MatrixPair, Fit]]
) -> Float[Tensor, "k d_model"]:
    """The basis turned to where the matrix that tells its directions apart best has one strength
    for each.
    """
    best, turned = TOLERANCE, basis
    for piece, fit in fits:
        values = torch.linalg.eigvalsh(fit.core.double())
        if len(values) != len(basis) or float(values.abs().min()) < NONE:
            continue
        gap = float((values[1:] - values[:-1]).min()) if len(values) > 1 else 0.0
        if gap > best:
            axes = torch.linalg.eigh(_spread(basis, piece, fit))[1]
            best, turned = gap, (axes.T @ basis.double()).float()
    return turned


def _spread(basis: Tensor, piece: MatrixPair, fit: Fit) -> Tensor:
    """R (C^-1 - 1) R^T with F = R U: diagonal where the basis holds the directions that have one
    strength each.

    For the edit in front of the norms is F^T K F with K^-1 = D N^2 + F F^T, D = diag((1 - a) / a),
    N the lengths of F's rows (linalg.joint_removal), and K = R^-T C R^-1.
    """
    mix = (in_front(basis, piece) @ fit.basis.T).double()
    inner = torch.linalg.inv(fit.core.double()) - torch.eye(len(fit.core), dtype=torch.float64)
    return mix @ inner @ mix.T


def strengths_along(
    basis: Float[Tensor, "k d_model"], piece: MatrixPair, fit: Fit
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]] | None:
    """The strengths with which a removal of the basis is what the matrix shows; None if there are
    none.

    The basis may be turned, or lose rows of which nothing is removed.
    """
    values, axes = torch.linalg.eigh(fit.core.double())
    kept = values.abs() > NONE
    if not bool(kept.any()):
        return None
    if bool(kept.all()) and len(values) == len(basis):
        whole = Fit(fit.basis, fit.core, fit.norm, fit.reproduced)
        strengths = _one_strength_each(basis, piece, whole)
        if strengths is not None:
            return basis, strengths
    # Directions of its own within the span: those of the core, through the norms.
    rows = (axes.T[kept] @ fit.basis.double()).float()
    own = Fit(rows, torch.diag(values[kept]).float(), fit.norm, fit.reproduced)
    spread = torch.linalg.qr(in_stream(rows, piece).T)[0].T.contiguous()
    if len(rows) > 1:
        turn = torch.linalg.eigh(_spread(spread, piece, own))[1]
        spread = (turn.T @ spread.double()).float()
    strengths = _one_strength_each(spread, piece, own)
    return None if strengths is None else (spread, strengths)


def _one_strength_each(basis: Tensor, piece: MatrixPair, fit: Fit) -> Tensor | None:
    front = in_front(basis, piece)
    lengths = torch.linalg.vector_norm(front.double(), dim=1)
    spread = _spread(basis, piece, fit)
    tries = [
        1 / (1 + spread.diagonal() / lengths.square()),
        torch.full_like(lengths, float(fit.core.trace()) / len(front)),
    ]
    errors = [_error(front, strengths, fit) for strengths in tries]
    best = min(range(len(tries)), key=lambda index: errors[index])
    return tries[best].float() if errors[best] <= TOLERANCE * max(1.0, float(fit.core.abs().max())) else None


def _error(front: Tensor, strengths: Tensor, fit: Fit) -> float:
    """How far the core of a removal is from the one that was found."""
    if not bool(strengths.isfinite().all()):
        return torch.inf
    try:
        rows, values = combine_removals(linalg.normalise(front), strengths.float())
    except ValueError:
        return torch.inf
    along = rows @ fit.basis.T
    return float((along.T @ (values.to(rows)[:, None] * along) - fit.core).abs().max())
