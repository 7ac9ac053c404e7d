"""What a run is asked to do, and where: what its seconds and bytes are counted from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vectomy.core.json_value import JsonObject

__all__ = [
    "CANDIDATES",
    "COLLECTED",
    "DIALLED",
    "JUDGED",
    "MEASURED",
    "MOST_FIT",
    "NEGATIVE",
    "OPENING",
    "PACKED_FROM",
    "PER_PASS",
    "RECEIPT_TEXTS",
    "RECEIPT_TOKENS",
    "SCREENED",
    "UNLEARNED",
    "Place",
    "Workload",
    "count_rows",
]

# Blocks below this share of the depth are not learned in; of a pass that resumes there, they are
# not run either.
UNLEARNED = 0.4
# Prompts and tokens of the search by gradients (search/gradient/).
PER_PASS, MOST_FIT, OPENING, JUDGED, NEGATIVE, MEASURED = 16, 256, 8, 16, 16, 32
SCREENED, CANDIDATES = 16, 6
# Strengths of the dial at which a state may be taken.
DIALLED = 8
# Tokens of a pack of the collection (search/collect.py); texts of a receipt, and tokens of each.
COLLECTED = 640
RECEIPT_TEXTS, RECEIPT_TOKENS = 8, 48
# On a processor: tokens that are answered at once, and from how many tokens an answer is worth
# packing the weights (models/decoding.py).
PLACES, PACKED_FROM = 16384, 12


@dataclass(frozen=True)
class Workload:
    """What a run is asked to do. Prompts of one side by split; tokens of a prompt that all share,
    and its own.
    """

    fit: int = 256
    search: int = 32
    test: int = 100
    shared: int = 30
    own: int = 34
    longest: int = 128
    answer_tokens: int = 64
    steps: int = 36
    tried: int = 0
    """Edits or directions that a recipe tries by generating; 0: those of the gradient search."""
    learned: bool = True
    """Whether the recipe learns by gradients."""
    judged: bool = True
    """Whether a judge reads the answers."""
    bake: bool = True
    lora: bool = False
    passes: int = 4096
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
    places = work.passes if place.card else max(work.passes, PLACES)
    return max(1, places // (work.shared + work.longest + limit))
