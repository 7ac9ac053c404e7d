"""The Edit: a small portable value that says exactly what changes in which model.

edit = Edit.load("edit.safetensors")
with edit.hooks(model): ...            # run time
vectomy.bake(edit * 0.5, folder, out)  # weights
edit.only(layers=range(10, 20)) + other
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Architecture, Writer, architecture_of, check_covered
from vectomy.checkpoint import Checkpoint, ModelSource, architecture_in, fingerprint
from vectomy.core import linalg
from vectomy.core.arguments import list_of, name_of, require, require_name, require_path
from vectomy.core.component import COMPONENTS, OUTSIDE, Component
from vectomy.core.errors import EditError, FingerprintError
from vectomy.core.module_io import live_module
from vectomy.core.output_path import check_file_content, check_replaceable_file
from vectomy.core.run_folder import write_whole
from vectomy.core.types import NormMode, Vector
from vectomy.edits.edit_file import encode_edit, read_edit
from vectomy.edits.live_hooks import edit_writers
from vectomy.edits.operation import (
    BaseModelRef,
    LoadedModel,
    Operation,
    check_fits,
    check_takes,
    combine,
    shape_of,
)
from vectomy.edits.steering import Condition, steer_rows
from vectomy.report.notebook import draw_strengths

__all__ = ["BaseModelRef", "Edit", "Operation"]


@dataclass(frozen=True, eq=False, repr=False)
class Edit:
    """Operations on the writers of one base model, at most one per writer.

    An operation removes a share (strength) of its directions from a writer's output, and may add a
    vector. `about` has JSON values: the behaviour that is changed, and how the edit was found.

    `edit * 0.5` scales all strengths, `edit + other` applies both (docs/steering.md).
    """

    base: BaseModelRef
    operations: tuple[Operation, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for operation in self.operations:
            check_fits(operation, self.base)
        ordered = tuple(sorted(self.operations, key=lambda operation: operation.sort_key))
        for one, other in itertools.pairwise(ordered):
            if one.sort_key == other.sort_key:
                raise EditError(
                    f"two operations name the same writer ({one.writer_name}); combine them with `+`"
                )
            if one.sort_key[:2] == other.sort_key[:2] and one.expert is None:
                raise EditError(
                    f"one operation names all experts of {one.writer_name}, another expert {other.expert}; "
                    "name each once"
                )
        object.__setattr__(self, "operations", ordered)

    @classmethod
    def ablation(
        cls,
        checkpoint: ModelSource,
        direction: Float[Tensor, "*k d_model"],
        strength: float = 1.0,
        norm: NormMode = "none",
        embeddings: bool = True,
        about: dict[str, Any] | None = None,
        name: str = "",
    ) -> Edit:
        """Remove `strength` of a direction, or of the span of k directions, from every writer of a
        model.

        Args:
            checkpoint: the base: a folder, opened, or a `ChatModel` (`load_model`, `wrap`).
            direction: d_model numbers, or k x d_model; any length but 0.
            strength: 1 removes the direction, 0.5 halves it, 2 reflects it, -1 doubles it.
            norm: restore the lengths of each weight's rows or columns after the edit.
            embeddings: edit token and position embeddings too.
            about: JSON values to store in the Edit.
            name: the name of the base in the Edit, for messages; its model type if empty.

        Source: Arditi et al., arXiv 2406.11717, section 2.4 (weight orthogonalisation).

        Raises:
            CheckpointError, ArchitectureError: the base cannot be read, or its type is not known.
            EditError: the direction is zero, NaN, of the wrong width, or k directions are linearly
                dependent.
        """
        if isinstance(checkpoint, LoadedModel):
            architecture, base = checkpoint.architecture, BaseModelRef.of(checkpoint, name)
        else:
            opened = Checkpoint.of(checkpoint)
            architecture, base = architecture_in(opened), BaseModelRef.of(opened, name)
            check_covered(architecture)
        writers = [writer for writer in architecture.writers if embeddings or writer.component not in OUTSIDE]
        return cls.from_directions(direction, base, writers, strength, norm, about)

    @classmethod
    def from_directions(
        cls,
        direction: Float[Tensor, "*k d_model"],
        base: BaseModelRef,
        writers: Iterable[Writer],
        strength: float = 1.0,
        norm: NormMode = "none",
        about: dict[str, Any] | None = None,
    ) -> Edit:
        """As `ablation`, for chosen writers of a known base; raises EditError alike."""
        if not isinstance(direction, Tensor) or not direction.is_floating_point() or direction.ndim > 2:
            shape = f" of shape {list(direction.shape)}" if isinstance(direction, Tensor) else ""
            raise EditError(
                f"the direction is a {type(direction).__name__}{shape}; give a torch tensor of "
                f"{base.d_model} floating-point numbers, or k x {base.d_model}"
            )
        if not isinstance(strength, int | float) or not math.isfinite(strength):
            raise EditError(f"the strength is {strength!r:.80}; give a finite number, such as 1.0")
        if norm not in get_args(NormMode):
            raise EditError(
                f"there is no norm mode {norm!r:.80}; choose from {', '.join(get_args(NormMode))}"
            )
        rows = torch.atleast_2d(direction.detach().cpu().double())
        if rows.shape[-1] != base.d_model:
            raise EditError(
                f"the direction has width {rows.shape[-1]}, but the stream of {base} has width "
                f"{base.d_model}; fit one on this model with `vectomy direction`"
            )
        if not rows.isfinite().all():
            raise EditError("the direction holds NaN or infinite values; fit it again")
        if not rows.any(dim=-1).all():
            raise EditError("the direction is zero, so there is nothing to remove; fit it again")
        try:
            basis = linalg.symmetric_basis(rows).float()
        except ValueError as error:
            raise EditError(f"{error}; give independent ones") from None
        strengths = torch.full((len(basis),), float(strength))
        operations = (Operation(w.component, w.layer, basis, strengths, _norm_of(w, norm)) for w in writers)
        return cls(base, tuple(operations), about or {})

    def __repr__(self) -> str:
        active = [operation for operation in self.operations if not operation.is_noop]
        strengths = [value for operation in active for value in operation.strengths.tolist()]
        span = f", strengths {min(strengths):.3g} to {max(strengths):.3g}" if strengths else ""
        kinds = list(dict.fromkeys(operation.component for operation in active))
        return f"<Edit of {self.base!s:.90}: {len(active)} writers ({', '.join(kinds)[:50] or 'none'}){span}>"

    def _repr_html_(self) -> str:
        """The strength of each writer, as a picture in a notebook."""
        rows = [
            {"layer": op.layer, "component": op.component, "strengths": op.strengths.tolist()}
            for op in self.operations
        ]
        return draw_strengths(repr(self), rows, self.base.n_layers)

    # Arithmetic

    def __mul__(self, factor: float) -> Edit:
        """All strengths and additions times `factor`: the dial. 0 is no edit, 1 this one, 2
        reflects a removal.

        Raises:
            EditError: the factor is no number, or NaN or infinite.
        """
        if not isinstance(factor, int | float) or not math.isfinite(factor):
            raise EditError(
                f"an edit cannot have the strength {factor!r:.80}; give a finite number, such as 0.5"
            )
        return replace(
            self,
            operations=tuple(
                replace(
                    op,
                    strengths=op.strengths * factor,
                    addition=None if op.addition is None else op.addition * factor,
                )
                for op in self.operations
            ),
        )

    __rmul__ = __mul__

    def __add__(self, other: Edit) -> Edit:
        """Both edits at once. On a shared writer, equal bases add their strengths. Other bases
        become one operator, which removes wholly what either edit removes wholly; the order does
        not matter (linalg.joint_removal).

        Raises:
            EditError: different base models, different norm modes on one writer, or bases that
                overlap in part.
        """
        if not isinstance(other, Edit):
            raise EditError(f"{name_of(other)} cannot be added to an edit; add another Edit")
        if self.base != other.base:
            raise FingerprintError(f"the edits are for different base models ({self.base} and {other.base})")
        mine = {operation.sort_key: operation for operation in self.operations}
        for operation in other.operations:
            held = mine.get(operation.sort_key)
            mine[operation.sort_key] = operation if held is None else combine(held, operation)
        return replace(self, operations=tuple(mine.values()), about={"sum_of": [self.about, other.about]})

    def only(
        self,
        layers: int | Iterable[int] | None = None,
        components: Component | Collection[Component] | None = None,
    ) -> Edit:
        """The operations on some layers or components; None means all. The embedding belongs to no
        layer, so a choice of layers drops it.

        Raises:
            UsageError: what is given is no layer, or no component.
        """
        wanted = None
        if layers is not None:
            wanted = set(list_of(int, layers, "a layer", "give numbers of layers, such as range(10, 20)"))
        if components is not None:
            components = list_of(str, components, "a component", "give names of components")  # type: ignore
            for component in components:
                require_name(component, COMPONENTS, "component")
        return replace(
            self,
            operations=tuple(
                op
                for op in self.operations
                if (wanted is None or op.layer in wanted)
                and (components is None or op.component in components)
            ),
        )

    @property
    def main_direction(self) -> Vector:
        """The direction that is edited most over all writers, a unit vector (d_model): the leading
        eigenvector of the sum of their B^T diag(|a|) B.

        Raises:
            EditError: the edit removes nothing.
        """
        total = torch.zeros(self.base.d_model, dtype=torch.float64)
        rows = [(op.strengths.abs().double().sqrt()[:, None] * op.basis.double()) for op in self.operations]
        stacked = torch.cat([*rows, total[None]])
        if not bool(stacked.any()):
            raise EditError("the edit removes no direction")
        axis = torch.linalg.svd(stacked, full_matrices=False).Vh[0]
        # Along most of its rows, where an axis alone would have either sign.
        return (axis * ((stacked @ axis).sum().sign() or 1.0)).float()

    # Application

    def writers(self, architecture: Architecture) -> list[tuple[Writer, Operation]]:
        """The operations that change something, each with its writer in the model.

        Raises:
            ArchitectureError: the model has no such writer.
            EditError: it has no such expert, or an operation that this writer cannot take.
        """
        found = [
            (architecture.writer(op.component, op.layer), op) for op in self.operations if not op.is_noop
        ]
        for writer, operation in found:
            check_takes(writer, operation, architecture)
        return found

    def hooks(
        self,
        model: object,
        strength: float | Sequence[float] | Float[Tensor, " batch"] = 1.0,
        when: Condition | None = None,
    ) -> AbstractContextManager[None]:
        """Apply the edit to a live model for the length of a `with` block.

        Args:
            model: the edit's base as a `ChatModel`, or as a model of transformers.
            strength: a factor of the strengths, as in `edit * strength`; or one factor for each row
                of every batch inside the block.
            when: apply the edit only to rows whose prompt meets this condition.

        Raises:
            FingerprintError: the model has another shape than the edit's base.
            EditError: strengths by row or a condition, for an edit that changes parameters which
                all rows share.
        """
        module = live_module(model)
        architecture = self._check_shape(module)
        if isinstance(strength, int | float) and when is None:
            edit = self if strength == 1.0 else self * strength
            return edit_writers(module, edit.writers(architecture))
        require(when, (Condition, type(None)), "`when`", "give a vectomy.Condition")
        try:
            dial = (
                strength
                if isinstance(strength, int | float)
                else torch.as_tensor(strength, dtype=torch.float64)
            )
        except (TypeError, ValueError):
            raise EditError(
                f"the strength is {name_of(strength)}; give a finite number, or a list of one for each row"
            ) from None
        if isinstance(dial, Tensor) and (dial.ndim != 1 or not bool(dial.isfinite().all())):
            raise EditError(
                "strengths by row are a list of finite numbers, one for each row, not of shape "
                f"{list(dial.shape)}"
            )
        return steer_rows(module, lambda value: (self * value).writers(architecture), dial, when)

    def in_weights(self, model: object, strength: float = 1.0) -> AbstractContextManager[None]:
        """`hooks`, by weights that are changed for the length of a `with` block and restored to
        the same bytes: passes inside cost no more than without the edit. Where a weight cannot be
        changed (packed, offloaded, or shared with the head), hooks stay. Takes the memory of a copy
        of all writers.

        In 16 bits the weights are rounded as a bake rounds them, so that answers are those of the
        baked model.

        Raises:
            FingerprintError, EditError: as `hooks`.
        """
        module = live_module(model)
        architecture = self._check_shape(module)
        edit = self if strength == 1.0 else self * strength
        return edit_writers(module, edit.writers(architecture), in_weights=True)

    def _check_shape(self, model: nn.Module) -> Architecture:
        architecture = architecture_of(model)
        if not self.base.same_shape(architecture):
            raise FingerprintError(f"the edit is for {self.base}; this model is {shape_of(architecture)}")
        return architecture

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Raises FingerprintError if `checkpoint` has other weights than the edit's base."""
        found = fingerprint(checkpoint)
        if found != self.base.fingerprint:
            raise FingerprintError(
                f"the edit is for {self.base} with weights {self.base.fingerprint[:12]}; {checkpoint.path} "
                f"holds {found[:12]}. Use the base it was made for"
            )

    # File (edit_file.py)

    def to_bytes(self) -> bytes:
        """The file's content: the same edit gives the same bytes."""
        return encode_edit(self.base, self.operations, self.about)

    def save(self, path: str | Path, *, overwrite: bool = True) -> None:
        """Write the Edit as one safetensors file.

        Raises:
            FinishedRunError: without `overwrite`, another Edit or file has that name.
        """
        path, content = Path(path), self.to_bytes()
        if not overwrite and not self._is_made_for_another_base(path):
            check_file_content(path, content, "another Edit is there, or another file")
        with write_whole(path) as beside:
            beside.write_bytes(content)

    def _is_made_for_another_base(self, path: Path) -> bool:
        """Whether the Edit at `path` differs in nothing but the base that it names, as of the same
        model under other names of its tensors: no choice is lost with it.
        """
        check_replaceable_file(path)
        try:
            other = Edit.load(path)
        except EditError:
            return False
        return replace(other, base=self.base).to_bytes() == self.to_bytes()

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Read an Edit from its file, or from the folder of a run, a checkpoint or an adapter that
        holds one.

        Raises:
            EditError: the file is missing, damaged, of another format or version, or not
                orthonormal; or the folder holds none.
        """
        require_path(path, "the Edit's file")
        return read_edit(Path(path), cls)

    @classmethod
    def of(cls, source: str | Path | Edit) -> Edit:
        """An Edit that is loaded already, or the one in this file or folder.

        Raises:
            UsageError: `source` is nothing of the kind.
            EditError: as `load`.
        """
        return source if isinstance(source, Edit) else cls.load(source)

    @property
    def sha256(self) -> str:
        """The sha256 of the file that `save` writes, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _norm_of(writer: Writer, norm: NormMode) -> NormMode:
    """Rows of an embedding are vectors of the stream: keeping row norms there would be what
    `column` means elsewhere.
    """
    return "none" if writer.component in OUTSIDE and norm == "row" else norm
