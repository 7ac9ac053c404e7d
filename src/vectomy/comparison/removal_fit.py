"""Fit the removal of directions to one pair of matrices.

With U some orthonormal rows (k x d_model), an edit in their span makes of a vector w of the matrix

    none    w' = w - U^T C U w                column  w' s = w - U^T C U w, one s a vector row
    the same of W / n, whose rows then get their lengths n back: w'_i s_i / n_i = (w / n)_i - (U^T C
    U w / n)_i

C is k x k and symmetric. What is stored is rounded, and an element moves only if its change exceeds
half a step of its own size: a plain singular vector of W' - W is off by that (cosine 0.998 for
strength 0.3 in bfloat16 at width 4096). So each row i of U^T C is a regression of the change of
coordinate i on U w, weighted by 1 / step^2: small elements, which are stored finely, tell most. The
same fit tells an edit from any other change of low rank: it has to read what it removes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.comparison.matrix_pairs import MatrixPair, step
from vectomy.comparison.spectrum import Energy, Sizes, spectrum_of
from vectomy.core import linalg
from vectomy.core.types import NormMode

__all__ = [
    "BETTER",
    "Fit",
    "NormalEquations",
    "Reproduced",
    "best_fit",
    "core_of",
    "modes_of",
    "normal_equations",
    "reproduce_difference",
    "within_rounding",
]

# Directions a matrix that are looked for.
MOST = 8
# Times that the basis is found anew, and how little it then may still turn (squared).
ROUNDS = 12
SETTLED = 1e-11
# A fit carries the difference if what stays is below rounding (and this share of the difference,
# for what float32 sums cost) ...
SHARE = 1e-3
# ... and most of the difference is gone: rounding alone is no evidence where little moved.
GONE = 0.5
# Another norm mode is taken for the simpler one only if it leaves this much less.
BETTER = 0.5
# Packed formats round a whole matrix by their grids' rules, not element by element.
PACKED = 1.5
# A first fit that explains less than this is no removal, of however many directions.
HOPELESS = 0.02


@dataclass(frozen=True)
class NormalEquations:
    """Sums of the weighted regression of each coordinate's change y on x = U w: of x x^T and of y
    x.
    """

    xx: Float[Tensor, "d_model k k"]
    yx: Float[Tensor, "d_model k"]


@dataclass(frozen=True)
class Reproduced:
    """How far an edit of A is from B, and what of it is rounding."""

    off: float
    """Squared length of what stays."""
    equal: int
    """Elements that come out as they are stored."""
    within: int
    """Elements that come out no more than one step of the stored format away."""
    worst: float
    """The largest distance, in steps of the stored format."""


@dataclass(frozen=True)
class Fit:
    """A removal that a matrix shows: of the rows of `basis`, in front of its norms."""

    basis: Float[Tensor, "k d_model"]
    core: Float[Tensor, "k k"]
    norm: NormMode
    reproduced: Reproduced
    blur: float = 0.0
    """About how far rounding may turn the basis, times the strengths: |rounding| / (|B - A|
    sqrt(vectors)).
    """


def modes_of(piece: MatrixPair, sizes: Sizes) -> list[NormMode]:
    """The norm modes that the lengths allow, the simplest first."""
    modes: list[NormMode] = ["none"]
    if sizes.vectors_kept:
        modes.append("column")
    if sizes.rows_kept and piece.row_norm_defined:
        modes.append("row")
    return modes


def best_fit(
    piece: MatrixPair, sizes: Sizes, rows: Float[Tensor, "n d_model"], rank: int | None
) -> Fit | None:
    """The removal of the fewest directions that makes B of A up to rounding; None if there is none.

    `rows` are the leading directions of the difference, `rank` its numerical rank.
    """
    best: Fit | None = None
    for norm in modes_of(piece, sizes):
        leading = rows if norm != "row" else _leading_of_rows(piece, sizes)
        most = min(MOST, len(leading))
        # Lengths that are kept add to the rank, so that it says nothing then.
        counts = dict.fromkeys(
            (1, rank) if norm == "none" and rank is not None else range(1, min(most, 3) + 1)
        )
        for k in counts:
            if k > most:
                continue
            fit = _refined(piece, sizes, leading[:k], norm)
            if within_rounding(fit.reproduced, sizes.sample, piece):
                best = fit if best is None or fit.reproduced.off < BETTER * best.reproduced.off else best
                break
            if fit.reproduced.off > (1 - HOPELESS) * sizes.sample.difference:
                break
        if best is not None and best.reproduced.off <= 0.1 * sizes.sample.noise:
            break
    return best


def within_rounding(made: Reproduced, energy: Energy, piece: MatrixPair) -> bool:
    """Whether what an edit leaves of a difference is rounding."""
    room = (PACKED if piece.packed else 1.0) * energy.noise**0.5 + SHARE * energy.difference**0.5
    return made.off <= room**2 and made.off <= GONE * energy.difference


def _refined(piece: MatrixPair, sizes: Sizes, rows: Float[Tensor, "k d_model"], norm: NormMode) -> Fit:
    """From a first guess of the span: the columns of U^T C span what it should have been."""
    blur = sizes.sample.noise / sizes.sample.difference / sizes.sample.vectors
    for _ in range(ROUNDS):
        new = torch.linalg.qr(_regression(normal_equations(piece, sizes, rows, norm)))[0].T.contiguous()
        moved = float((new - new @ rows.T @ rows).square().sum())
        rows = new
        if moved <= max(SETTLED, 0.01 * blur):
            break
    core = core_of(piece, sizes, rows, norm, normal_equations(piece, sizes, rows, norm))
    strengths, axes = torch.linalg.eigh(core)
    made = reproduce_difference(piece, sizes, axes.T @ rows, strengths, norm, sample=True)
    return Fit(rows, core, norm, made, blur**0.5 * float(core.norm()))


def _leading_of_rows(piece: MatrixPair, sizes: Sizes) -> Float[Tensor, "n d_model"]:
    before, after = (_safe(lengths) for lengths in sizes.lengths)
    scaled = lambda: ((a / before, b / after) for a, b in piece.blocks(sample=True))  # noqa: E731
    return spectrum_of(scaled, piece.width, sizes.sample.vectors).rows


def _safe(lengths: Float[Tensor, " d_model"]) -> Float[Tensor, " d_model"]:
    return torch.where(lengths > 0, lengths, 1.0)


def _weights(b: Tensor, piece: MatrixPair, sizes: Sizes) -> Tensor:
    """1 / step^2, in units of the typical element's."""
    typical = step(torch.full((1,), sizes.typical, dtype=b.dtype), piece.fraction, sizes.typical)
    return (typical / step(b, piece.fraction, sizes.typical)).square()


def normal_equations(
    piece: MatrixPair, sizes: Sizes, rows: Float[Tensor, "k d_model"], norm: NormMode
) -> NormalEquations:
    """One pass over the sample."""
    d, k = piece.width, len(rows)
    xx, yx = torch.zeros(d, k * k, dtype=torch.float64), torch.zeros(d, k, dtype=torch.float64)
    before, after = (_safe(lengths) for lengths in sizes.lengths)
    # Of the row form: sums of w' w', w' x and w' w, to take w' (whose factor s is not known) out of
    # the regression.
    own, across, along = (torch.zeros(d, n, dtype=torch.float64) for n in (1, k, 1))
    for a, b in piece.blocks(sample=True):
        weights = _weights(torch.where(a.abs() > b.abs(), a, b), piece, sizes)
        if norm == "row":
            a, b, weights = a / before, b / after, weights * after.square()
        x = (a @ rows.T).to(a.dtype)
        if norm == "none":
            y = a - b
        elif norm == "row":
            y = a
            own += (weights * b * b).sum(0)[:, None]
            across += (weights * b).T @ x
            along += (weights * b * a).sum(0)[:, None]
        else:
            y = a - b * _scales(a, b, x, rows)
        xx += weights.T @ (x[:, :, None] * x[:, None, :]).flatten(1)
        yx += (weights * y).T @ x
    if norm == "row":
        own = own.clamp_min(torch.finfo(torch.float64).tiny)
        xx -= (across[:, :, None] * across[:, None, :]).flatten(1) / own
        yx -= across * along / own
    return NormalEquations(xx.unflatten(1, (k, k)), yx)


def _scales(a: Tensor, b: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    """What each vector of B has to be multiplied with: its part outside of the directions is that
    of A.
    """
    outside_a, outside_b = a - x @ rows, b - (b @ rows.T) @ rows
    size = outside_b.square().sum(1, keepdim=True)
    return torch.where(size > 0, (outside_a * outside_b).sum(1, keepdim=True) / size.clamp_min(1e-30), 1.0)


def _regression(equations: NormalEquations) -> Float[Tensor, "d_model k"]:
    """Of each coordinate alone; a coordinate that never moves has none."""
    ridge = 1e-9 * equations.xx.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    inner = equations.xx + ridge[:, None, None] * torch.eye(equations.xx.shape[1], dtype=torch.float64)
    return torch.linalg.solve(inner, equations.yx[..., None])[..., 0].float()


def core_of(
    piece: MatrixPair,
    sizes: Sizes,
    rows: Float[Tensor, "k d_model"],
    norm: NormMode,
    equations: NormalEquations,
) -> Float[Tensor, "k k"]:
    """C of all coordinates together, made symmetric."""
    k = len(rows)
    if piece.packed:
        # Packed values keep a vector's whole change, not each element's: sums without weights.
        gram, cross = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
        for a, b in piece.blocks(sample=True):
            x = a @ rows.T
            s = _scales(a, b, x, rows) if norm == "column" else 1.0
            gram += x.T @ x
            cross += ((a - s * b) @ rows.T).T @ x
        core = cross @ torch.linalg.pinv(gram)
    else:
        u = rows.double()
        inner = torch.einsum("pi,ri,iqs->pqrs", u, u, equations.xx).reshape(k * k, k * k)
        core = (torch.linalg.pinv(inner, hermitian=True) @ (u @ equations.yx).reshape(k * k)).reshape(k, k)
    return ((core + core.T) / 2).float()


def reproduce_difference(
    piece: MatrixPair,
    sizes: Sizes,
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    norm: NormMode,
    *,
    sample: bool = False,
) -> Reproduced:
    """The removal made on A, rounded as B is stored, beside B. Row lengths take one more pass."""
    before = _safe(sizes.lengths[0])
    back = torch.ones(piece.width)
    if norm == "row":
        after = sum(
            linalg.remove(a / before, basis.to(a), strengths.to(a)).square().sum(0) for a, _ in piece.blocks()
        )
        assert isinstance(after, Tensor)
        back = before / _safe(after.sqrt())
    off, equal, within, worst = 0.0, 0, 0, 0.0
    for a, b in piece.blocks(sample):
        if norm == "row":
            made = linalg.remove(a / before, basis.to(a), strengths.to(a)) * back
        else:
            made = linalg.edit_rows(a, basis.to(a), strengths.to(a), norm)
        miss = (b - piece.as_stored(made)).abs()
        off += float(miss.square().sum())
        equal += int(miss.numel() - torch.count_nonzero(miss))
        steps = miss.div_(step(b, piece.fraction, sizes.typical))
        within += int((steps <= 1).sum())
        worst = max(worst, float(steps.max()))
    return Reproduced(off, equal, within, worst)
