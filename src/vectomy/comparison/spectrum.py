"""The largest singular values of a difference, and the directions of the stream that belong to
them.

Subspace iteration from a random start (Halko, Martinsson and Tropp 2011, algorithm 4.4), in passes
over blocks of vectors: with E the difference (vectors x d_model) and Q some orthonormal rows, a
pass sums (E Q^T)^T E = Q E^T E, from which come new rows; in the last one the eigenvalues of Q E^T
E Q^T are the squares of the singular values. Nothing of size d_model x d_model is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.comparison.matrix_pairs import MatrixPair, step

__all__ = ["PROBED", "Energy", "Sizes", "Spectrum", "rank_of", "sizes_of", "spectrum_of"]

# Singular values that are looked at; a rank above it is called full.
PROBED = 32
MORE = 8
ITERATIONS = 2
Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Energy:
    """Squared lengths over all of a pair, or over the vectors that fits are made on."""

    difference: float
    noise: float
    """What rounding to the stored format adds: step^2 / 12 an element, in B."""
    vectors: int


@dataclass(frozen=True)
class Sizes:
    """What one pair comes to."""

    a: float
    """Squared length of A."""
    typical: float
    """Root mean square of A's elements."""
    whole: Energy
    sample: Energy
    vectors_kept: bool
    """Each vector of the stream keeps its length, though the matrix changes (norm mode column)."""
    rows_kept: bool
    """Each row along the input keeps its length (norm mode row)."""
    lengths: tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
    """Of those rows, in A and B."""

    @property
    def relative(self) -> float:
        """|B - A|^2 / |A|^2; 1 where A is zero."""
        return self.whole.difference / (self.a or self.whole.difference)


@dataclass(frozen=True)
class Spectrum:
    values: Float[Tensor, " n"]
    """Singular values, the largest first."""
    rows: Float[Tensor, "n d_model"]
    """Their directions in the stream (what the writer's output has of them, in front of its norms).
    """


# A length is kept if the changes of all lengths together are this small a share of what they are
# when it is not: of removing a share of a direction, vectors lose about 1 / d_model of their
# squared length.
KEPT = 0.2


def sizes_of(piece: MatrixPair) -> Sizes:
    """One pass over all, and one or two over the sample. What is NaN makes a sum NaN."""
    d, n = piece.width, piece.count
    seen, size = 0, 0.0
    for a, _ in piece.blocks(sample=True):
        size += float(a.square().sum())
        seen += a.numel()
    typical = (size / seen) ** 0.5
    rows = torch.zeros(2, d, dtype=torch.float64)
    difference = noise = moved = 0.0
    for a, b in piece.blocks():
        e = b - a
        rows[0] += a.square().sum(0)
        rows[1] += b.square().sum(0)
        difference += float(e.square().sum())
        noise += float(step(b, piece.fraction, typical).square_().sum()) / 12
        # |b|^2 - |a|^2 = e . (a + b)
        moved += float((e * (a + b)).sum(1).abs_().sum())
    whole = float(rows[0].sum())
    energy = Energy(difference, noise, n)
    slack = 2 * (noise * whole) ** 0.5
    return Sizes(
        a=whole,
        typical=typical,
        whole=energy,
        sample=_sample_energy(piece, typical) if piece.sampled else energy,
        vectors_kept=moved <= KEPT * difference + slack / d**0.5,
        rows_kept=float((rows[1] - rows[0]).abs().sum()) <= KEPT * difference + slack / n**0.5,
        lengths=(rows[0].sqrt().float(), rows[1].sqrt().float()),
    )


def _sample_energy(piece: MatrixPair, typical: float) -> Energy:
    difference, noise, count = 0.0, 0.0, 0
    for a, b in piece.blocks(sample=True):
        difference += float((b - a).square().sum())
        noise += float(step(b, piece.fraction, typical).square_().sum()) / 12
        count += len(a)
    return Energy(difference, noise, count)


def spectrum_of(blocks: Blocks, width: int, count: int, seed: int = 0) -> Spectrum:
    """Of the difference B - A of blocks (A, B); PROBED values, or as many as there are."""
    n = min(PROBED + MORE, width, count)
    generator = torch.Generator().manual_seed(seed)
    sketch = torch.zeros(n, width)
    for a, b in blocks():
        sketch += torch.randn(n, len(a), generator=generator) @ (b - a).float()
    for _ in range(ITERATIONS):
        rows, sketch = _orthonormal(sketch), torch.zeros(n, width)
        for a, b in blocks():
            e = (b - a).float()
            sketch += (e @ rows.T).T @ e
    rows, gram = _orthonormal(sketch), torch.zeros(n, n, dtype=torch.float64)
    for a, b in blocks():
        along = (b - a).float() @ rows.T
        gram += (along.T @ along).double()
    squares, axes = torch.linalg.eigh(gram)
    kept = min(PROBED, n)
    order = torch.arange(n - 1, n - 1 - kept, -1)
    return Spectrum(squares[order].clamp_min(0).sqrt().float(), (axes.T[order] @ rows.double()).float())


def _orthonormal(rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    return torch.linalg.qr(rows.T)[0].T.contiguous()


def rank_of(spectrum: Spectrum, energy: Energy) -> int | None:
    """How many singular values leave no more than the rounding of the stored format; None if not
    even PROBED do.
    """
    rest = energy.difference - torch.cumsum(spectrum.values.double().square(), 0)
    enough = rest <= 1.05 * energy.noise + 1e-6 * energy.difference
    if energy.difference <= 1.05 * energy.noise or not bool(enough.any()):
        return None
    return int(enough.nonzero()[0]) + 1
