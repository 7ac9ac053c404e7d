"""The command `vectomy heal`: heal_inputs.py opens the models, heal_examples.py makes what is
learned, heal_measurements.py holds all three models against each other, heal_results.py says what
that means, heal_model.py is the order of it. The training itself is in heal/.
"""

from vectomy.workflows.heal.heal_model import STAGES, heal_model

__all__ = ["STAGES", "heal_model"]
