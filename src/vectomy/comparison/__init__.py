"""Compare two checkpoints: what differs, and whether it is a directional edit (comparing.py).

pieces.py reads them side by side; looking.py looks at what writes to the stream, with spectrum.py for leading directions, fit.py
for the removal that one matrix shows and shared.py for what many have in common; judging.py holds the Edit against all that
differs, with rest.py for what does not write to the stream; outcome.py and words.py say what was found.
"""

from vectomy.comparison.comparing import compare
from vectomy.comparison.outcome import Comparison, Difference, WriterDifference

__all__ = ["Comparison", "Difference", "WriterDifference", "compare"]
