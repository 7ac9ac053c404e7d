"""Evaluate: what a model does and what an edit of it does, on prompts that nothing was fitted or chosen on.

measure.py has the numbers of a run's forms. Those of `vectomy evaluate` (evaluation.py): behaviour.py counts verdicts, which
judging.py asks for; intervals.py and paired.py say how far they can be trusted, controls.py what they are to be held
against; damage.py, perplexity.py, context.py and tools.py measure what else may have changed; cache.py keeps all of it.
capability.py runs the lm-evaluation-harness (suites.py names its tasks).
"""

from vectomy.evaluate.intervals import rate_of, wilson_interval
from vectomy.evaluate.measure import Measured, Reference, measure, reference, separation
from vectomy.evaluate.paired import mcnemar

__all__ = ["Measured", "Reference", "mcnemar", "measure", "rate_of", "reference", "separation", "wilson_interval"]
