"""The algebra of directions and of edited matrices. `r` is a unit row vector; a basis holds k
orthonormal rows.

An edit with basis B (k x d_model) and strengths a acts on a vector y of the stream as

    P(y) = y - B^T diag(a) B y

and on a writer W (d_model x d_in) as W' = P(W), column by column. a = 1 removes, 0 < a < 1 weakens,
a < 0 amplifies, a = 2 reflects.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.types import NormMode

__all__ = [
    "cosine",
    "edit_along",
    "edit_matrix",
    "edit_rows",
    "edit_stored",
    "joint_removal",
    "normalise",
    "project_out",
    "remove",
    "row_factors",
    "symmetric_basis",
    "widen",
]

# A direction shorter than this share of its parent's length is rounding noise.
NEGLIGIBLE = 1e-6


def normalise(vector: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
    """Unit vectors along the last axis; a zero vector stays zero."""
    length = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    return torch.where(length > 0, vector / length.clamp_min(torch.finfo(vector.dtype).tiny), vector)


def cosine(a: Float[Tensor, "*batch d_model"], b: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
    return (normalise(a) * normalise(b)).sum(-1)


def widen(values: Tensor) -> Tensor:
    """The values in float64; as they are on an Apple chip, which has none."""
    return values if values.device.type == "mps" else values.double()


def project_out(
    vector: Float[Tensor, "*batch d_model"], unit: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """The part of `vector` orthogonal to `unit`: r - (r . n) n."""
    return vector - (vector * unit).sum(-1, keepdim=True) * unit


def remove(
    stream: Float[Tensor, "*batch d_model"], basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> Float[Tensor, "*batch d_model"]:
    """P(y) for each vector of the stream, in the stream's own dtype."""
    return stream - ((stream @ basis.T) * strengths) @ basis


def edit_matrix(
    weight: Float[Tensor, "d_model d_in"],
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    norm: NormMode = "none",
) -> Float[Tensor, "d_model d_in"]:
    """The edited writer W', in the dtype of `weight` (use float32 or float64).

    `column` gives each input column its old length back: w_j' = |w_j| normalise(P(w_j)), which
    keeps B W' = 0 exactly. `row` edits the row-normalised matrix and gives each output row its old
    length back (Heretic's form); that puts part of the direction back.
    """
    if norm == "row":
        lengths = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
        direction = normalise(weight)
        return normalise(remove(direction.T, basis, strengths).T) * lengths
    edited = weight - basis.T @ (strengths[:, None] * (basis @ weight))
    if norm == "column":
        return edited * _ratio(weight, edited, dim=0)
    return edited


def edit_rows(
    rows: Float[Tensor, "*batch d_model"],
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    norm: NormMode = "none",
) -> Float[Tensor, "*batch d_model"]:
    """Edited embedding rows: each row is a vector of the stream, so keeping lengths ('column')
    keeps each row's own.
    """
    edited = remove(rows, basis, strengths)
    return edited * _ratio(rows, edited, dim=-1) if norm == "column" else edited


def edit_along(
    weight: Float[Tensor, "*shape"],
    axis: int,
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    norm: NormMode = "none",
) -> Float[Tensor, "*shape"]:
    """The edited tensor when `axis` is the stream's: a matrix or its transpose, a stack of either
    (experts), embedding rows, a bias.

    `row` needs one more axis beside the stream's, the input's, along which output rows have their
    length.
    """
    vectors = weight.movedim(axis, -1)
    if norm != "row":
        return edit_rows(vectors, basis, strengths, norm).movedim(-1, axis)
    lengths = torch.linalg.vector_norm(vectors, dim=-2, keepdim=True)
    edited = remove(vectors / torch.where(lengths > 0, lengths, 1.0), basis, strengths)
    short = torch.linalg.vector_norm(edited, dim=-2, keepdim=True)
    return (edited / torch.where(short > 0, short, 1.0) * lengths).movedim(-1, axis)


# Elements that are edited at a time: what fits a processor's cache together with its float32 copy.
TILE = 1 << 19


def edit_stored(
    weight: Float[Tensor, "*shape"],
    axis: int,
    basis: Float[Tensor, "k d_model"],
    strengths: Float[Tensor, " k"],
    norm: NormMode = "none",
) -> Float[Tensor, "*shape"]:
    """`edit_along` in place, in the tensor's own dtype: tile by tile in float32 (float64 for
    float64), rounded once.
    """
    work = torch.promote_types(weight.dtype, torch.float32)
    b, a = basis.to(weight.device, work), strengths.to(weight.device, work)
    if norm == "none" and weight.ndim == 2 and axis == 0:
        # W' = W - (B^T diag(a)) (B W): rows are contiguous, so B W is summed over blocks of rows
        # first.
        rows = max(1, TILE // max(1, weight.shape[1]))
        blocks = [(at, min(at + rows, len(weight))) for at in range(0, len(weight), rows)]
        # One piece of memory for all tiles: fresh pages cost more than the sums.
        memory = torch.empty(min(rows, len(weight)), weight.shape[1], dtype=work, device=weight.device)
        inside = torch.zeros(len(b), weight.shape[1], dtype=work, device=weight.device)
        for start, end in blocks:
            inside.addmm_(b[:, start:end], memory[: end - start].copy_(weight[start:end]))
        scaled = (b * a[:, None]).T
        for start, end in blocks:
            tile = memory[: end - start].copy_(weight[start:end])
            weight[start:end] = tile.addmm_(scaled[start:end], inside, alpha=-1)
        return weight
    if weight.ndim > 2 or (weight.ndim == 2 and axis == 1 and norm != "row"):
        # Experts one by one; embedding rows in blocks.
        rows = 1 if weight.ndim > 2 else max(1, TILE // weight.shape[1])
        for start in range(0, len(weight), rows):
            tile = weight[start : start + rows].to(work)
            weight[start : start + rows] = edit_along(tile, axis, b, a, norm)
        return weight
    return weight.copy_(edit_along(weight.to(work), axis, b, a, norm))


def _ratio(before: Tensor, after: Tensor, dim: int) -> Tensor:
    """Lengths before / after; 1 where the edit leaves nothing but rounding noise."""
    old = torch.linalg.vector_norm(before, dim=dim, keepdim=True)
    new = torch.linalg.vector_norm(after, dim=dim, keepdim=True)
    return torch.where(new > NEGLIGIBLE * old, old / new.clamp_min(torch.finfo(new.dtype).tiny), 1.0)


def row_factors(
    weight: Float[Tensor, "d_model d_in"], basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """(n, c) such that the row form is W' x = c * n * P(W x / n): row lengths, and what the edit
    took from them.
    """
    lengths = torch.linalg.vector_norm(weight, dim=1)
    edited = remove(normalise(weight).T, basis, strengths).T
    return torch.where(lengths > 0, lengths, 1.0), 1 / torch.linalg.vector_norm(edited, dim=1).clamp_min(
        NEGLIGIBLE
    )


def joint_removal(
    vectors: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> tuple[Float[Tensor, "k d_model"], Float[Tensor, " k"]]:
    """One operator for k unit vectors with a strength each: an orthonormal basis and its strengths.

    M = V^T (D + G)^(-1) V with G = V V^T and D = diag((1 - a) / a); the edit is y - M y. For
    orthogonal vectors it is diag(a); a vector of strength 1 is removed wholly whatever the others
    are (M v = v); all of strength 1 give the projection on the span; a strength that goes to 0
    leaves the others alone; the order does not matter.

    Raises:
        ValueError: a strength is 0, or the vectors are linearly dependent.
    """
    v, a = vectors.double(), strengths.double()
    if not bool(a.all()):
        raise ValueError("a strength is 0")
    gram = v @ v.T
    inner = torch.diag((1 - a) / a) + gram
    if torch.linalg.eigvalsh(gram)[0] < NEGLIGIBLE or torch.linalg.svdvals(inner)[-1] < NEGLIGIBLE:
        raise ValueError("the directions are linearly dependent")
    rows, mix = torch.linalg.qr(v.T)
    values, axes = torch.linalg.eigh(mix @ torch.linalg.inv(inner) @ mix.T)
    return (axes.T @ rows.T).to(vectors.dtype), values.to(strengths.dtype)


def symmetric_basis(vectors: Float[Tensor, "k d_model"]) -> Float[Tensor, "k d_model"]:
    """Orthonormal rows nearest to the given ones: G^(-1/2) V with G = V V^T (Löwdin 1950), whatever
    their order.

    Raises:
        ValueError: the vectors are linearly dependent.
    """
    unit = normalise(vectors.double())
    values, axes = torch.linalg.eigh(unit @ unit.T)
    if values[0] < NEGLIGIBLE:
        raise ValueError("the directions are linearly dependent")
    return ((axes / values.sqrt()) @ axes.T @ unit).to(vectors.dtype)
