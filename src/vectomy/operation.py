"""What an Edit is made of: the base model it is for, and the operation on one of its writers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy import linalg
from vectomy.architecture import Architecture, resolve
from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.errors import EditError
from vectomy.types import COMPONENTS, Component, NormMode, Vector

__all__ = ["Base", "Operation", "check_fits", "combine", "shape_of"]

# How far stored rows may be from orthonormal (float32).
ORTHONORMAL = 1e-4


@dataclass(frozen=True)
class Base:
    """The model that an edit was made for: its shape, and the fingerprint of its weights (checkpoint/reader.py)."""

    model_type: str
    d_model: int
    n_layers: int
    vocab: int
    fingerprint: str
    name: str = ""

    def __post_init__(self) -> None:
        texts, sizes = (self.model_type, self.fingerprint, self.name), (self.d_model, self.n_layers, self.vocab)
        if not all(isinstance(text, str) for text in texts) or not all(
            type(size) is int and size > 0 for size in sizes
        ):
            raise EditError(f"a base model is named by texts and positive whole sizes, not by {self}")

    @classmethod
    def of(cls, checkpoint: Checkpoint, name: str = "") -> Base:
        arch = resolve(checkpoint.config)
        return cls(arch.model_type, arch.d_model, arch.n_layers, arch.vocab, fingerprint(checkpoint), name)

    def __str__(self) -> str:
        return f"{self.name or self.model_type} ({shape_of(self)})"

    def same_shape(self, arch: Architecture) -> bool:
        return (self.model_type, self.d_model, self.n_layers, self.vocab) == (
            arch.model_type, arch.d_model, arch.n_layers, arch.vocab,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Operation:
    """What happens to one writer: W' = W - B^T diag(a) B W, its norm kept or not, and a vector added to its output.

    `basis` is k x d_model with orthonormal rows, float32; `strengths` has k entries. See linalg.py for the equations.
    """

    component: Component
    layer: int | None
    basis: Float[Tensor, "k d_model"]
    strengths: Float[Tensor, " k"]
    norm: NormMode = "none"
    addition: Vector | None = None
    expert: int | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands in the model; operations are kept in this order."""
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
    def idle(self) -> bool:
        """Changes nothing."""
        return not bool(self.strengths.any()) and self.addition is None


def check_fits(operation: Operation, base: Base) -> None:
    """Raises EditError unless the operation fits the base and its basis is orthonormal."""
    name, basis, strengths = operation.writer_name, operation.basis, operation.strengths
    if operation.component not in COMPONENTS or (operation.component == "embedding") != (operation.layer is None):
        raise EditError(
            f"operation on '{name}': a component is one of {', '.join(COMPONENTS)}, and all but the embedding have a layer"
        )
    # `type`, since True and 1.0 equal 1: a file can hold either.
    if operation.layer is not None and not (type(operation.layer) is int and 0 <= operation.layer < base.n_layers):
        raise EditError(f"operation on {name}: the base has layers 0 to {base.n_layers - 1}")
    if operation.expert is not None and not (type(operation.expert) is int and operation.expert >= 0):
        raise EditError(f"operation on {name}: an expert is a number from 0")
    if operation.norm not in ("none", "column", "row"):
        raise EditError(f"operation on {name}: norm mode '{operation.norm}' is not none, column or row")
    if operation.norm == "row" and operation.component == "embedding":
        raise EditError(f"operation on {name}: an embedding takes norm mode none or column, not row")
    if basis.ndim != 2 or basis.shape[1] != base.d_model or strengths.shape != basis.shape[:1] or not len(basis):
        raise EditError(
            f"operation on {name}: a basis of shape {tuple(basis.shape)} with {tuple(strengths.shape)} strengths does not fit "
            f"a stream of width {base.d_model}"
        )
    vectors = [basis, strengths] if operation.addition is None else [basis, strengths, operation.addition]
    if not all(vector.is_floating_point() and bool(vector.isfinite().all()) for vector in vectors):
        raise EditError(f"operation on {name}: NaN or infinite values")
    if operation.addition is not None and operation.addition.shape != (base.d_model,):
        raise EditError(
            f"operation on {name}: an addition of shape {tuple(operation.addition.shape)} for width {base.d_model}"
        )
    gram = basis.double() @ basis.double().T
    if (gram - torch.eye(len(basis), dtype=torch.float64)).abs().max() > ORTHONORMAL:
        raise EditError(f"operation on {name}: the basis is not orthonormal")


def combine(one: Operation, other: Operation) -> Operation:
    """Both operations on one writer: equal bases add strengths, others become one operator (linalg.joint_removal).

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


def shape_of(model: Base | Architecture) -> str:
    return f"{model.model_type}, {model.n_layers} layers of width {model.d_model}, vocabulary {model.vocab}"
