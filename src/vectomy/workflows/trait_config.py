"""The configuration of a run of a trait: a `RunConfig` with recipe `distill`. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from vectomy.core.choices import Estimator
from vectomy.core.config import validate_config
from vectomy.core.errors import ConfigError
from vectomy.core.run_config import RunConfig, parse_config
from vectomy.core.run_folder import read_json
from vectomy.data.trait_file import Trait

__all__ = ["TraitRun", "make_trait_run", "parse_run_config", "read_run_config"]


# A learned edit is right at 1 or near it; a closed form knows only the direction.
DIALS = {
    "learned": (0.7, 0.85, 1.0, 1.15),
    "bias": (0.5, 1.0, 2.0, 4.0),
    "set-point": (0.5, 1.0, 2.0, 4.0),
    "amplify": (0.5, 1.0, 2.0, 4.0),
}
STEPS = 40
# Prompts of each split.
SIZES = {"n_fit": 120, "n_search": 24, "n_test": 100}
# The options of a run that a trait takes.
OPTIONS = (
    *SIZES,
    *("answer_tokens", "steps", "strengths", "seed", "bake"),
    *RunConfig.RUNTIME_KEYS,
)


class TraitRun(RunConfig):
    """A run with recipe `distill`. `make_trait_run` fills in its contrast: one prompt set, two
    contexts.
    """

    recipe: Literal["distill"] = "distill"
    trait: Trait
    strengths: tuple[float, ...] | None = None
    """Strengths to try on the search prompts; None: those of the trait's form."""

    @property
    def dial(self) -> tuple[float, ...]:
        """The strengths that are tried on the search prompts."""
        return self.strengths or DIALS[self.trait.form]

    @property
    def direction_estimator(self) -> Estimator:
        """The difference of means, whatever `estimator` is."""
        return "difference_of_means"

    @property
    def chooses_estimator(self) -> bool:
        """Never: the estimator is fixed."""
        return False

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        return self.selection.steps or STEPS


def make_trait_run(model: str, trait: Trait, options: dict[str, Any]) -> TraitRun:
    """Options that are None count as not given.

    Args:
        model: a folder, a Hub id, `demo`, or `demo-base` (the demo model without its refusals).

    Raises:
        ConfigError: an option that a trait by two contexts does not take, or a value out of range.
    """
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown:
        raise ConfigError(
            f"{_flags(unknown)} mean nothing to the trait '{trait.name}', which is told apart by two "
            f"contexts; it takes {_flags(OPTIONS)}"
        )
    typed = {
        **{name: _flags([name]) for name in given},
        **{f"contrast.{name}": _flags([name]) for name in SIZES},
        "selection.steps": "--steps",
    }
    source = trait.prompts.source
    contrast = {
        "behaviour": trait.label,
        "positive": {"prompts": source, "system": trait.positive.system},
        "negative": {"prompts": source, "system": trait.negative.system},
        **{name: given.pop(name, size) for name, size in SIZES.items()},
    }
    selection = {"steps": given.pop("steps")} if "steps" in given else {}
    values = {"model": model, "trait": trait, "contrast": contrast, "selection": selection, **given}
    return validate_config(TraitRun, values, typed)


def _flags(names: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def read_run_config(folder: Path) -> RunConfig:
    """The configuration of a run folder, of a trait too, also where an earlier version wrote it.

    Raises:
        ArtifactError: there is none, or it does not parse.
        ConfigError: a key or value is not known.
    """
    return parse_run_config(read_json(folder / "config.json"))


def parse_run_config(values: Any) -> RunConfig:
    """The configuration that `config.json` of a run holds. Raises ConfigError as `parse_config`
    does.
    """
    if not isinstance(values, dict) or "trait" not in values:
        return parse_config(values)
    if "contrast" in values:
        return validate_config(TraitRun, values)
    trait = Trait.model_validate(values["trait"])
    return make_trait_run(values["model"], trait, {name: values.get(name) for name in OPTIONS})
