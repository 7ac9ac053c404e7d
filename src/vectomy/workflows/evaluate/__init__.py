"""The command `vectomy evaluate`: subjects.py opens the subjects, model_cache.py loads them,
measurements.py measures and caches, evaluation_results.py counts, evaluation_workflow.py calls all
of these in order. The measures themselves are in metrics/.
"""

from vectomy.workflows.evaluate.evaluation import evaluate_models

__all__ = ["evaluate_models"]
