"""Tasks of the lm-evaluation-harness: harness.py runs them, suites.py names them, capability.py
compares models on them.
"""
