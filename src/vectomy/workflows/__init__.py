"""One command, one module, on one driver (stages.py). Stages meet in the files that they write."""
