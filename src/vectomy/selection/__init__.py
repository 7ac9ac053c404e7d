"""Recipes that choose a direction and make an Edit of it: article.py, arditi.py; rule.py is the paper's rule alone.

Nothing is imported here, so that `vectomy select --from-scores` needs no torch.
"""
