"""Evaluate: what a model does and what an edit of it does, on prompts that nothing was fitted or chosen on.

measure.py has the numbers of one form against the base's own answers; intervals.py says how far a rate can be trusted.
"""

from vectomy.evaluate.intervals import wilson_interval
from vectomy.evaluate.measure import Measured, Reference, measure, reference, separation

__all__ = ["Measured", "Reference", "measure", "reference", "separation", "wilson_interval"]
