"""Everything that is measured: on answers (judges/, behaviour.py), on distributions (divergence.py,
logits.py, perplexity.py), on weights (verify.py), on tasks (lm_eval/), and how far a number can be
trusted (intervals.py, mcnemar.py).
"""
