"""The Edit: a small portable file that says exactly what changes in which model.

    edit = Edit.load("edit.safetensors")
    with edit.hooks(model): ...            # run time
    vectomy.bake(edit * 0.5, folder, out)  # weights
    edit.only(layers=range(10, 20)) + other

One safetensors file: the distinct bases as tensors, and one JSON text with everything else in its header. The same
edit gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy import linalg
from vectomy.architecture import Architecture, Writer, architecture_of, resolve
from vectomy.artifacts import canonical_json, hash_of, write_whole
from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.errors import EditError, FingerprintError
from vectomy.intervene import edit_writers
from vectomy.types import COMPONENTS, Component, NormMode, Vector

__all__ = ["Base", "Edit", "Operation"]

FORMAT = "vectomy-edit"
VERSION = 1
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


@dataclass(frozen=True, eq=False)
class Edit:
    """Operations on the writers of one base model, at most one per writer.

    `about` says in plain JSON values which behaviour is changed, and how the edit was found.
    """

    base: Base
    operations: tuple[Operation, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for operation in self.operations:
            _check(operation, self.base)
        ordered = tuple(sorted(self.operations, key=lambda operation: operation.place))
        for one, other in itertools.pairwise(ordered):
            if one.place == other.place:
                raise EditError(f"two operations name the same writer ({one.writer_name}); combine them with `+`")
        object.__setattr__(self, "operations", ordered)

    @classmethod
    def ablation(
        cls,
        checkpoint: str | Path | Checkpoint,
        direction: Float[Tensor, "*k d_model"],
        strength: float = 1.0,
        norm: NormMode = "none",
        embeddings: bool = True,
        about: dict[str, Any] | None = None,
        name: str = "",
    ) -> Edit:
        """Remove `strength` of a direction (or of the span of k of them) from every writer of a model.

        Raises:
            EditError: the direction is zero, NaN, of the wrong width, or k directions are linearly dependent.
        """
        opened = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint.open(checkpoint)
        writers = [w for w in resolve(opened.config).writers if embeddings or w.component != "embedding"]
        return cls.removing(direction, Base.of(opened, name), writers, strength, norm, about)

    @classmethod
    def removing(
        cls,
        direction: Float[Tensor, "*k d_model"],
        base: Base,
        writers: Iterable[Writer],
        strength: float = 1.0,
        norm: NormMode = "none",
        about: dict[str, Any] | None = None,
    ) -> Edit:
        """The same for chosen writers of a base that is known already. Raises as `ablation` does."""
        rows = torch.atleast_2d(direction.detach().double().cpu())
        if rows.shape[-1] != base.d_model:
            raise EditError(
                f"the direction has width {rows.shape[-1]}, but the stream of {_short(base)} has width {base.d_model}"
            )
        if not rows.isfinite().all():
            raise EditError("the direction holds NaN or infinite values; it cannot be removed")
        if not rows.any(dim=-1).all():
            raise EditError("the direction is zero; there is nothing to remove")
        try:
            basis = linalg.symmetric_basis(rows).float()
        except ValueError as error:
            raise EditError(f"{error}; give independent ones") from None
        strengths = torch.full((len(basis),), float(strength))
        operations = (Operation(w.component, w.layer, basis, strengths, _norm_of(w, norm)) for w in writers)
        return cls(base, tuple(operations), about or {})

    # Arithmetic

    def __mul__(self, factor: float) -> Edit:
        """All strengths and additions times `factor`: the dial. 0 is no edit, 1 this one, 2 reflects a removal."""
        return replace(
            self,
            operations=tuple(
                replace(
                    op, strengths=op.strengths * factor, addition=None if op.addition is None else op.addition * factor
                )
                for op in self.operations
            ),
        )

    __rmul__ = __mul__

    def __add__(self, other: Edit) -> Edit:
        """Both edits at once. On a shared writer, equal bases add their strengths; otherwise the directions are made
        orthonormal together (Löwdin, so that the order does not matter) and keep their strengths.

        Raises:
            EditError: different bases models, different norm modes on one writer, or bases that overlap in part.
        """
        if self.base != other.base:
            raise FingerprintError(
                f"the edits are for different base models ({_short(self.base)} and {_short(other.base)})"
            )
        mine = {operation.place: operation for operation in self.operations}
        for operation in other.operations:
            held = mine.get(operation.place)
            mine[operation.place] = operation if held is None else _combined(held, operation)
        return replace(self, operations=tuple(mine.values()), about={"sum_of": [self.about, other.about]})

    def only(self, layers: Iterable[int] | None = None, components: Collection[Component] | None = None) -> Edit:
        """The part of the edit on some layers or components. The embedding belongs to no layer: naming layers drops it."""
        wanted = None if layers is None else set(layers)
        return replace(
            self,
            operations=tuple(
                op
                for op in self.operations
                if (wanted is None or op.layer in wanted) and (components is None or op.component in components)
            ),
        )

    # Application

    def writers(self, architecture: Architecture) -> list[tuple[Writer, Operation]]:
        """The operations that change something, each with the module it means."""
        for operation in self.operations:
            if operation.expert is not None:
                raise EditError(
                    f"{operation.writer_name} names an expert, but model type '{architecture.model_type}' has none"
                )
        return [(architecture.writer(op.component, op.layer), op) for op in self.operations if not op.idle]

    def hooks(self, model: nn.Module, strength: float = 1.0) -> AbstractContextManager[None]:
        """Apply the edit to a live model for the length of a `with` block.

        Raises:
            FingerprintError: the model has another shape than the edit's base.
        """
        architecture = architecture_of(model)
        if not self.base.same_shape(architecture):
            raise FingerprintError(f"the edit is for {_short(self.base)}; this model is {_short_shape(architecture)}")
        edit = self if strength == 1.0 else self * strength
        return edit_writers(model, edit.writers(architecture))

    def check_base(self, checkpoint: Checkpoint) -> None:
        """Raises FingerprintError unless `checkpoint` holds the very weights that the edit was made for."""
        found = fingerprint(checkpoint)
        if found != self.base.fingerprint:
            raise FingerprintError(
                f"the edit is for {_short(self.base)} with weights {self.base.fingerprint[:12]}; {checkpoint.path} holds "
                f"{found[:12]}. Use the base it was made for"
            )

    # File

    def to_bytes(self) -> bytes:
        tensors: dict[str, Tensor] = {}
        rows = []
        for op in self.operations:
            rows.append(
                {
                    "component": op.component,
                    "layer": op.layer,
                    "expert": op.expert,
                    "norm": op.norm,
                    "basis": _store(tensors, "basis", op.basis),
                    # float32 values as floats are exact in JSON.
                    "strengths": op.strengths.float().tolist(),
                    "addition": None if op.addition is None else _store(tensors, "addition", op.addition),
                }
            )
        header = {
            "format": FORMAT,
            "version": VERSION,
            "base": self.base.__dict__,
            "about": self.about,
            "operations": rows,
        }
        # One metadata key alone: the library does not keep an order among several.
        return safetensors.torch.save(tensors, metadata={"vectomy": canonical_json(header)})

    def save(self, path: str | Path) -> None:
        with write_whole(Path(path)) as beside:
            beside.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> Edit:
        """Raises EditError for a file that is missing, damaged, of another format or version, or not orthonormal."""
        path = Path(path)
        if not path.is_file():
            raise EditError(f"the Edit file {path} does not exist")
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("vectomy", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (safetensors.SafetensorError, ValueError, RecursionError, OSError) as error:
            raise EditError(f"{path} is no Edit file ({error})") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise EditError(f"{path} is a safetensors file, but no Edit (its header has no format '{FORMAT}')")
        if header.get("version") != VERSION:
            raise EditError(
                f"{path} is an Edit of version {header.get('version')}; this vectomy reads version {VERSION}"
            )
        try:
            operations = tuple(_operation(row, tensors) for row in header["operations"])
            return cls(Base(**header["base"]), operations, dict(header["about"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise EditError(f"{path} is a damaged Edit file ({type(error).__name__}: {error})") from None
        except EditError as error:
            raise EditError(f"{path} is a damaged Edit file: {error}") from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _norm_of(writer: Writer, norm: NormMode) -> NormMode:
    """Rows of an embedding are vectors of the stream: keeping row norms there would be what `column` means elsewhere."""
    return "none" if writer.component == "embedding" and norm == "row" else norm


def _check(operation: Operation, base: Base) -> None:
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


def _combined(one: Operation, other: Operation) -> Operation:
    if one.norm != other.norm:
        raise EditError(f"{one.writer_name}: norm modes '{one.norm}' and '{other.norm}' do not combine")
    additions = [op.addition for op in (one, other) if op.addition is not None]
    addition = torch.stack(additions).sum(0) if additions else None
    if one.basis.shape == other.basis.shape and torch.equal(one.basis, other.basis):
        return replace(one, strengths=one.strengths + other.strengths, addition=addition)
    try:
        basis = linalg.symmetric_basis(torch.cat([one.basis, other.basis]))
    except ValueError:
        raise EditError(
            f"{one.writer_name}: the two bases overlap without being equal, so their sum is not defined"
        ) from None
    return replace(one, basis=basis, strengths=torch.cat([one.strengths, other.strengths]), addition=addition)


def _store(tensors: dict[str, Tensor], kind: str, value: Tensor) -> str:
    """Keep one copy of equal tensors; give the name it is stored under."""
    # A clone, for safetensors refuses tensors that share memory (a basis cut from another one).
    value = value.detach().float().cpu().contiguous().clone()
    name = f"{kind}.{hash_of([list(value.shape), value.numpy().tobytes().hex()])[:16]}"
    tensors.setdefault(name, value)
    return name


def _operation(row: dict[str, Any], tensors: dict[str, Tensor]) -> Operation:
    return Operation(
        component=row["component"],
        layer=row["layer"],
        expert=row["expert"],
        norm=row["norm"],
        basis=tensors[row["basis"]],
        strengths=torch.tensor(row["strengths"], dtype=torch.float32),
        addition=None if row["addition"] is None else tensors[row["addition"]],
    )


def _short(base: Base) -> str:
    return f"{base.name or base.model_type} ({base.model_type}, {base.n_layers} layers of width {base.d_model}, vocabulary {base.vocab})"


def _short_shape(arch: Architecture) -> str:
    return f"{arch.model_type}, {arch.n_layers} layers of width {arch.d_model}, vocabulary {arch.vocab}"
