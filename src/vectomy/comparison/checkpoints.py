"""Say how one checkpoint differs from another, and find the Edit that makes one of the other where
there is one.
"""

from __future__ import annotations

from pathlib import Path

from vectomy.checkpoint import Checkpoint, ModelSource
from vectomy.comparison.explanation import DiffExplanation
from vectomy.comparison.matrix_pairs import open_pair
from vectomy.comparison.outcome import Comparison
from vectomy.comparison.writer_scan import WriterScan
from vectomy.core.progress import Progress, automatic
from vectomy.models import fetch

__all__ = ["compare"]


def compare(a: ModelSource, b: ModelSource, *, progress: Progress = automatic) -> Comparison:
    """The difference between a checkpoint `b` and its base `a`, and the Edit that explains it.

    Directions and strengths are fitted on 4,096 vectors of each matrix; then every element is
    compared with the Edit's result. Memory: one pair of matrices (of fused experts, one expert; of
    embeddings and readers, blocks of rows) and about 200 MB.

    Args:
        a: the base, as a folder, a Hub id or opened, in any format that Vectomy reads.
        b: the checkpoint made from it.

    Raises:
        UsageError: `a` or `b` is no model.
        ArchitectureError: the two are not versions of one model, or the model type is not known.
        CheckpointError: a folder is missing or incomplete, or a tensor that differs has NaN or
            infinite values.
    """
    model_a, model_b = open_pair(_opened(a), _opened(b))
    scan = WriterScan(model_a, model_b, progress)
    scan.compare_writers()
    basis = scan.shared()
    fits = scan.in_terms_of(basis) if len(basis) else {}
    operations = scan.operations(basis, fits)
    return DiffExplanation(scan, basis, operations).comparison()


def _opened(source: ModelSource) -> Checkpoint:
    return Checkpoint.of(fetch(str(source)) if isinstance(source, str | Path) else source)
