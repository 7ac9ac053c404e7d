"""Compare two checkpoints: what differs, and whether it is a directional edit (checkpoints.py).

matrix_pairs.py reads them side by side; writer_scan.py looks at what writes to the stream, with
spectrum.py for leading directions, removal_fit.py for the removal that one matrix shows and
shared_directions.py for what many have in common; explanation.py holds the Edit against all that
differs, with other_tensors.py for what does not write to the stream; outcome.py and summary_text.py
say what was found.
"""

from vectomy.comparison.checkpoints import compare
from vectomy.comparison.outcome import Comparison, TensorDifference, WriterDifference

__all__ = ["Comparison", "TensorDifference", "WriterDifference", "compare"]
