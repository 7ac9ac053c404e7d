"""Read the residual stream of a live model (capture.py) and change it (interventions.py)."""
