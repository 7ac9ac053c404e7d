"""Write an Edit into files; no live model. bake.py makes a checkpoint, lora.py an adapter (forms.py what
PEFT can hold, factors.py the matrices), receipt.py says what was and was not edited."""

from vectomy.apply.bake import bake
from vectomy.apply.lora import write_lora
from vectomy.apply.receipt import Receipt

__all__ = ["Receipt", "bake", "write_lora"]
