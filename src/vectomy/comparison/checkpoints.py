"""Say how one checkpoint differs from another, and find the Edit that makes one of the other where
there is one.
"""

from __future__ import annotations

from pathlib import Path

from vectomy.checkpoint import Checkpoint
from vectomy.comparison.explanation import DiffExplanation
from vectomy.comparison.matrix_pairs import open_pair
from vectomy.comparison.outcome import Comparison
from vectomy.comparison.writer_scan import WriterScan
from vectomy.core.progress import Progress, silent
from vectomy.models import fetch

__all__ = ["compare"]


def compare(
    a: str | Path | Checkpoint, b: str | Path | Checkpoint, *, progress: Progress = silent
) -> Comparison:
    """How the checkpoint `b` differs from its base `a`: folders, Hub ids or opened checkpoints,
    stored in any way that can be read.

    Directions and strengths are fitted on 4,096 vectors a matrix; all of it is held against the
    Edit in the end. In memory are one pair of matrices as they are stored (one expert of fused
    ones, blocks of rows of embeddings and of all that does not write to the stream; packed ones
    decoded), and some 200 MB.

    Raises:
        ArchitectureError: they are not two versions of one model, or a model type that is not
            known.
        CheckpointError: a folder that is missing or not whole, or NaN and infinite values where the
            two differ.
    """
    one, other = open_pair(_opened(a), _opened(b))
    looking = WriterScan(one, other, progress)
    looking.at_writers()
    basis = looking.shared()
    fits = looking.in_terms_of(basis) if len(basis) else {}
    operations = looking.operations(basis, fits)
    return DiffExplanation(looking, basis, operations).comparison()


def _opened(source: str | Path | Checkpoint) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    return Checkpoint.open(fetch(str(source)))
