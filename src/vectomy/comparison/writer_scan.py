"""Look at every matrix of two checkpoints that writes to the stream, and tell what removal of
directions it shows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.comparison.matrix_pairs import MatrixPair, OpenedModel, finite, matrix_pairs
from vectomy.comparison.other_tensors import cast_alone
from vectomy.comparison.removal_fit import (
    BETTER,
    Fit,
    best_fit,
    core_of,
    modes_of,
    normal_equations,
    reproduce_difference,
    within_rounding,
)
from vectomy.comparison.shared_directions import (
    Refinement,
    Stack,
    common_directions,
    in_front,
    in_stream,
    rotation,
    strengths_along,
)
from vectomy.comparison.spectrum import Sizes, rank_of, sizes_of, spectrum_of
from vectomy.comparison.summary_text import levels
from vectomy.core.progress import Progress
from vectomy.core.types import NormMode
from vectomy.edits.edit import Operation
from vectomy.edits.operation import experts_of

__all__ = ["MOST_SHARED", "MatrixDiff", "Operations", "WriterScan", "span"]

# More shared directions than this are none: each writer then has its own.
MOST_SHARED = 8
# Experts whose strengths are this close are edited by one operation.
TOGETHER = 0.02

# By writer's weight and expert: the operation, and the places of its matrices in `WriterScan.seen`.
Operations = dict[tuple[str, int | None], tuple[Operation, list[int]]]


@dataclass
class MatrixDiff:
    """A matrix that differs."""

    piece: MatrixPair
    sizes: Sizes
    rank: int | None
    fit: Fit | None
    """A removal of directions of its own."""
    levels: tuple[int, int]
    """Distinct values among neighbours, in A and B."""


class WriterScan:
    """Both checkpoints' writers."""

    def __init__(self, model_a: OpenedModel, model_b: OpenedModel, progress: Progress) -> None:
        self.model_a, self.model_b, self.progress = model_a, model_b, progress
        self.pieces = matrix_pairs(model_a, model_b)
        self.seen: list[MatrixDiff] = []
        self.cast: list[str] = []
        """Labels of pieces that differ by the rounding of one to the other's format alone."""
        self.stack = Stack()

    def compare_writers(self) -> None:
        with self.progress("comparing", len(self.pieces), "matrices") as update:
            for piece in self.pieces:
                with piece.held():
                    if not piece.same():
                        self._look(piece)
                update(1)

    def _look(self, piece: MatrixPair) -> None:
        sizes = sizes_of(piece)
        finite(sizes.whole.difference + sizes.a, piece.label, self.model_a, self.model_b)
        if _is_cast(piece, sizes.typical):
            self.cast.append(piece.label)
            return
        # Each matrix counts by its change relative to its own length.
        share = sizes.relative
        if not sizes.sample.difference:
            # A few vectors that are not among those looked at, such as the embeddings of new
            # tokens.
            self.seen.append(MatrixDiff(piece, sizes, None, None, levels(piece)))
            self.stack.add(torch.zeros(1, piece.width), share)
            return
        spectrum = spectrum_of(lambda: piece.blocks(sample=True), piece.width, sizes.sample.vectors)
        rank = rank_of(spectrum, sizes.sample)
        fit = best_fit(piece, sizes, spectrum.rows, rank)
        self.seen.append(MatrixDiff(piece, sizes, rank, fit, levels(piece)))
        weights = spectrum.values * (share / sizes.sample.difference) ** 0.5
        self.stack.add(in_stream(spectrum.rows, piece) * weights[:, None], share)

    def shared(self) -> Float[Tensor, "k d_model"]:
        """The directions that the removals have in common; none if there is no removal, or each has
        its own.
        """
        fits = [(seen.piece, seen.fit) for seen in self.seen if seen.fit is not None]
        basis = common_directions(fits, self.model_a.architecture.d_model)
        return self._refined(basis) if 0 < len(basis) <= MOST_SHARED else basis[:0]

    def _refined(self, basis: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
        """From all matrices at once."""
        refinement, fits = Refinement(basis), []
        with self.progress("shared directions", len(self.seen), "matrices") as update:
            for seen in self.seen:
                if seen.fit is not None:
                    rows = span(basis, seen.piece)
                    with seen.piece.held():
                        equations = normal_equations(seen.piece, seen.sizes, rows, seen.fit.norm)
                        core = core_of(seen.piece, seen.sizes, rows, seen.fit.norm, equations)
                    fit = replace(seen.fit, basis=rows, core=core)
                    refinement.add(
                        seen.piece,
                        fit,
                        equations,
                        seen.sizes.whole.noise / (seen.piece.count * seen.piece.width),
                    )
                    fits.append((seen.piece, fit))
                update(1)
        return rotation(refinement.solved(), fits)

    def in_terms_of(self, basis: Float[Tensor, "k d_model"]) -> dict[int, Fit]:
        """What removal in the span of the shared directions each matrix shows, by its place in
        `seen`.
        """
        fits = {}
        with self.progress("strengths", len(self.seen), "matrices") as update:
            for index, seen in enumerate(self.seen):
                if seen.sizes.sample.difference:
                    with seen.piece.held():
                        fit = _in_span(seen, span(basis, seen.piece))
                    if fit is not None:
                        fits[index] = fit
                update(1)
        return fits

    def operations(self, basis: Float[Tensor, "k d_model"], fits: dict[int, Fit]) -> Operations:
        """Of every writer that shows a removal."""
        by_weight: dict[str, list[tuple[int, Tensor, Tensor, NormMode]]] = defaultdict(list)
        for index, seen in enumerate(self.seen):
            told = self._told(basis, seen, fits.get(index))
            if told is not None:
                by_weight[seen.piece.writer.weight].append((index, *told))
        made: Operations = {}
        for rows in by_weight.values():
            for operation, places in self._joined(rows):
                made[self.seen[places[0]].piece.writer.weight, operation.expert] = operation, places
        return made

    def _told(
        self, basis: Tensor, seen: MatrixDiff, fit: Fit | None
    ) -> tuple[Tensor, Tensor, NormMode] | None:
        for chosen, rows in ((fit, basis), (seen.fit, None)):
            if chosen is None:
                continue
            own = (
                torch.linalg.qr(in_stream(chosen.basis, seen.piece).T)[0].T.contiguous()
                if rows is None
                else rows
            )
            told = strengths_along(own, seen.piece, chosen)
            if told is not None:
                return (*told, chosen.norm)
        return None

    def _joined(self, rows: list[tuple[int, Tensor, Tensor, NormMode]]) -> list[tuple[Operation, list[int]]]:
        """One operation for all experts where they are edited alike, else one for each."""
        piece = self.seen[rows[0][0]].piece
        writer = piece.writer
        count = sum(1 for other in self.pieces if other.writer is writer)
        # The one whose basis most of them share, for what is turned within the span is turned by
        # noise.
        first = max(rows, key=lambda row: sum(torch.equal(row[1], basis) for _, basis, *_ in rows))
        if len(rows) == count and all(_alike(first, row) for row in rows):
            values = [strengths for _, basis, strengths, _ in rows if torch.equal(basis, first[1])]
            operation = Operation(
                writer.component, writer.layer, first[1], torch.stack(values).mean(0), first[3]
            )
            return [(operation, [index for index, *_ in rows])]
        if not experts_of(writer, self.model_a.architecture):
            return []
        return [
            (
                Operation(
                    writer.component,
                    writer.layer,
                    basis,
                    strengths,
                    norm,
                    expert=self.seen[index].piece.expert,
                ),
                [index],
            )
            for index, basis, strengths, norm in rows
        ]


def _alike(row: tuple[int, Tensor, Tensor, NormMode], other: tuple[int, Tensor, Tensor, NormMode]) -> bool:
    """Whether both remove the same: |B^T diag(a) B - B'^T diag(a') B'|, without making either."""
    (_, basis, a, norm), (_, its_basis, b, its_norm) = row, other
    between = a @ (basis @ its_basis.T).square() @ b
    return norm == its_norm and float(a.square().sum() + b.square().sum() - 2 * between) <= TOGETHER**2


def span(basis: Float[Tensor, "k d_model"], piece: MatrixPair) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows in front of a piece's norms."""
    return torch.linalg.qr(in_front(basis, piece).T)[0].T.contiguous()


def _in_span(seen: MatrixDiff, rows: Float[Tensor, "k d_model"]) -> Fit | None:
    """The best norm mode; the simplest one unless another is clearly better."""
    best: Fit | None = None
    for norm in modes_of(seen.piece, seen.sizes):
        core = core_of(
            seen.piece, seen.sizes, rows, norm, normal_equations(seen.piece, seen.sizes, rows, norm)
        )
        strengths, axes = torch.linalg.eigh(core)
        fit = Fit(
            rows,
            core,
            norm,
            reproduce_difference(seen.piece, seen.sizes, axes.T @ rows, strengths, norm, sample=True),
        )
        if within_rounding(fit.reproduced, seen.sizes.sample, seen.piece) and (
            best is None or fit.reproduced.off < BETTER * best.reproduced.off
        ):
            best = fit
    # A matrix that fits its own directions much better has others.
    if best is not None and seen.fit is not None and seen.fit.reproduced.off < 0.1 * best.reproduced.off:
        return None
    return best


def _is_cast(piece: MatrixPair, typical: float) -> bool:
    """B is A in another precision, or the reverse."""
    if piece.a.plain is None or piece.b.plain is None or piece.a.plain == piece.b.plain:
        return False
    return all(cast_alone(a, b, piece.fraction, typical) for a, b in piece.blocks())
