"""Write an Edit into files; no live model. bake.py makes a checkpoint, lora.py an adapter (forms.py what
PEFT can hold, factors.py the matrices), gguf.py edits a GGUF file, gguf_convert.py makes one, gguf_lora.py an adapter for
llama.cpp; receipt.py says what was and was not edited."""

from vectomy.apply.bake import bake
from vectomy.apply.gguf import edit_gguf
from vectomy.apply.gguf_convert import bake_gguf
from vectomy.apply.gguf_lora import write_gguf_lora
from vectomy.apply.lora import write_lora
from vectomy.apply.receipt import Receipt

__all__ = ["Receipt", "bake", "bake_gguf", "edit_gguf", "write_gguf_lora", "write_lora"]
