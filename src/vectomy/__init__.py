"""Vectomy: change one behaviour of an open-weight language model precisely, without retraining it.

    import vectomy

    summary = vectomy.run("demo", "runs/demo")              # the whole job
    edit = vectomy.Edit.load("runs/demo/edit.safetensors")
    with edit.hooks(model): ...                             # at run time
    vectomy.bake(edit * 0.5, checkpoint, out)               # in the weights
    vectomy.verify(out, edit).max_projection                # measured on the result

In a notebook, with a model of transformers that is loaded:

    chat = vectomy.wrap(model, tokenizer)
    harmful, harmless = (vectomy.collect(chat, prompts) for prompts in (refused, answered))
    directions = vectomy.fit_directions(harmful, harmless, "difference_of_means")
    edit = vectomy.Edit.ablation(chat, directions.at("resid_pre", 12, -1))
    with edit.hooks(chat):
        vectomy.score(chat, refused).rate

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
    from vectomy.hooks.capture import capture as capture
    from vectomy.hooks.interventions import intervene as intervene
    from vectomy.hub.push import push as push
    from vectomy.metrics.activation_patching import PatchEffects as PatchEffects
    from vectomy.metrics.activation_patching import patch as patch
    from vectomy.metrics.answer_scores import AnswerScores as AnswerScores
    from vectomy.metrics.answer_scores import score as score
    from vectomy.metrics.logit_lens import LogitLens as LogitLens
    from vectomy.metrics.logit_lens import lens as lens
    from vectomy.metrics.verify import verify as verify
    from vectomy.models import ChatModel as ChatModel
    from vectomy.models import load_layerwise as load_layerwise
    from vectomy.models import load_model as load_model
    from vectomy.models import probe_architecture as probe_architecture
    from vectomy.models import wrap as wrap
    from vectomy.search.activation_stats import ActivationStats as ActivationStats
    from vectomy.search.collect import collect as collect
    from vectomy.search.estimators import Directions as Directions
    from vectomy.search.estimators import fit_directions as fit_directions
    from vectomy.workflows.evaluate.evaluation import evaluate_models as evaluate_models
    from vectomy.workflows.heal.heal_model import heal_model as heal_model
    from vectomy.workflows.plan import plan as plan
    from vectomy.workflows.reproduce import reproduce as reproduce
    from vectomy.workflows.run import run as run
    from vectomy.workflows.trait_config import TraitRun as TraitRun

__all__ = [
    "ActivationStats",
    "AnswerScores",
    "ChatModel",
    "Comparison",
    "Condition",
    "Directions",
    "Edit",
    "LogitLens",
    "PatchEffects",
    "Prompt",
    "Receipt",
    "RunConfig",
    "TraitRun",
    "VectomyError",
    "bake",
    "capture",
    "collect",
    "compare",
    "evaluate_models",
    "fit_directions",
    "heal_model",
    "intervene",
    "lens",
    "load_layerwise",
    "load_model",
    "load_trait",
    "patch",
    "plan",
    "probe_architecture",
    "push",
    "reproduce",
    "run",
    "score",
    "verify",
    "wrap",
]

_HOMES = {
    "ActivationStats": "search.activation_stats",
    "AnswerScores": "metrics.answer_scores",
    "ChatModel": "models",
    "Comparison": "comparison",
    "Condition": "edits.steering",
    "Directions": "search.estimators",
    "Edit": "edits.edit",
    "LogitLens": "metrics.logit_lens",
    "PatchEffects": "metrics.activation_patching",
    "Prompt": "data.prompts",
    "Receipt": "edits.export.receipt",
    "RunConfig": "core.run_config",
    "TraitRun": "workflows.trait_config",
    "VectomyError": "core.errors",
    "bake": "edits.export.bake",
    "capture": "hooks.capture",
    "collect": "search.collect",
    "compare": "comparison",
    "evaluate_models": "workflows.evaluate.evaluation",
    "fit_directions": "search.estimators",
    "heal_model": "workflows.heal.heal_model",
    "intervene": "hooks.interventions",
    "lens": "metrics.logit_lens",
    "load_layerwise": "models",
    "load_model": "models",
    "load_trait": "data.trait_file",
    "patch": "metrics.activation_patching",
    "plan": "workflows.plan",
    "probe_architecture": "models",
    "push": "hub.push",
    "reproduce": "workflows.reproduce",
    "run": "workflows.run",
    "score": "metrics.answer_scores",
    "verify": "metrics.verify",
    "wrap": "models",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("vectomy")
    if name not in _HOMES:
        raise AttributeError(f"module 'vectomy' has no attribute '{name}'")
    import_module("vectomy.core.threads").prepare_threads()
    return getattr(import_module(f"vectomy.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*_HOMES, "__version__", "__doc__", "__file__", "__name__", "__path__"})
