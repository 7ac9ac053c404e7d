"""Vectomy: change one behaviour of an open-weight language model precisely, without retraining it.

    import vectomy

    summary = vectomy.run("demo", "runs/demo")              # the whole job
    edit = vectomy.Edit.load("runs/demo/edit.safetensors")
    with edit.hooks(model): ...                             # at run time
    vectomy.bake(edit * 0.5, checkpoint, out)               # in the weights
    vectomy.verify(out, edit).max_projection                # measured on the result

Names load on first use, so that `import vectomy` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vectomy.activations import collect as collect
    from vectomy.apply.bake import bake as bake
    from vectomy.apply.receipt import Receipt as Receipt
    from vectomy.comparison import Comparison as Comparison
    from vectomy.comparison import compare as compare
    from vectomy.config import RunConfig as RunConfig
    from vectomy.directions import fit_directions as fit_directions
    from vectomy.edit import Edit as Edit
    from vectomy.errors import VectomyError as VectomyError
    from vectomy.evaluation import evaluate_models as evaluate_models
    from vectomy.healing import heal_model as heal_model
    from vectomy.model import learn as learn
    from vectomy.model import load_model as load_model
    from vectomy.model import stream_model as stream_model
    from vectomy.pipeline import run as run
    from vectomy.planning import plan as plan
    from vectomy.prompts import Prompt as Prompt
    from vectomy.publication import push as push
    from vectomy.reproduction import reproduce as reproduce
    from vectomy.steering import Condition as Condition
    from vectomy.traits import load_trait as load_trait
    from vectomy.traits.config import TraitRun as TraitRun
    from vectomy.traits.running import run_trait as run_trait
    from vectomy.verification import verify as verify

__all__ = [
    "Comparison",
    "Condition",
    "Edit",
    "Prompt",
    "Receipt",
    "RunConfig",
    "TraitRun",
    "VectomyError",
    "bake",
    "collect",
    "compare",
    "evaluate_models",
    "fit_directions",
    "heal_model",
    "learn",
    "load_model",
    "load_trait",
    "plan",
    "push",
    "reproduce",
    "run",
    "run_trait",
    "stream_model",
    "verify",
]

_HOMES = {
    "Comparison": "comparison",
    "Condition": "steering",
    "Edit": "edit",
    "Prompt": "prompts",
    "Receipt": "apply",
    "RunConfig": "config",
    "TraitRun": "traits.config",
    "VectomyError": "errors",
    "bake": "apply",
    "collect": "activations",
    "compare": "comparison",
    "evaluate_models": "evaluation",
    "fit_directions": "directions",
    "heal_model": "healing",
    "learn": "model",
    "load_model": "model",
    "load_trait": "traits",
    "plan": "planning",
    "push": "publication",
    "reproduce": "reproduction",
    "run": "pipeline",
    "run_trait": "traits.running",
    "stream_model": "model",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vectomy' has no attribute '{name}'")
    return getattr(import_module(f"vectomy.{_HOMES[name]}"), name)
