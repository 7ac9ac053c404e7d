"""What a run of a trait is told. Loads no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class TraitRun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

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
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    batch_tokens: int = Field(4096, ge=64)
    bake: bool = True
    thinking: bool = False
    trust_remote_code: bool = False

    @property
    def dial(self) -> tuple[float, ...]:
        return self.strengths or DIALS[self.trait.form]


def make_trait_run(model: str, trait: Trait, options: dict[str, Any]) -> TraitRun:
    """Options that are None count as not given.

    Raises:
        ConfigError: one that a trait by two contexts does not take, or a value out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(TraitRun.model_fields))
    if unknown:
        raise ConfigError(
            f"{', '.join('--' + name.replace('_', '-') for name in unknown)} mean nothing to the trait '{trait.name}', which is told apart by two "
            f"contexts; it takes {', '.join('--' + name.replace('_', '-') for name in TraitRun.model_fields if name not in ('model', 'trait'))}"
        )
    try:
        return TraitRun(model=model, trait=trait, **given)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        ) from None
