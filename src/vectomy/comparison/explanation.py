"""Hold an Edit against all that differs between two checkpoints, and say what is left."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Writer
from vectomy.comparison.other_tensors import Distance, distance, distances_to, head_of, logical_values
from vectomy.comparison.outcome import Comparison, TensorDifference, Verdict, WriterDifference
from vectomy.comparison.removal_fit import Reproduced, reproduce_difference, within_rounding
from vectomy.comparison.summary_text import COARSE, summarize
from vectomy.comparison.writer_scan import MOST_SHARED, MatrixDiff, Operations, WriterScan, span
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.edits.export.bake import bake_writer
from vectomy.edits.operation import fold_operation

__all__ = ["DiffExplanation"]

# A bias may be off by this much of its change, beside rounding: its strengths are found on other
# tensors.
BIAS_SHARE = 0.02


class DiffExplanation:
    """What the Edit explains of all that differs."""

    def __init__(
        self,
        scan: WriterScan,
        basis: Float[Tensor, "k d_model"],
        operations: Operations,
    ) -> None:
        self.scan, self.basis = scan, basis
        self.model_a, self.model_b = scan.model_a, scan.model_b
        self.notes: list[str] = []
        self.unmade: list[str] = []
        """Biases that B left alone, though the Edit would change them."""
        self.made: dict[int, Reproduced] = {}
        self.chosen: dict[int, Operation] = {}
        self.kept: dict[tuple[str, int | None], Operation] = {}
        self._check(operations)

    def _check(self, operations: Operations) -> None:
        """Apply the operations to A and compare with B; drop operations that do not make B."""
        with self.scan.progress("checking the edit", len(self.scan.seen), "matrices") as update:
            for key, (operation, places) in operations.items():
                made = {}
                for index in places:
                    seen = self.scan.seen[index]
                    rows, strengths = fold_operation(self.model_a.checkpoint, seen.piece.writer, operation)
                    with seen.piece.held():
                        made[index] = reproduce_difference(
                            seen.piece, seen.sizes, rows, strengths, operation.norm
                        )
                    update(1)
                if all(
                    within_rounding(done, self.scan.seen[index].sizes.whole, self.scan.seen[index].piece)
                    for index, done in made.items()
                ):
                    self.kept[key] = operation
                    self.made.update(made)
                    self.chosen.update(dict.fromkeys(made, operation))

    def comparison(self) -> Comparison:
        shapes, its = self.model_a.architecture.shapes, self.model_b.architecture.shapes
        matrices = {piece.name for piece in self.scan.pieces}
        differing: list[TensorDifference] = []
        same = 0
        only_a = [name for name in shapes if name not in its]
        only_b = [name for name in its if name not in shapes]
        differing += self._matrices()
        same += len(matrices) - len(differing)
        others = [name for name in shapes if name in its and name not in matrices]
        for name in others:
            difference = distance(self.model_a, self.model_b, name)
            if difference.none or difference.cast:
                same += 1
                self.scan.cast += [name] * difference.cast
                if self._edited(name) and not self._bias(name):
                    self.unmade.append(name)
            else:
                differing.append(
                    TensorDifference(
                        name, difference.relative, difference.rounding, self._writes(name), self._bias(name)
                    )
                )
        head = self._head()
        alike = head.none or head.cast
        only_b = [name for name in only_b if not (name == self.model_b.architecture.head and alike)]
        only_b = [name for name in only_b if not self._new_bias(name)]
        only_a = [name for name in only_a if not (name == self.model_a.architecture.head and alike)]
        edit = self._edit()
        explained = (
            alike and not (only_a or only_b or self.unmade) and all(row.explained for row in differing)
        )
        verdict: Verdict = (
            "identical"
            if explained and not differing and edit is None
            else "directional"
            if explained and edit is not None
            else "partly_directional"
            if edit is not None
            else "other"
        )
        self._note(head)
        writers = tuple(self._writer(index, seen) for index, seen in enumerate(self.scan.seen))
        shares = tuple(self.scan.stack.explained(MOST_SHARED))
        elements = sum(self._elements(index) for index in self.made)
        result = Comparison(
            a=self.model_a.name,
            b=self.model_b.name,
            verdict=verdict,
            summary="",
            same=same,
            differing=tuple(differing),
            only_in_a=tuple(only_a),
            only_in_b=tuple(only_b),
            writers=writers,
            directions=self._directions(edit),
            explained=shares,
            edit=edit,
            equal=sum(done.equal for done in self.made.values()) / elements if elements else None,
            within=sum(done.within for done in self.made.values()) / elements if elements else None,
            worst=max((done.worst for done in self.made.values()), default=None),
            notes=tuple(self.notes),
        )
        before, after = (sum(seen.levels[side] for seen in self.scan.seen) for side in (0, 1))
        return replace(result, summary=summarize(result, after < COARSE * before))

    def _elements(self, index: int) -> int:
        piece = self.scan.seen[index].piece
        return piece.count * piece.width

    def _matrices(self) -> list[TensorDifference]:
        """The writers' matrices, experts of one fused tensor together."""
        places: dict[str, list[int]] = defaultdict(list)
        for index, seen in enumerate(self.scan.seen):
            places[seen.piece.name].append(index)
        rows = []
        for name, indices in places.items():
            sizes = [self.scan.seen[index].sizes for index in indices]
            size = sum(item.a for item in sizes) or sum(item.whole.difference for item in sizes)
            rows.append(
                TensorDifference(
                    name,
                    (sum(item.whole.difference for item in sizes) / size) ** 0.5,
                    (sum(item.whole.noise for item in sizes) / size) ** 0.5,
                    True,
                    all(index in self.made for index in indices),
                )
            )
        return rows

    def _writer(self, index: int, seen: MatrixDiff) -> WriterDifference:
        piece, done, operation = seen.piece, self.made.get(index), self.chosen.get(index)
        rank = seen.rank
        if operation is not None:
            rank = len(operation.basis)
        along = None
        if len(self.basis) and seen.sizes.sample.difference:
            rows = span(self.basis, piece)
            with piece.held():
                inside = sum(
                    float(((b - a) @ rows.T).square().sum(dtype=torch.float64))
                    for a, b in piece.blocks(sample=True)
                )
            along = min(1.0, inside / seen.sizes.sample.difference)
        return WriterDifference(
            name=piece.label,
            width=piece.width,
            component=piece.writer.component,
            layer=piece.writer.layer,
            expert=piece.expert,
            relative=seen.sizes.relative**0.5,
            rank=rank,
            norm=None if operation is None else operation.norm,
            strengths=None if operation is None else tuple(operation.strengths.tolist()),
            along_shared=along,
            equal=None if done is None else done.equal / self._elements(index),
            carried=done is not None,
        )

    def _directions(self, edit: Edit | None) -> Float[Tensor, "k d_model"]:
        if len(self.basis) or edit is None:
            return self.basis if len(self.basis) or not self.scan.seen else self.scan.stack.leading()
        return edit.main_direction[None]

    def _edit(self) -> Edit | None:
        operations = [operation for operation in self.kept.values() if not operation.is_noop]
        if not operations:
            return None
        base = BaseModelRef.of(self.model_a.checkpoint, Path(self.model_a.name).name)
        return Edit(
            base, tuple(operations), {"behaviour": "a difference of two checkpoints", "found_by": "compare"}
        )

    # Beside the matrices

    def _writes(self, name: str) -> bool:
        return any(name in writer.tensors for writer in self.model_a.architecture.writers)

    def _edited(self, name: str) -> bool:
        """Whether the edit is of the writer that a bias belongs to."""
        weights = {weight for weight, _ in self.kept}
        return any(
            writer.weight in weights and name in writer.tensors
            for writer in self.model_a.architecture.writers
        )

    def _bias(self, name: str) -> bool:
        """Whether the edit turns A's bias into B's; a vector that B adds joins the edit."""
        for writer in self.model_a.architecture.writers:
            if name not in writer.tensors:
                continue
            operations = {key: op for key, op in self.kept.items() if key[0] == writer.weight}
            wanted = self._wanted(name, writer, list(operations.values()))
            if wanted is None:
                return False
            off, change, rounding = distances_to(self.model_a, self.model_b, name, wanted)
            if off <= 2 * rounding + BIAS_SHARE * change:
                return True
            if len(operations) > 1 or writer.norms or writer.component == "experts" or wanted.ndim != 1:
                return False
            ((key, operation),) = operations.items()
            bias = torch.cat([block.flatten() for block in logical_values(self.model_b, name)]).float()
            self.kept[key] = replace(operation, addition=bias - wanted)
            return True
        return False

    def _wanted(self, name: str, writer: Writer, operations: list[Operation]) -> Tensor | None:
        """What the operations on a writer (one, or one an expert) make of A's bias together."""
        made = [
            bake_writer(self.model_a.checkpoint, self.model_a.architecture, writer, op, names=(name,)).get(
                name
            )
            for op in operations
        ]
        told = [value for value in made if value is not None]
        if not told:
            return None
        old = (
            torch.cat([block.flatten() for block in logical_values(self.model_a, name)])
            .reshape(told[0].shape)
            .float()
        )
        return old + torch.stack([value - old for value in told]).sum(0)

    def _new_bias(self, name: str) -> bool:
        """A bias that B alone has: of zeros, or what the edit adds to a writer."""
        for writer in self.model_b.architecture.writers:
            if (
                name not in [stored.name for stored in writer.biases]
                or writer.component == "experts"
                or writer.norms
            ):
                continue
            value = torch.cat([block.flatten() for block in logical_values(self.model_b, name)]).float()
            if not bool(value.any()):
                return True
            operation = self.kept.get((writer.weight, None))
            if operation is None:
                return False
            self.kept[writer.weight, None] = replace(operation, addition=value)
            return True
        return False

    def _head(self) -> Distance:
        """What the head that B uses is away from the one that A uses, where either is tied to its
        embedding.
        """
        names = head_of(self.model_a), head_of(self.model_b)
        if names[0] == names[1] == self.model_a.architecture.head or not (
            self.model_a.architecture.tied or self.model_b.architecture.tied
        ):
            return Distance(0.0, 0.0)
        return distance(self.model_a, self.model_b, *names)

    def _note(self, head: Distance) -> None:
        tied = self.model_a.architecture.tied, self.model_b.architecture.tied
        if not head.none and not head.cast:
            self.notes.append(
                "B's head is tied to its edited embedding and differs from A's; an Edit changes no head"
                if tied[1]
                else f"the heads differ by {head.relative:.2g} of their length; one is tied to its embedding"
            )
        elif tied == (True, False):
            self.notes.append("B's head is no longer tied to its embedding; it holds A's values")
        if self.unmade:
            self.notes.append(
                f"B leaves {len(self.unmade)} biases alone that the Edit changes (such as "
                f"'{self.unmade[0]}'): whatever edited B changed its weights only"
            )
        if self.scan.cast:
            self.notes.append(
                f"{len(self.scan.cast)} tensors differ only by rounding to the precision of the other"
            )
