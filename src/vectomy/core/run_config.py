"""The configuration of a run: prompt sets, thresholds of the recipes, output. Loads no torch."""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar

from pydantic import Field

from vectomy.core.choices import Estimator, JudgeName, Recipe
from vectomy.core.config import (
    EXPERT,
    OUTPUT,
    PROMPTS,
    SEARCH,
    JobConfig,
    Panel,
    Runtime,
    StrictModel,
    validate_config,
    write_flag,
)
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.suggestions import suggest

__all__ = [
    "DEMO_PROMPTS",
    "FLAT",
    "HUB_PROMPTS",
    "Contrast",
    "RunConfig",
    "Selection",
    "Source",
    "make_config",
    "parse_config",
    "parse_selection",
]

# Steps of the optimiser, if not given.
STEPS, SELECTIVE_STEPS = 36, 96
HUB_PROMPTS = {"positive": "mlabonne/harmful_behaviors", "negative": "mlabonne/harmless_alpaca"}
DEMO_PROMPTS = {"positive": "bundled:refused", "negative": "bundled:harmless"}


class Source(StrictModel):
    """One prompt set: a file, a Hub data set or a bundled set, as written on the command line (see
    data/prompts.py).
    """

    prompts: str
    system: str | None = None
    """System prompt before each prompt."""


class Contrast(StrictModel):
    """The prompt sets that tell a behaviour apart. Search and test prompts are cut from the fit
    source where they have no source of their own.
    """

    PANEL: ClassVar[Panel] = PROMPTS

    behaviour: Annotated[str, EXPERT] = "refusal"
    """Name of the behaviour, for tables and the model card."""
    positive: Source
    """Prompts that show the behaviour (harmful)."""
    negative: Source
    """Prompts that do not show the behaviour (harmless)."""
    positive_search: Annotated[Source | None, EXPERT] = None
    """Positive prompts on which the edit is chosen."""
    negative_search: Annotated[Source | None, EXPERT] = None
    """Negative prompts on which the edit is chosen."""
    positive_test: Source | None = None
    """Positive prompts on which the result is reported."""
    negative_test: Source | None = None
    """Negative prompts on which the result is reported."""
    keep: Source | None = None
    """selective: prompts on which the behaviour is preserved."""
    keep_search: Annotated[Source | None, EXPERT] = None
    """selective: preserve prompts on which the edit is chosen."""
    keep_test: Annotated[Source | None, EXPERT] = None
    """selective: preserve prompts on which the result is reported."""
    n_fit: int = Field(256, ge=2)
    """Maximum number of fit prompts on each side."""
    n_search: int = Field(32, ge=2)
    """Maximum number of search prompts on each side."""
    n_test: int = Field(100, ge=2)
    """Maximum number of test prompts on each side."""
    drop_overlap: bool = False
    """Drop prompts that a later split shares with an earlier one, instead of stopping."""


class Selection(StrictModel):
    """Thresholds of the recipes; the defaults are the papers'."""

    kl_threshold: float = Field(0.1, gt=0)
    """arditi, cosmic: largest KL(base || ablated) in nats, at the last position of harmless
    prompts.
    """
    induce_threshold: float = 0.0
    """arditi: smallest mean log-odds of the behaviour tokens after adding the direction."""
    layer_fraction: float = Field(0.8, gt=0, le=1)
    """arditi, cosmic: only directions from layers below this fraction of the number of layers,
    rounded down.
    """
    strict: bool = False
    """arditi, cosmic: stop when no direction passes the filters, as the paper's code does, instead
    of minimising KL.
    """
    filter_prompts: bool = True
    """arditi: drop positive prompts that the base does not refuse and negative prompts that it
    does.
    """
    complete: bool = False
    """arditi, cosmic: score rejected directions in full too, for the chart; the choice is the same.
    """
    candidates: int = Field(20, ge=1)
    """article: number of the best-scored directions to try."""
    shown_prompts: int = Field(4, ge=1)
    """article: positive search prompts that each candidate answers."""
    shown_tokens: int = Field(64, ge=1)
    """article: greedy tokens of each answer shown."""
    pick: int | None = Field(None, ge=0)
    """article: rank of the candidate to take, without asking."""
    behaviour_tokens: tuple[str, ...] | None = None
    """First token of an answer that shows the behaviour; may be repeated. Without it, tokens are
    found from the model's own answers.
    """
    target_rate: Annotated[float, SEARCH] = Field(0.05, ge=0, le=1)
    """gradient, selective, tpe: largest fraction of positive search prompts that may still show
    the behaviour.
    """
    kl_budget: Annotated[float | None, SEARCH] = Field(None, gt=0)
    """gradient, selective, tpe: largest KL on the negative search prompts in nats (per token; tpe:
    of the first token). With it, the edit that removes most of the behaviour within it is chosen;
    without it, the edit of least KL that reaches the target rate.
    """
    max_degenerate: Annotated[float | None, SEARCH] = Field(None, ge=0, le=1)
    """gradient, selective: largest share of positive search prompts whose answer goes in circles,
    beyond the base's own share on the same prompts. [default: no limit]
    """
    steps: Annotated[int | None, SEARCH] = Field(None, ge=1)
    """gradient, selective: steps of the optimiser. [default: 36; 96 for selective]"""
    accumulate: int = Field(1, ge=1)
    """gradient, selective: passes of each set in one step of the optimiser; several processes run
    them side by side.
    """
    rank: int = Field(1, ge=1)
    """Rank of the learned change: gradient and selective learn this many orthonormal directions."""
    per_layer: bool | None = None
    """gradient, selective: learn separate directions for each layer. [default: no-per-layer;
    per-layer for selective]
    """
    direction: str | None = None
    """A direction (.npy, .safetensors with the tensor `direction`, or random:SEED): gradient and
    selective start from it instead of screening for one.
    """
    learn_direction: bool = True
    """gradient, selective: learn the direction as well as the strengths."""
    trials: Annotated[int, SEARCH] = Field(200, ge=1)
    """tpe: number of edits to try."""
    startup_trials: int = Field(60, ge=1)
    """tpe: number of random edits to try first."""
    processes: int = Field(1, ge=1)
    """Number of parallel processes: those of tpe, each with a copy of the model."""


class RunConfig(JobConfig):
    """What `vectomy run` does, and with which model."""

    model: str
    """A folder, a Hub id, a GGUF file, or `demo`."""
    contrast: Contrast
    recipe: Annotated[Recipe, SEARCH] = "gradient"
    """How the edit is found."""
    estimator: Estimator | None = None
    """How a direction is computed from activations. [default: projected; difference_of_means for
    article; masked where a coordinate of the stream is far louder than the others]
    """
    selection: Selection = Selection()
    seed: Annotated[int, SEARCH] = Field(0, ge=0)
    """Random seed: of the splits and of the search."""
    answer_tokens: Annotated[int, SEARCH] = Field(64, ge=1)
    """Greedy tokens in each answer; also the length of teacher-forced KL."""
    judge: Annotated[JudgeName, SEARCH] = "refusal"
    keep_activations: bool = False
    """Store every activation, not only its moments."""
    covariance: bool = False
    """Store the covariance of each site and position (d_model x d_model)."""
    bake: Annotated[bool, OUTPUT] = True
    """Write the edited checkpoint; otherwise the Edit file is the result."""
    lora: Annotated[bool, OUTPUT] = False
    """Write the Edit as a PEFT adapter too, and evaluate the base with it."""
    embeddings: Annotated[bool, OUTPUT] = True
    """Edit token and position embeddings too. Without them, an adapter can express the edit of a
    model with a tied head.
    """
    force: bool = False
    """Continue even if the base model does not show the behaviour."""

    def __repr__(self) -> str:
        sides = f"{self.contrast.positive.prompts:.40} against {self.contrast.negative.prompts:.40}"
        return f"<{type(self).__name__} of {self.model:.50}: recipe {self.recipe}, {sides}, seed {self.seed}>"

    @property
    def steps(self) -> int:
        """Steps of the optimiser: the given number, else the recipe's."""
        return self.selection.steps or (SELECTIVE_STEPS if self.recipe == "selective" else STEPS)

    @property
    def per_layer(self) -> bool:
        """Whether each layer learns a direction of its own: as given, else as the recipe does."""
        return self.recipe == "selective" if self.selection.per_layer is None else self.selection.per_layer

    @property
    def direction_estimator(self) -> Estimator:
        """The given estimator, else the recipe's; a run may turn to another (chooses_estimator)."""
        return self.estimator or ("difference_of_means" if self.recipe == "article" else "projected")

    @property
    def chooses_estimator(self) -> bool:
        """Whether the activations may decide the estimator, since none is named."""
        return self.estimator is None


FLAT: dict[str, tuple[str, ...]] = {
    **{name: ("contrast", name) for name in ("behaviour", "n_fit", "n_search", "n_test", "drop_overlap")},
    **{
        f"{side}{part}": ("contrast", f"{side}{part}", "prompts")
        for side in ("positive", "negative", "keep")
        for part in ("", "_search", "_test")
    },
    **{f"{side}_system": ("contrast", side, "system") for side in ("positive", "negative", "keep")},
    **{name: ("selection", name) for name in Selection.model_fields},
}
"""Short names of the command line and of `vectomy.run`, and their places in the configuration."""


def make_config(
    model: str, options: dict[str, Any], file: dict[str, Any] | None = None, *, flags: bool = False
) -> RunConfig:
    """A configuration from short names (`positive`, `kl_threshold`, ...) over the values of a
    configuration file.

    Options that are None count as not given. Without prompts the demo model takes the bundled sets
    and any other model the usual ones on the Hub. With `flags`, errors name an option as the
    command line does (`--n-fit`).

    Raises:
        ConfigError: see `validate_config`.
    """
    values: dict[str, Any] = json.loads(json.dumps(file or {}))
    values["model"] = model
    typed: dict[str, str] = {}
    known = {*FLAT, *RunConfig.model_fields, *Runtime.model_fields}
    for name, value in options.items():
        if value is not None:
            if name not in known and (near := suggest(name, known)):
                raise ConfigError(f"there is no option '{name}'{near}")
            *folders, last = FLAT.get(name, (name,))
            place = values
            for depth, folder in enumerate(folders, 1):
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    key = ".".join(folders[:depth])
                    raise ConfigError(f"configuration key '{key}' is {place!r}; it takes keys of its own")
            place[last] = value
            typed[".".join((*folders, last))] = write_flag(name)
    contrast = values.setdefault("contrast", {})
    for side, default in (DEMO_PROMPTS if model == "demo" else HUB_PROMPTS).items():
        source = contrast.setdefault(side, {}) if isinstance(contrast, dict) else None
        if isinstance(source, dict):
            source.setdefault("prompts", default)
    if flags and options.get("keep_system") is not None and _has_no_prompts(contrast, "keep"):
        raise ConfigError(
            f"--keep-system is {options['keep_system']!r:.200}: it stands before the prompts of --keep SRC; "
            "give these too"
        )
    return validate_config(RunConfig, values, typed if flags else None)


def _has_no_prompts(contrast: Any, side: str) -> bool:
    source = contrast.get(side) if isinstance(contrast, dict) else None
    return isinstance(source, dict) and "prompts" not in source


def parse_config(values: JsonObject) -> RunConfig:
    """Check the values of a run. Raises ConfigError as `validate_config` does."""
    return validate_config(RunConfig, values)


def parse_selection(values: JsonObject, *, flags: bool = False) -> Selection:
    """Check thresholds alone. Raises ConfigError as `validate_config` does."""
    return validate_config(Selection, values, {name: write_flag(name) for name in values} if flags else None)
