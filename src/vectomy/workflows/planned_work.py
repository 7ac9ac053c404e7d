"""What a run is asked to do, and where: what its seconds and bytes are counted from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import STEPS, Contrast, RunConfig
from vectomy.models.chat import CPU_TOKENS
from vectomy.models.decoding import CPU_PLACES

__all__ = ["Place", "Workload", "count_rows"]

_PROMPTS, _RUN = Contrast.model_fields, RunConfig.model_fields


@dataclass(frozen=True)
class Workload:
    """What a run is asked to do. Prompts of one side by split; tokens of a prompt that all share,
    and its own.
    """

    fit: int = _PROMPTS["n_fit"].default
    search: int = _PROMPTS["n_search"].default
    test: int = _PROMPTS["n_test"].default
    shared: int = 30
    own: int = 34
    longest: int = 128
    answer_tokens: int = _RUN["answer_tokens"].default
    steps: int = STEPS
    tried: int = 0
    """Edits or directions that a recipe tries by generating; 0: those of the gradient search."""
    learned: bool = True
    """Whether the recipe learns by gradients."""
    screened: bool = True
    """Whether it looks for its first direction; a given one (`--direction`) is not looked for."""
    judged: bool = True
    """Whether a judge reads the answers."""
    bake: bool = True
    lora: bool = False
    passes: int = CPU_TOKENS
    """Tokens of one pass."""

    def to_json(self) -> JsonObject:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Workload:
        """Keys that this version does not know are left out."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


@dataclass(frozen=True)
class Place:
    """Where the model runs: on a card, whether it fits there (or into memory) as a whole, and the
    free bytes there. `in_full`: whether a model that is quantised in memory fits without that, too.
    """

    card: bool
    whole: bool
    free: int
    in_full: bool = False


def count_rows(work: Workload, place: Place, limit: int) -> int:
    """Prompts that are answered at once, with answers of at most `limit` tokens."""
    places = work.passes if place.card else max(work.passes, CPU_PLACES)
    return max(1, places // (work.shared + work.longest + limit))
