"""The algebra: an ablation is an idempotent, symmetric projection of rank d - k; norm modes keep
what they say they keep.

Oracles are the closed forms of methods.md, section 1, in float64.
"""

import jaxtyping
import pytest
import torch
from tiny import WIDTH, orthonormal, unit
from torch import Tensor

from vectomy.core import linalg

TIER = "unit"

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def weight(columns: int = 48) -> Tensor:
    return torch.randn(WIDTH, columns, dtype=torch.float64)


def basis(k: int) -> Tensor:
    return orthonormal(k).double() if k > 1 else unit().double()[None]


def strengths(k: int, value: float = 1.0) -> Tensor:
    return torch.full((k,), value, dtype=torch.float64)


def projector(rows: Tensor, a: Tensor) -> Tensor:
    return torch.eye(WIDTH, dtype=torch.float64) - rows.T @ torch.diag(a) @ rows


def exact_basis(k: int) -> Tensor:
    return linalg.symmetric_basis(basis(k))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, -1.0])
def test_remove_is_the_matrix_i_minus_bt_a_b(k: int, a: float) -> None:
    stream, rows = torch.randn(5, 7, WIDTH, dtype=torch.float64), exact_basis(k)
    torch.testing.assert_close(
        linalg.remove(stream, rows, strengths(k, a)), stream @ projector(rows, strengths(k, a)), **EXACT
    )


def test_ablation_is_idempotent_and_a_half_ablation_is_not() -> None:
    W, rows = weight(), exact_basis(3)
    for a, same in ((1.0, True), (0.5, False)):
        once = linalg.edit_matrix(W, rows, strengths(3, a))
        twice = linalg.edit_matrix(once, rows, strengths(3, a))
        assert torch.allclose(once, twice, **EXACT) is same


def test_strength_two_reflects_so_twice_is_nothing() -> None:
    W, rows = weight(), exact_basis(2)
    once = linalg.edit_matrix(W, rows, strengths(2, 2.0))
    torch.testing.assert_close(rows @ once, -(rows @ W), **EXACT)
    torch.testing.assert_close(linalg.edit_matrix(once, rows, strengths(2, 2.0)), W, **EXACT)


@pytest.mark.parametrize("k", [1, 3])
def test_ablation_lowers_the_rank_by_k(k: int) -> None:
    assert torch.linalg.matrix_rank(weight()) == WIDTH
    assert torch.linalg.matrix_rank(linalg.edit_matrix(weight(), exact_basis(k), strengths(k))) == WIDTH - k


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("norm", ["none", "column"])
def test_nothing_along_the_basis_is_written_after_a_full_ablation(k: int, norm: str) -> None:
    W, rows = weight(), exact_basis(k)
    assert (rows @ W).abs().max() > 0.1
    assert (rows @ linalg.edit_matrix(W, rows, strengths(k), norm)).abs().max() < 1e-12


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, -1.0])
def test_column_mode_keeps_the_length_of_every_column(a: float) -> None:
    W = weight()
    edited = linalg.edit_matrix(W, exact_basis(2), strengths(2, a), "column")
    torch.testing.assert_close(edited.norm(dim=0), W.norm(dim=0), **EXACT)
    if a == -1.0:
        assert not torch.allclose(edited.norm(dim=1), W.norm(dim=1), rtol=1e-3)


def test_column_mode_is_the_formula_column_by_column() -> None:
    W, r, a = weight(), exact_basis(1)[0], 0.7
    for j, column in enumerate(linalg.edit_matrix(W, r[None], strengths(1, a), "column").T):
        w = W[:, j]
        left = w - a * (w @ r) * r
        torch.testing.assert_close(column, w.norm() * left / left.norm(), **EXACT)


def test_row_mode_keeps_the_length_of_every_row_and_puts_part_of_the_direction_back() -> None:
    W, r = weight(), exact_basis(1)
    edited = linalg.edit_matrix(W, r, strengths(1), "row")
    torch.testing.assert_close(edited.norm(dim=1), W.norm(dim=1), **EXACT)
    assert (r @ edited).norm() > 0.01 * (r @ W).norm()


@pytest.mark.parametrize("w", [0.5, 1.0, 2.0, -1.0])
def test_row_mode_is_the_closed_form_without_an_svd(w: float) -> None:
    """c * (W x - w (n * r) (V^T r . x)) with V the row-normalised W and c_i = (1 - 2 w r_i p_i +
    w^2 r_i^2 a2)^(-1/2).
    """
    W, r = weight(), exact_basis(1)[0]
    n = W.norm(dim=1)
    V = W / n[:, None]
    p, a2 = V @ (V.T @ r), (V.T @ r).square().sum()
    c = (1 - 2 * w * r * p + w**2 * r.square() * a2) ** -0.5
    expected = c[:, None] * (W - w * torch.outer(n * r, V.T @ r))
    torch.testing.assert_close(linalg.edit_matrix(W, r[None], strengths(1, w), "row"), expected, **EXACT)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("w", [0.5, 1.0, -1.0])
def test_row_factors_give_the_row_form_as_a_function_of_the_output(k: int, w: float) -> None:
    W, rows, x = weight(), exact_basis(k), torch.randn(48, dtype=torch.float64)
    n, c = linalg.row_factors(W, rows, strengths(k, w))
    by_output = c * n * linalg.remove(W @ x / n, rows, strengths(k, w))
    torch.testing.assert_close(by_output, linalg.edit_matrix(W, rows, strengths(k, w), "row") @ x, **EXACT)


@pytest.mark.parametrize("norm", ["none", "column"])
def test_embedding_rows_are_edited_as_the_columns_of_a_writer(norm: str) -> None:
    E, rows = weight().T.contiguous(), exact_basis(2)
    edited = linalg.edit_rows(E, rows, strengths(2, 0.6), norm)
    torch.testing.assert_close(edited, linalg.edit_matrix(E.T, rows, strengths(2, 0.6), norm).T, **EXACT)


@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_zero_strength_and_zero_columns_change_nothing_and_make_no_nan(norm: str) -> None:
    W = weight()
    W[:, 3] = 0
    W[5] = 0
    torch.testing.assert_close(linalg.edit_matrix(W, exact_basis(2), strengths(2, 0.0), norm), W, **EXACT)
    edited = linalg.edit_matrix(W, exact_basis(2), strengths(2), norm)
    assert edited.isfinite().all()
    assert not edited[:, 3].any()


def test_a_column_that_is_the_direction_itself_is_removed_and_not_blown_up() -> None:
    W, r = weight(), exact_basis(1)
    W[:, 0] = 3 * r[0]
    assert linalg.edit_matrix(W, r, strengths(1), "column")[:, 0].norm() < 1e-12


def test_one_after_the_other_leaves_residue_and_an_orthonormal_basis_does_not() -> None:
    """W = b: after a, 0.6 u of b is left (u orthogonal to a); removing b from that puts -0.6^2 b
    back, so -0.36 * 0.8 of a.
    """
    a, u = exact_basis(2)
    b = 0.8 * a + 0.6 * u
    sequence = b[:, None]
    for r in (a, b):
        sequence = linalg.edit_matrix(sequence, r[None], strengths(1))
    assert (a @ sequence).item() == pytest.approx(-0.36 * 0.8, abs=1e-12)
    together = linalg.edit_matrix(b[:, None], linalg.symmetric_basis(torch.stack([a, b])), strengths(2))
    assert together.abs().max() < 1e-12


@pytest.mark.parametrize("k", [1, 2, 5])
def test_symmetric_basis_is_orthonormal_spans_the_same_and_commutes_with_order(k: int) -> None:
    vectors = torch.randn(k, WIDTH, dtype=torch.float64) * torch.arange(1, k + 1)[:, None]
    rows = linalg.symmetric_basis(vectors)
    torch.testing.assert_close(rows @ rows.T, torch.eye(k, dtype=torch.float64), **EXACT)
    torch.testing.assert_close(vectors @ rows.T @ rows, vectors, **EXACT)
    turned = torch.arange(k).flip(0)
    torch.testing.assert_close(linalg.symmetric_basis(vectors[turned]), rows[turned], **EXACT)


def test_symmetric_basis_is_nearer_to_the_vectors_than_gram_schmidt() -> None:
    vectors = linalg.normalise(torch.randn(3, WIDTH, dtype=torch.float64) + 1.0)
    by_qr = torch.linalg.qr(vectors.T)[0].T
    by_qr = by_qr * torch.sign((by_qr * vectors).sum(-1, keepdim=True))
    assert (linalg.symmetric_basis(vectors) - vectors).norm() < (by_qr - vectors).norm()


@pytest.mark.parametrize("vectors", [[[1.0, 0.0], [2.0, 0.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
def test_dependent_vectors_have_no_basis(vectors: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="dependent"):
        linalg.symmetric_basis(torch.tensor(vectors))


def test_normalise_gives_unit_vectors_and_leaves_zero_zero() -> None:
    vectors = torch.randn(4, WIDTH)
    vectors[2] = 0
    torch.testing.assert_close(linalg.normalise(vectors).norm(dim=-1), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    tiny = torch.full((WIDTH,), 1e-18, dtype=torch.float64)
    torch.testing.assert_close(linalg.normalise(tiny).norm().item(), 1.0)


def test_project_out_leaves_the_orthogonal_part() -> None:
    vector, n = torch.randn(WIDTH, dtype=torch.float64), basis(1)[0]
    left = linalg.project_out(vector, n)
    assert abs(left @ n) < 1e-6
    torch.testing.assert_close(vector - left, (vector @ n) * n, **EXACT)


def test_cosine_is_that_of_torch() -> None:
    a, b = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(linalg.cosine(a, b), torch.cosine_similarity(a, b, dim=-1), **EXACT)


def test_shapes_in_signatures_are_checked_in_tests() -> None:
    with pytest.raises(TypeError):
        linalg.remove(torch.randn(3, WIDTH), torch.randn(2, WIDTH + 1), torch.ones(2))


# Several directions with a strength each


def operator(vectors: torch.Tensor, strengths: list[float]) -> torch.Tensor:
    basis, joint = linalg.joint_removal(vectors, torch.tensor(strengths, dtype=vectors.dtype))
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis), dtype=basis.dtype), atol=1e-12)
    return basis.T @ torch.diag(joint) @ basis


def slanted() -> torch.Tensor:
    """Two unit vectors at cosine 0.8."""
    a, b = orthonormal(2).double()
    return torch.stack([a, 0.8 * a + 0.6 * b])


@pytest.mark.parametrize("other", [-0.5, 0.01, 0.1, 0.5, 1.0, 2.0])
def test_what_has_strength_one_is_removed_wholly_whatever_stands_beside_it(other: float) -> None:
    vectors = slanted()
    left = vectors[1] - operator(vectors, [other, 1.0]) @ vectors[1]
    assert left.norm() < 1e-10


def test_a_strength_that_goes_to_nothing_leaves_the_other_alone() -> None:
    vectors = slanted()
    alone = torch.outer(vectors[1], vectors[1]) * 0.7
    distances = [float((operator(vectors, [small, 0.7]) - alone).norm()) for small in (1e-2, 1e-4, 1e-6)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-5


def test_joint_removal_does_not_depend_on_the_order() -> None:
    vectors = slanted()
    swapped = operator(vectors.flip(0), [0.9, 0.3])
    assert torch.allclose(operator(vectors, [0.3, 0.9]), swapped, atol=1e-12)


def test_orthogonal_directions_keep_their_strengths() -> None:
    vectors = orthonormal(3).double()
    expected = vectors.T @ torch.diag(torch.tensor([0.2, 1.0, 2.0]).double()) @ vectors
    assert torch.allclose(operator(vectors, [0.2, 1.0, 2.0]), expected, atol=1e-7)


def test_dependent_directions_and_idle_ones_are_refused() -> None:
    a, b = slanted()
    with pytest.raises(ValueError, match="dependent"):
        linalg.joint_removal(torch.stack([a, a]), torch.ones(2).double())
    with pytest.raises(ValueError, match="strength is 0"):
        linalg.joint_removal(torch.stack([a, b]), torch.tensor([0.0, 1.0]).double())


def test_shapes_of_arguments_and_results_are_checked_while_testing() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        linalg.normalise("a text")  # type: ignore[arg-type]
    assert linalg.normalise(torch.ones(3, 4)).shape == (3, 4)
