"""Write an Edit into files; no live model. bake.py makes a checkpoint, peft_adapter.py an adapter
(peft_targets.py what PEFT can hold, low_rank.py the matrices), gguf_in_place.py edits a GGUF file,
gguf_convert.py makes one, gguf_adapter.py an adapter and control_vector.py a control vector for
llama.cpp; export_formats.py lists these formats; receipt.py says what was and was not edited.
"""

from vectomy.edits.export.bake import bake
from vectomy.edits.export.control_vector import write_control_vector
from vectomy.edits.export.export_formats import EXPORTS, ExportRequest
from vectomy.edits.export.gguf_adapter import write_gguf_lora
from vectomy.edits.export.gguf_convert import bake_gguf
from vectomy.edits.export.gguf_in_place import edit_gguf
from vectomy.edits.export.peft_adapter import write_lora
from vectomy.edits.export.receipt import Receipt

__all__ = [
    "EXPORTS",
    "ExportRequest",
    "Receipt",
    "bake",
    "bake_gguf",
    "edit_gguf",
    "write_control_vector",
    "write_gguf_lora",
    "write_lora",
]
