"""Say how one checkpoint differs from another, and find the Edit that makes one of the other where there is one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.apply.bake import baked, folded_in
from vectomy.architecture import Writer
from vectomy.checkpoint import Checkpoint
from vectomy.comparison.fit import BETTER, Fit, Reproduced, best_fit, carried, core_of, modes_of, moments, reproduced
from vectomy.comparison.outcome import Comparison, Difference, Verdict, WriterDifference
from vectomy.comparison.pieces import Model, Piece, finite, opened_pair, pieces_of
from vectomy.comparison.rest import Distance, cast_alone, distance, distances_to, head_of, logical_values
from vectomy.comparison.shared import (
    Refinement,
    Stack,
    common_directions,
    in_front,
    in_stream,
    rotation,
    strengths_along,
)
from vectomy.comparison.spectrum import Sizes, rank_of, sizes_of, spectrum_of
from vectomy.comparison.words import COARSE, levels, summarise
from vectomy.edit import Base, Edit, Operation
from vectomy.model import fetch
from vectomy.operation import experts_of
from vectomy.progress import Progress, silent
from vectomy.types import NormMode

__all__ = ["compare"]

# More shared directions than this are none: each writer then has its own.
MOST_SHARED = 8
# Experts whose strengths are this close are edited by one operation.
TOGETHER = 0.02
# A bias may be off by this much of its change, beside rounding: its strengths are found on other tensors.
BIAS_SHARE = 0.02


def compare(a: str | Path | Checkpoint, b: str | Path | Checkpoint, *, progress: Progress = silent) -> Comparison:
    """How the checkpoint `b` differs from its base `a`: folders, Hub ids or opened checkpoints, stored in any way that can be read.

    Directions and strengths are fitted on 4,096 vectors a matrix; all of it is held against the Edit in the end. In memory are one pair of matrices as they are stored (one expert of
    fused ones, blocks of rows of embeddings and of all that does not write to the stream) and some 50 MB.

    Raises:
        ArchitectureError: they are not two versions of one model, or a model type that is not known.
        CheckpointError: a folder that is missing or not whole, or NaN and infinite values where the two differ.
    """
    one, other = opened_pair(_opened(a), _opened(b))
    looking = _Looking(one, other, progress)
    looking.at_writers()
    basis = looking.shared()
    fits = looking.in_terms_of(basis) if len(basis) else {}
    operations = looking.operations(basis, fits)
    return _Judging(looking, basis, operations).comparison()


def _opened(source: str | Path | Checkpoint) -> Checkpoint:
    return source if isinstance(source, Checkpoint) else Checkpoint.open(fetch(str(source)))


@dataclass
class _Seen:
    """A matrix that differs."""

    piece: Piece
    sizes: Sizes
    rank: int | None
    fit: Fit | None
    """A removal of directions of its own."""
    levels: tuple[int, int]
    """Distinct values among neighbours, in A and B."""


class _Looking:
    """Both checkpoints' writers."""

    def __init__(self, one: Model, other: Model, progress: Progress) -> None:
        self.one, self.other, self.progress = one, other, progress
        self.pieces = pieces_of(one, other)
        self.seen: list[_Seen] = []
        self.cast: list[str] = []
        """Labels of pieces that differ by the rounding of one to the other's format alone."""
        self.stack = Stack()

    def at_writers(self) -> None:
        with self.progress("comparing", len(self.pieces), "matrices") as advance:
            for piece in self.pieces:
                with piece.held():
                    if not piece.same():
                        self._look(piece)
                advance(1)

    def _look(self, piece: Piece) -> None:
        sizes = sizes_of(piece)
        finite(sizes.whole.difference + sizes.a, piece.label, self.one, self.other)
        if _is_cast(piece, sizes.typical):
            self.cast.append(piece.label)
            return
        found = spectrum_of(lambda: piece.blocks(sample=True), piece.width, sizes.sample.vectors)
        rank = rank_of(found, sizes.sample)
        fit = best_fit(piece, sizes, found.rows, rank)
        self.seen.append(_Seen(piece, sizes, rank, fit, levels(piece)))
        # Each matrix counts by its change relative to its own length.
        share = sizes.whole.difference / sizes.a
        weights = found.values * (share / sizes.sample.difference) ** 0.5
        self.stack.add(in_stream(found.rows, piece) * weights[:, None], share)

    def shared(self) -> Float[Tensor, "k d_model"]:
        """The directions that the removals have in common; none if there is no removal, or each has its own."""
        found = [(seen.piece, seen.fit) for seen in self.seen if seen.fit is not None]
        basis = common_directions(found, self.one.architecture.d_model)
        return self._refined(basis) if 0 < len(basis) <= MOST_SHARED else basis[:0]

    def _refined(self, basis: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
        """From all matrices at once."""
        refinement, fits = Refinement(basis), []
        with self.progress("shared directions", len(self.seen), "matrices") as advance:
            for seen in self.seen:
                if seen.fit is not None:
                    rows = _span(basis, seen.piece)
                    with seen.piece.held():
                        found = moments(seen.piece, seen.sizes, rows, seen.fit.norm)
                        core = core_of(seen.piece, seen.sizes, rows, seen.fit.norm, found)
                    fit = replace(seen.fit, basis=rows, core=core)
                    refinement.add(
                        seen.piece, fit, found, seen.sizes.whole.noise / (seen.piece.count * seen.piece.width)
                    )
                    fits.append((seen.piece, fit))
                advance(1)
        return rotation(refinement.solved(), fits)

    def in_terms_of(self, basis: Float[Tensor, "k d_model"]) -> dict[int, Fit]:
        """What removal in the span of the shared directions each matrix shows, by its place in `seen`."""
        fits = {}
        with self.progress("strengths", len(self.seen), "matrices") as advance:
            for at, seen in enumerate(self.seen):
                rows = _span(basis, seen.piece)
                with seen.piece.held():
                    fit = _in_span(seen, rows)
                if fit is not None:
                    fits[at] = fit
                advance(1)
        return fits

    def operations(
        self, basis: Float[Tensor, "k d_model"], fits: dict[int, Fit]
    ) -> dict[tuple[str, int | None], tuple[Operation, list[int]]]:
        """Operations by writer and expert, with the places in `seen` of the matrices that each is for."""
        found: dict[str, list[tuple[int, Tensor, Tensor, NormMode]]] = defaultdict(list)
        for at, seen in enumerate(self.seen):
            told = self._told(basis, seen, fits.get(at))
            if told is not None:
                found[seen.piece.writer.weight].append((at, *told))
        made: dict[tuple[str, int | None], tuple[Operation, list[int]]] = {}
        for rows in found.values():
            for operation, places in self._joined(rows):
                made[self.seen[places[0]].piece.writer.weight, operation.expert] = operation, places
        return made

    def _told(self, basis: Tensor, seen: _Seen, fit: Fit | None) -> tuple[Tensor, Tensor, NormMode] | None:
        for chosen, rows in ((fit, basis), (seen.fit, None)):
            if chosen is None:
                continue
            own = torch.linalg.qr(in_stream(chosen.basis, seen.piece).T)[0].T.contiguous() if rows is None else rows
            told = strengths_along(own, seen.piece, chosen)
            if told is not None:
                return (*told, chosen.norm)
        return None

    def _joined(self, rows: list[tuple[int, Tensor, Tensor, NormMode]]) -> list[tuple[Operation, list[int]]]:
        """One operation for all experts where they are edited alike, else one for each."""
        piece = self.seen[rows[0][0]].piece
        writer = piece.writer
        count = sum(1 for other in self.pieces if other.writer is writer)
        # The one whose basis most of them share, for what is turned within the span is turned by noise.
        first = max(rows, key=lambda row: sum(torch.equal(row[1], basis) for _, basis, *_ in rows))
        if len(rows) == count and all(_alike(first, row) for row in rows):
            held = [strengths for _, basis, strengths, _ in rows if torch.equal(basis, first[1])]
            operation = Operation(writer.component, writer.layer, first[1], torch.stack(held).mean(0), first[3])
            return [(operation, [at for at, *_ in rows])]
        if not experts_of(writer, self.one.architecture):
            return []
        return [
            (Operation(writer.component, writer.layer, basis, strengths, norm, expert=self.seen[at].piece.expert), [at])
            for at, basis, strengths, norm in rows
        ]


def _alike(one: tuple[int, Tensor, Tensor, NormMode], other: tuple[int, Tensor, Tensor, NormMode]) -> bool:
    """Whether the two remove the same: |B^T diag(a) B - B'^T diag(a') B'|, without making either."""
    (_, basis, a, norm), (_, its_basis, b, its_norm) = one, other
    between = a @ (basis @ its_basis.T).square() @ b
    return norm == its_norm and float(a.square().sum() + b.square().sum() - 2 * between) <= TOGETHER**2


def _span(basis: Float[Tensor, "k d_model"], piece: Piece) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows in front of a piece's norms."""
    return torch.linalg.qr(in_front(basis, piece).T)[0].T.contiguous()


def _in_span(seen: _Seen, rows: Float[Tensor, "k d_model"]) -> Fit | None:
    """The best norm mode; the simplest one unless another is clearly better."""
    best: Fit | None = None
    for norm in modes_of(seen.piece, seen.sizes):
        core = core_of(seen.piece, seen.sizes, rows, norm, moments(seen.piece, seen.sizes, rows, norm))
        strengths, axes = torch.linalg.eigh(core)
        fit = Fit(rows, core, norm, reproduced(seen.piece, seen.sizes, axes.T @ rows, strengths, norm, sample=True))
        if carried(fit.reproduced, seen.sizes.sample, seen.piece) and (
            best is None or fit.reproduced.off < BETTER * best.reproduced.off
        ):
            best = fit
    # A matrix that fits its own directions much better has others.
    if best is not None and seen.fit is not None and seen.fit.reproduced.off < 0.1 * best.reproduced.off:
        return None
    return best


def _is_cast(piece: Piece, typical: float) -> bool:
    """B is A in another precision, or the reverse."""
    if piece.a.plain is None or piece.b.plain is None or piece.a.plain == piece.b.plain:
        return False
    return all(cast_alone(a, b, piece.fraction, typical) for a, b in piece.blocks())


class _Judging:
    """What the Edit explains of all that differs."""

    def __init__(
        self,
        looking: _Looking,
        basis: Float[Tensor, "k d_model"],
        operations: dict[tuple[str, int | None], tuple[Operation, list[int]]],
    ) -> None:
        self.looking, self.basis = looking, basis
        self.one, self.other = looking.one, looking.other
        self.notes: list[str] = []
        self.made: dict[int, Reproduced] = {}
        self.chosen: dict[int, Operation] = {}
        self.kept: dict[tuple[str, int | None], Operation] = {}
        self._check(operations)

    def _check(self, operations: dict[tuple[str, int | None], tuple[Operation, list[int]]]) -> None:
        """Make the operations on A and hold them against B; those that do not make it are dropped."""
        with self.looking.progress("checking the edit", len(self.looking.seen), "matrices") as advance:
            for key, (operation, places) in operations.items():
                made = {}
                for at in places:
                    seen = self.looking.seen[at]
                    rows, strengths = folded_in(self.one.checkpoint, seen.piece.writer, operation)
                    with seen.piece.held():
                        made[at] = reproduced(seen.piece, seen.sizes, rows, strengths, operation.norm)
                    advance(1)
                if all(
                    carried(done, self.looking.seen[at].sizes.whole, self.looking.seen[at].piece)
                    for at, done in made.items()
                ):
                    self.kept[key] = operation
                    self.made.update(made)
                    self.chosen.update(dict.fromkeys(made, operation))

    def comparison(self) -> Comparison:
        shapes, its = self.one.architecture.shapes, self.other.architecture.shapes
        matrices = {piece.name for piece in self.looking.pieces}
        differing: list[Difference] = []
        same = 0
        only_a = [name for name in shapes if name not in its]
        only_b = [name for name in its if name not in shapes]
        differing += self._matrices()
        same += len(matrices) - len(differing)
        others = [name for name in shapes if name in its and name not in matrices]
        for name in others:
            found = distance(self.one, self.other, name)
            if found.none or found.cast:
                same += 1
                self.looking.cast += [name] * found.cast
            else:
                differing.append(Difference(name, found.relative, found.rounding, self._writes(name), self._bias(name)))
        head = self._head(only_a, only_b)
        only_b = [name for name in only_b if not (name == self.other.architecture.head and head.none)]
        only_b = [name for name in only_b if not self._new_bias(name)]
        only_a = [name for name in only_a if not (name == self.one.architecture.head and head.none)]
        edit = self._edit()
        explained = not only_a and not only_b and head.none and all(row.explained for row in differing)
        verdict: Verdict = (
            "identical" if explained and not differing and edit is None
            else "directional" if explained and edit is not None
            else "partly_directional" if edit is not None
            else "other"
        )  # fmt: skip
        self._note(head)
        writers = tuple(self._writer(at, seen) for at, seen in enumerate(self.looking.seen))
        shares = tuple(self.looking.stack.explained(MOST_SHARED))
        elements = sum(self._elements(at) for at in self.made)
        result = Comparison(
            a=self.one.name, b=self.other.name, verdict=verdict, summary="", same=same, differing=tuple(differing),
            only_in_a=tuple(only_a), only_in_b=tuple(only_b), writers=writers, directions=self._directions(edit), explained=shares,
            edit=edit,
            equal=sum(done.equal for done in self.made.values()) / elements if elements else None,
            within=sum(done.within for done in self.made.values()) / elements if elements else None,
            worst=max((done.worst for done in self.made.values()), default=None),
            notes=tuple(self.notes),
        )  # fmt: skip
        before, after = (sum(seen.levels[side] for seen in self.looking.seen) for side in (0, 1))
        return replace(result, summary=summarise(result, after < COARSE * before))

    def _elements(self, at: int) -> int:
        piece = self.looking.seen[at].piece
        return piece.count * piece.width

    def _matrices(self) -> list[Difference]:
        """The writers' matrices, experts of one fused tensor together."""
        places: dict[str, list[int]] = defaultdict(list)
        for at, seen in enumerate(self.looking.seen):
            places[seen.piece.name].append(at)
        rows = []
        for name, held in places.items():
            sizes = [self.looking.seen[at].sizes for at in held]
            size = sum(one.a for one in sizes)
            rows.append(
                Difference(
                    name,
                    (sum(one.whole.difference for one in sizes) / size) ** 0.5,
                    (sum(one.whole.noise for one in sizes) / size) ** 0.5,
                    True,
                    all(at in self.made for at in held),
                )
            )
        return rows

    def _writer(self, at: int, seen: _Seen) -> WriterDifference:
        piece, done, operation = seen.piece, self.made.get(at), self.chosen.get(at)
        rank = seen.rank
        if operation is not None:
            rank = len(operation.basis)
        along = None
        if len(self.basis):
            rows = _span(self.basis, piece)
            with piece.held():
                inside = sum(
                    float(((b - a) @ rows.T).square().sum(dtype=torch.float64)) for a, b in piece.blocks(sample=True)
                )
            along = min(1.0, inside / seen.sizes.sample.difference)
        return WriterDifference(
            name=piece.label, width=piece.width, component=piece.writer.component, layer=piece.writer.layer, expert=piece.expert,
            relative=(seen.sizes.whole.difference / seen.sizes.a) ** 0.5, rank=rank,
            norm=None if operation is None else operation.norm,
            strengths=None if operation is None else tuple(operation.strengths.tolist()),
            along_shared=along, equal=None if done is None else done.equal / self._elements(at), carried=done is not None,
        )  # fmt: skip

    def _directions(self, edit: Edit | None) -> Float[Tensor, "k d_model"]:
        if len(self.basis) or edit is None:
            return self.basis if len(self.basis) or not self.looking.seen else self.looking.stack.leading()
        return edit.main_direction[None]

    def _edit(self) -> Edit | None:
        operations = [operation for operation in self.kept.values() if not operation.idle]
        if not operations:
            return None
        base = Base.of(self.one.checkpoint, Path(self.one.name).name)
        return Edit(base, tuple(operations), {"behaviour": "a difference of two checkpoints", "found_by": "compare"})

    # Beside the matrices

    def _writes(self, name: str) -> bool:
        return any(name in writer.tensors for writer in self.one.architecture.writers)

    def _bias(self, name: str) -> bool:
        """Whether the edit makes B's bias of A's; a vector that it adds becomes part of the edit."""
        for writer in self.one.architecture.writers:
            if name not in writer.tensors:
                continue
            held = {key: op for key, op in self.kept.items() if key[0] == writer.weight}
            wanted = self._wanted(name, writer, list(held.values()))
            if wanted is None:
                return False
            off, change, rounding = distances_to(self.one, self.other, name, wanted)
            if off <= 2 * rounding + BIAS_SHARE * change:
                return True
            if len(held) > 1 or writer.norms or writer.component == "experts" or wanted.ndim != 1:
                return False
            ((key, operation),) = held.items()
            found = torch.cat([block.flatten() for block in logical_values(self.other, name)]).float()
            self.kept[key] = replace(operation, addition=found - wanted)
            return True
        return False

    def _wanted(self, name: str, writer: Writer, operations: list[Operation]) -> Tensor | None:
        """What the operations on a writer (one, or one an expert) make of A's bias together."""
        made = [
            baked(self.one.checkpoint, self.one.architecture, writer, op, names=(name,)).get(name) for op in operations
        ]
        told = [value for value in made if value is not None]
        if not told:
            return None
        old = torch.cat([block.flatten() for block in logical_values(self.one, name)]).reshape(told[0].shape).float()
        return old + torch.stack([value - old for value in told]).sum(0)

    def _new_bias(self, name: str) -> bool:
        """A bias that B alone has: of zeros, or what the edit adds to a writer."""
        for writer in self.other.architecture.writers:
            if name not in [stored.name for stored in writer.biases] or writer.component == "experts" or writer.norms:
                continue
            value = torch.cat([block.flatten() for block in logical_values(self.other, name)]).float()
            if not bool(value.any()):
                return True
            held = self.kept.get((writer.weight, None))
            if held is None:
                return False
            self.kept[writer.weight, None] = replace(held, addition=value)
            return True
        return False

    def _head(self, only_a: list[str], only_b: list[str]) -> Distance:
        """What the head that B uses is away from the one that A uses, where either is tied to its embedding."""
        names = head_of(self.one), head_of(self.other)
        if names[0] == names[1] == self.one.architecture.head or not (
            self.one.architecture.tied or self.other.architecture.tied
        ):
            return Distance(0.0, 0.0)
        return distance(self.one, self.other, *names)

    def _note(self, head: Distance) -> None:
        tied = self.one.architecture.tied, self.other.architecture.tied
        if not head.none and not head.cast:
            self.notes.append(
                "B's head is tied to its edited embedding, so that it reads other values than A's; an Edit leaves the head as it is"
                if tied[1]
                else f"the heads differ by {head.relative:.2g} of their length, though one of them is tied to its embedding"
            )
        elif tied == (True, False):
            self.notes.append("B's head is no longer tied to its embedding; it holds A's values")
        if self.looking.cast:
            self.notes.append(
                f"{len(self.looking.cast)} tensors differ by the rounding of one checkpoint to the precision of the other alone"
            )
