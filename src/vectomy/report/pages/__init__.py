"""Whole documents: the pages of a run, an evaluation and a healing, the model card, and their
templates.
"""
