"""The command `vectomy evaluate`: subjects.py finds what is measured, live.py loads it, measuring.py measures and keeps,
results.py counts, comparison.py goes through all of them. The measures themselves are in evaluate/."""

from vectomy.evaluation.comparison import evaluate_models

__all__ = ["evaluate_models"]
