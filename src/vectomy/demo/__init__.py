"""The demo model: SmolLM2-135M-Instruct, taught to refuse by the small adapter that lies in this folder.

SmolLM2 itself refuses nothing. The adapter (a LoRA of rank 8, 4.9 MB) was trained by scripts/train_demo_adapter.py; it
is merged into the weights once, into the cache folder, and from then on the demo is a model folder like any other.
"""

from vectomy.demo.build import demo_base_folder, demo_folder, model_folder

__all__ = ["demo_base_folder", "demo_folder", "model_folder"]
