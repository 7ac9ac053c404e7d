"""What an Edit is made of: the base model it is for, and the operation on one of its writers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import Architecture, PostNorm, Writer
from vectomy.architecture.norms import fold_removal
from vectomy.checkpoint import Checkpoint, architecture_in, fingerprint, read_tensor
from vectomy.core import linalg
from vectomy.core.component import COMPONENTS, OUTSIDE, Component
from vectomy.core.errors import EditError
from vectomy.core.suggestions import suggest
from vectomy.core.types import NormMode, Vector

__all__ = [
    "BaseModelRef",
    "LoadedModel",
    "Operation",
    "check_fits",
    "check_takes",
    "combine",
    "experts_of",
    "fold_operation",
    "shape_of",
]

# How far stored rows may be from orthonormal (float32).
ORTHONORMAL = 1e-4


@runtime_checkable
class LoadedModel(Protocol):
    """A model in memory that knows what its weights are: `ChatModel`."""

    @property
    def architecture(self) -> Architecture: ...
    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True)
class BaseModelRef:
    """The model that an edit was made for: its shape, and the fingerprint of its weights
    (checkpoint/reader.py).
    """

    model_type: str
    d_model: int
    n_layers: int
    vocab: int
    fingerprint: str
    name: str = ""

    def __post_init__(self) -> None:
        texts, sizes = (
            (self.model_type, self.fingerprint, self.name),
            (self.d_model, self.n_layers, self.vocab),
        )
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(text.isprintable() and len(text) <= 300 for text in texts[:2])
            or not all(type(size) is int and size > 0 for size in sizes)
        ):
            raise EditError(
                f"a base model is named by texts and positive whole sizes, not by {vars(self)!r:.300}"
            )

    @classmethod
    def of(cls, model: Checkpoint | LoadedModel, name: str = "") -> BaseModelRef:
        if isinstance(model, Checkpoint):
            arch, weights = architecture_in(model), fingerprint(model)
        else:
            arch, weights = model.architecture, model.fingerprint
        return cls(arch.model_type, arch.d_model, arch.n_layers, arch.vocab, weights, name)

    def __str__(self) -> str:
        name = self.name or self.model_type
        return f"{name if name.isprintable() and len(name) <= 300 else f'{name!r:.300}'} ({shape_of(self)})"

    def same_shape(self, arch: Architecture) -> bool:
        return (self.model_type, self.d_model, self.n_layers, self.vocab) == (
            arch.model_type,
            arch.d_model,
            arch.n_layers,
            arch.vocab,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Operation:
    """What happens to one writer: W' = W - B^T diag(a) B W, its norm kept or not, and a vector
    added to its output.

    `basis` is k x d_model with orthonormal rows, float32; `strengths` has k entries. See linalg.py
    for the equations.
    """

    component: Component
    layer: int | None
    basis: Float[Tensor, "k d_model"]
    strengths: Float[Tensor, " k"]
    norm: NormMode = "none"
    addition: Vector | None = None
    expert: int | None = None

    def __repr__(self) -> str:
        added = "" if self.addition is None else ", with an added vector"
        strengths = ", ".join(f"{value:.3g}" for value in self.strengths[:4].tolist())
        more = ", ..." if len(self.strengths) > 4 else ""
        return f"<Operation on {self.writer_name}: strengths {strengths}{more}, norm {self.norm}{added}>"

    @property
    def sort_key(self) -> tuple[int, int, int]:
        """Layer, component and expert: an Edit has its operations in this order."""
        return (
            -1 if self.layer is None else self.layer,
            COMPONENTS.index(self.component),
            -1 if self.expert is None else self.expert,
        )

    @property
    def writer_name(self) -> str:
        name = self.component if self.layer is None else f"layer {self.layer} {self.component}"
        return name if self.expert is None else f"{name} expert {self.expert}"

    @property
    def is_noop(self) -> bool:
        """Changes nothing."""
        return not bool(self.strengths.any()) and self.addition is None


def check_fits(operation: Operation, base: BaseModelRef) -> None:
    """Raises EditError unless the operation fits the base and its basis is orthonormal."""
    name, basis, strengths = operation.writer_name, operation.basis, operation.strengths
    if operation.component not in COMPONENTS or (operation.component in OUTSIDE) != (operation.layer is None):
        raise EditError(
            f"operation on '{name}': a component{suggest(str(operation.component), COMPONENTS)} is one of "
            f"{', '.join(COMPONENTS)}, and all but {' and '.join(OUTSIDE)} have a layer"
        )
    # `type`, since True and 1.0 equal 1: a file can hold either.
    if operation.layer is not None and not (
        type(operation.layer) is int and 0 <= operation.layer < base.n_layers
    ):
        raise EditError(f"operation on {name}: the base has layers 0 to {base.n_layers - 1}")
    if operation.expert is not None and not (type(operation.expert) is int and operation.expert >= 0):
        raise EditError(f"operation on {name}: an expert is a number from 0")
    if operation.expert is not None and operation.component != "experts":
        raise EditError(f"operation on {name}: only the component experts has experts")
    if operation.expert is not None and operation.addition is not None:
        raise EditError(
            f"operation on {name}: a vector cannot be added for one expert; its share differs from token "
            "to token"
        )
    if operation.norm not in ("none", "column", "row"):
        raise EditError(f"operation on {name}: norm mode '{operation.norm}' is not none, column or row")
    if operation.norm == "row" and operation.component in OUTSIDE:
        raise EditError(f"operation on {name}: an embedding takes norm mode none or column, not row")
    if (
        basis.ndim != 2
        or basis.shape[1] != base.d_model
        or strengths.shape != basis.shape[:1]
        or not len(basis)
    ):
        raise EditError(
            f"operation on {name}: a basis of shape {tuple(basis.shape)} with {tuple(strengths.shape)} "
            f"strengths does not fit a stream of width {base.d_model}"
        )
    vectors = [basis, strengths] if operation.addition is None else [basis, strengths, operation.addition]
    if not all(vector.is_floating_point() and bool(vector.isfinite().all()) for vector in vectors):
        raise EditError(f"operation on {name}: NaN or infinite values")
    if operation.addition is not None and operation.addition.shape != (base.d_model,):
        raise EditError(
            f"operation on {name}: an addition of shape {tuple(operation.addition.shape)} for width "
            f"{base.d_model}"
        )
    # Before their products: of many rows those would be far larger than the file.
    if len(basis) > base.d_model:
        raise EditError(
            f"operation on {name}: {len(basis)} rows of width {base.d_model} cannot be orthonormal"
        )
    gram = basis.double() @ basis.double().T
    if (gram - torch.eye(len(basis), dtype=torch.float64)).abs().max() > ORTHONORMAL:
        raise EditError(f"operation on {name}: the basis is not orthonormal")


def check_takes(writer: Writer, operation: Operation, architecture: Architecture) -> None:
    """Raises EditError unless this writer can take the operation."""
    name = operation.writer_name
    count = experts_of(writer, architecture)
    if operation.expert is not None and operation.expert >= count:
        raise EditError(
            f"{name}: '{writer.module}' of this {architecture.model_type} model has experts 0 to {count - 1}"
            if count
            else f"{name}: the experts of this {architecture.model_type} model cannot be edited one by "
            "one; edit all of them"
        )
    if operation.norm == "row" and writer.slot.flat:
        raise EditError(
            f"{name}: rows of '{writer.weight}' run through all experts; norm mode row is not defined "
            "there, use none or column"
        )
    if operation.addition is not None and writer.norms:
        raise EditError(
            f"{name}: a vector cannot be added behind '{writer.module}': '{writer.norms[-1].module}' "
            "stands between it and the stream; use an intervention at that point (vectomy.intervene)"
        )


def experts_of(writer: Writer, architecture: Architecture) -> int:
    """How many experts of a writer can be edited one by one."""
    if writer.component != "experts" or writer.slot.flat:
        return 0
    first = writer.weights[0]
    return (
        len(writer.weights) if first.expert is not None else _fused_experts(architecture.shapes[first.name])
    )


def _fused_experts(shape: Sequence[int]) -> int:
    return shape[0] if len(shape) == 3 else 0


def combine(one: Operation, other: Operation) -> Operation:
    """Both operations on one writer: equal bases add strengths, others become one operator
    (linalg.joint_removal).

    Raises:
        EditError: different norm modes, or bases that overlap without being equal.
    """
    additions = [op.addition for op in (one, other) if op.addition is not None]
    addition = torch.stack(additions).sum(0) if additions else None
    if not one.strengths.any() or not other.strengths.any():
        return replace(one if one.strengths.any() else other, addition=addition)
    if one.norm != other.norm:
        raise EditError(f"{one.writer_name}: norm modes '{one.norm}' and '{other.norm}' do not combine")
    if one.basis.shape == other.basis.shape and torch.equal(one.basis, other.basis):
        return replace(one, strengths=one.strengths + other.strengths, addition=addition)
    vectors, strengths = torch.cat([one.basis, other.basis]), torch.cat([one.strengths, other.strengths])
    try:
        basis, joint = linalg.joint_removal(vectors[strengths != 0], strengths[strengths != 0])
    except ValueError:
        raise EditError(
            f"{one.writer_name}: the two bases overlap without being equal, so their sum is not defined"
        ) from None
    return replace(one, basis=basis, strengths=joint, addition=addition)


def fold_operation(
    checkpoint: Checkpoint, writer: Writer, operation: Operation
) -> tuple[Float[Tensor, "n d_model"], Float[Tensor, " n"]]:
    """Basis and strengths of a removal from the writer's own output that removes the operation's
    basis from what reaches the stream (architecture/norms.py). Reads the norms' weights.
    """

    def weight_of(norm: PostNorm) -> Tensor:
        return read_tensor(checkpoint, norm.weight).float()

    return fold_removal(writer.norms, operation.basis, operation.strengths, weight_of)


def shape_of(model: BaseModelRef | Architecture) -> str:
    return f"{model.model_type}, {model.n_layers} layers of width {model.d_model}, vocabulary {model.vocab}"
