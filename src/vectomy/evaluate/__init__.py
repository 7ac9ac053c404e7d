"""Evaluate: what a model does and what an edit of it does, on prompts that nothing was fitted or chosen on.

forms.py has the numbers of a run's forms. Those of `vectomy evaluate` (evaluation/): behaviour.py counts verdicts, which
judging.py asks for; intervals.py and paired.py say how far they can be trusted, controls.py what they are to be held
against; damage.py, perplexity.py, context.py and tools.py measure what else may have changed; cache.py keeps all of it.
capability.py pairs what models can do on tasks of the lm-evaluation-harness: harness.py runs them, suites.py names them.

Names load on first use: counting verdicts takes intervals and no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vectomy.evaluate.forms import Measured as Measured
    from vectomy.evaluate.forms import Reference as Reference
    from vectomy.evaluate.forms import measure as measure
    from vectomy.evaluate.forms import reference as reference
    from vectomy.evaluate.forms import separation as separation
    from vectomy.evaluate.intervals import rate_of as rate_of
    from vectomy.evaluate.intervals import wilson_interval as wilson_interval
    from vectomy.evaluate.paired import mcnemar as mcnemar

__all__ = ["Measured", "Reference", "mcnemar", "measure", "rate_of", "reference", "separation", "wilson_interval"]

_HOMES = {"mcnemar": "paired", "rate_of": "intervals", "wilson_interval": "intervals"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vectomy.evaluate' has no attribute '{name}'")
    return getattr(import_module(f"vectomy.evaluate.{_HOMES.get(name, 'forms')}"), name)
