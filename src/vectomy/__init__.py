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
    from vectomy.comparison import Comparison as Comparison
    from vectomy.comparison import compare as compare
    from vectomy.core.errors import VectomyError as VectomyError
    from vectomy.core.run_config import RunConfig as RunConfig
    from vectomy.data.prompts import Prompt as Prompt
    from vectomy.data.trait_file import load_trait as load_trait
    from vectomy.edits.edit import Edit as Edit
    from vectomy.edits.export.bake import bake as bake
    from vectomy.edits.export.receipt import Receipt as Receipt
    from vectomy.edits.steering import Condition as Condition
    from vectomy.hub.push import push as push
    from vectomy.metrics.verify import verify as verify
    from vectomy.models import load_layerwise as load_layerwise
    from vectomy.models import load_model as load_model
    from vectomy.models import probe_architecture as probe_architecture
    from vectomy.search.collect import collect as collect
    from vectomy.search.estimators import fit_directions as fit_directions
    from vectomy.workflows.evaluate.evaluation import evaluate_models as evaluate_models
    from vectomy.workflows.heal.heal_model import heal_model as heal_model
    from vectomy.workflows.plan import plan as plan
    from vectomy.workflows.reproduce import reproduce as reproduce
    from vectomy.workflows.run import run as run
    from vectomy.workflows.trait_config import TraitRun as TraitRun

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
    "load_layerwise",
    "load_model",
    "load_trait",
    "plan",
    "probe_architecture",
    "push",
    "reproduce",
    "run",
    "verify",
]

_HOMES = {
    "Comparison": "comparison",
    "Condition": "edits.steering",
    "Edit": "edits.edit",
    "Prompt": "data.prompts",
    "Receipt": "edits.export.receipt",
    "RunConfig": "core.run_config",
    "TraitRun": "workflows.trait_config",
    "VectomyError": "core.errors",
    "bake": "edits.export.bake",
    "collect": "search.collect",
    "compare": "comparison",
    "evaluate_models": "workflows.evaluate.evaluation",
    "fit_directions": "search.estimators",
    "heal_model": "workflows.heal.heal_model",
    "load_layerwise": "models",
    "load_model": "models",
    "load_trait": "data.trait_file",
    "plan": "workflows.plan",
    "probe_architecture": "models",
    "push": "hub.push",
    "reproduce": "workflows.reproduce",
    "run": "workflows.run",
    "verify": "metrics.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vectomy' has no attribute '{name}'")
    import_module("vectomy.core.threads").prepare_threads()
    return getattr(import_module(f"vectomy.{_HOMES[name]}"), name)
