"""Prompts in, Edit out: activation statistics (collect.py), directions (estimators.py), and the
recipes that choose an Edit.

Nothing is imported here, so that `vectomy select --from-scores` needs no torch.
"""
