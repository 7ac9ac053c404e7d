"""What a run of a trait is told. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from vectomy.core.config import JobConfig, validate_config
from vectomy.core.errors import ConfigError
from vectomy.data.trait_file import Trait

__all__ = ["TraitRun", "make_trait_run"]


# What is learned is right at 1, or a little beside it; a closed form knows the direction alone.
DIALS = {
    "learned": (0.7, 0.85, 1.0, 1.15),
    "bias": (0.5, 1.0, 2.0, 4.0),
    "set-point": (0.5, 1.0, 2.0, 4.0),
    "amplify": (0.5, 1.0, 2.0, 4.0),
}


class TraitRun(JobConfig):
    """What `vectomy run --trait` does, and with which model."""

    model: str
    """A folder, a Hub id, `demo`, or `demo-base` (the demo model without its refusals)."""
    trait: Trait
    n_fit: int = Field(120, ge=8)
    n_search: int = Field(24, ge=2)
    n_test: int = Field(100, ge=2)
    answer_tokens: int = Field(64, ge=4)
    """Greedy tokens per answer, learned from and judged."""
    steps: int = Field(40, ge=1)
    """learned: steps of the optimiser."""
    strengths: tuple[float, ...] | None = None
    """Points of the dial that are tried on the search split; absent: the form's own."""
    seed: int = Field(0, ge=0)
    bake: bool = True

    @property
    def dial(self) -> tuple[float, ...]:
        return self.strengths or DIALS[self.trait.form]


def make_trait_run(model: str, trait: Trait, options: dict[str, Any]) -> TraitRun:
    """Options that are None count as not given.

    Raises:
        ConfigError: one that a trait by two contexts does not take, or a value out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = [name for name in TraitRun.model_fields if name not in ("model", "trait", "runtime")]
    known += TraitRun.RUNTIME_KEYS
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            f"{_flags(unknown)} mean nothing to the trait '{trait.name}', which is told apart by two "
            f"contexts; it takes {_flags(known)}"
        )
    typed = {name: _flags([name]) for name in given}
    return validate_config(TraitRun, {"model": model, "trait": trait, **given}, typed)


def _flags(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
