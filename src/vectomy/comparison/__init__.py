"""Compare two checkpoints: what differs, and whether it is a directional edit (comparing.py).

pieces.py reads them side by side, spectrum.py finds leading directions, fit.py fits removals to one matrix, shared.py to all,
rest.py is for what does not write to the stream, outcome.py and words.py say what was found.
"""

from vectomy.comparison.comparing import compare
from vectomy.comparison.outcome import Comparison, Difference, WriterDifference

__all__ = ["Comparison", "Difference", "WriterDifference", "compare"]
