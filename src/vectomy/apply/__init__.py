"""Write an Edit into files; no live model. bake.py makes a checkpoint, receipt.py says what was and was not edited."""

from vectomy.apply.bake import bake
from vectomy.apply.receipt import Receipt

__all__ = ["Receipt", "bake"]
