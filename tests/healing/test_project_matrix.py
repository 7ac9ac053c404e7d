"""The algebra of a projected matrix."""

import torch
from tiny import orthonormal

from vectomy.healing.projection import project_matrix, share_along

TIER = "unit"


def test_a_projected_matrix_writes_nothing_along_the_rows_and_keeps_the_rest() -> None:
    rows, matrix = orthonormal(3), torch.randn(32, 7)
    kept = project_matrix(matrix, rows)
    assert share_along(kept, rows) < 1e-6 < 0.1 < share_along(matrix, rows)
    assert torch.allclose(project_matrix(kept, rows), kept, atol=1e-6)
    rest = matrix - rows.T @ (rows @ matrix)
    assert torch.allclose(kept, rest, atol=1e-6)
