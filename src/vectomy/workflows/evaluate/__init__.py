"""The command `vectomy evaluate`: subjects.py finds what is measured, model_cache.py loads it,
measurements.py measures and keeps, evaluation_results.py counts, evaluation.py goes through all of
them. The measures themselves are in evaluate/.
"""

from vectomy.workflows.evaluate.evaluation import evaluate_models

__all__ = ["evaluate_models"]
