"""Tasks of the lm-evaluation-harness: suites.py lists them, harness.py runs them, capability.py
compares models on them.
"""
