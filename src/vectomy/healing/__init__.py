"""The command `vectomy heal`: inputs.py opens the models, rows.py makes what is learned, measuring.py holds all three models against
each other, outcome.py says what that means, command.py is the order of it. The training itself is in heal/."""

from vectomy.healing.command import STAGES, heal_model

__all__ = ["STAGES", "heal_model"]
