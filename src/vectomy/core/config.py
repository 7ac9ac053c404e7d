"""Configurations of a run and an evaluation, and the `Runtime` that every job has. Loads no torch.

The command line, Python and a TOML or JSON file all fill them in.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from vectomy.core.choices import Estimator, JudgeName, Recipe
from vectomy.core.errors import ConfigError
from vectomy.core.json_value import JsonObject
from vectomy.core.text_file import read_text

__all__ = [
    "Contrast",
    "EvaluationConfig",
    "JobConfig",
    "Panel",
    "RunConfig",
    "Runtime",
    "Selection",
    "Source",
    "load_config",
    "make_config",
    "parse_config",
    "parse_evaluation",
    "parse_selection",
    "validate_config",
]

HUB_PROMPTS = {"positive": "mlabonne/harmful_behaviors", "negative": "mlabonne/harmless_alpaca"}
DEMO_PROMPTS = {"positive": "bundled:refused", "negative": "bundled:harmless"}


@dataclass(frozen=True)
class Panel:
    """The section of a command's help that shows a field."""

    name: str


PROMPTS, SEARCH, OUTPUT, MACHINE = Panel("Prompts"), Panel("Search"), Panel("Output"), Panel("Machine")
EDIT = Panel("Edit")
EXPERT = Panel("Expert")
"""Fields that only `--help-all` shows."""


class _Strict(BaseModel):
    # The docstring of a field is its description on the command line.
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    PANEL: ClassVar[Panel] = EXPERT
    """The panel of the fields that name none."""


class Runtime(_Strict):
    """How a model is loaded and run: the settings that depend on the machine, not on the job."""

    PANEL: ClassVar[Panel] = MACHINE

    device: str = "auto"
    """auto (CUDA, else MPS, else CPU), cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights; auto is the checkpoint's own, or float32 on a processor without
    16-bit arithmetic.
    """
    batch_tokens: int = Field(4096, ge=64)
    """Tokens in one forward pass, padding included; lower it when memory is short."""
    thinking: Annotated[bool, EXPERT] = False
    """Let models with a thinking block think before they answer."""
    trust_remote_code: Annotated[bool, EXPERT] = False
    """Run Python code that the model's folder contains."""


class JobConfig(_Strict):
    """A configuration with a `Runtime`, whose keys are written and read flat: `device`, not
    `runtime.device`.
    """

    RUNTIME_KEYS: ClassVar[tuple[str, ...]] = tuple(Runtime.model_fields)
    """The keys of `Runtime` that the job takes and writes."""

    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _nest_runtime(cls, values: Any) -> Any:
        """Collect the flat keys into `runtime`, over the defaults of this class."""
        if not isinstance(values, dict) or isinstance(values.get("runtime"), Runtime):
            return values
        flat = {name: value for name, value in values.items() if name in cls.RUNTIME_KEYS}
        others = {name: value for name, value in values.items() if name not in flat}
        nested = others.get("runtime", {})
        if not isinstance(nested, dict):
            return values
        usual: Runtime = cls.model_fields["runtime"].default
        return {**others, "runtime": {**usual.model_dump(), **nested, **flat}}

    @model_serializer(mode="wrap")
    def _flatten_runtime(self, handler: Callable[[Any], JsonObject], info: Any) -> JsonObject:
        result = handler(self)
        result.pop("runtime", None)
        include, exclude = info.include, info.exclude
        wanted = [
            name
            for name in self.RUNTIME_KEYS
            if (include is None or name in include) and (exclude is None or name not in exclude)
        ]
        return result | {name: getattr(self.runtime, name) for name in wanted}


class Source(_Strict):
    """One prompt set: a file, a Hub data set or a bundled set, as written on the command line (see
    data/prompts.py).
    """

    prompts: str
    system: str | None = None
    """System prompt before each prompt."""


class Contrast(_Strict):
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


class Selection(_Strict):
    """Thresholds of the recipes; the defaults are the papers'."""

    kl_threshold: float = Field(0.1, gt=0)
    """arditi, cosmic: largest KL(base || ablated) in nats, at the last position of harmless
    prompts.
    """
    induce_threshold: float = 0.0
    """arditi: smallest mean log-odds of the behaviour tokens after adding the direction."""
    layer_fraction: float = Field(0.8, gt=0, le=1)
    """arditi, cosmic: only directions from layers below this fraction of the depth."""
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
    steps: Annotated[int | None, SEARCH] = Field(None, ge=1)
    """gradient, selective: steps of the optimiser; 36, or 96 for selective, if not given."""
    rank: int = Field(1, ge=1)
    """Rank of the learned change: gradient and selective learn this many orthonormal directions."""
    per_layer: bool | None = None
    """gradient, selective: learn separate directions for each layer; only selective does so if not
    given.
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
    """How a direction is computed from activations; difference_of_means for article, projected for
    the others, if not given.
    """
    selection: Selection = Selection()
    seed: Annotated[int, SEARCH] = Field(0, ge=0)
    """Random seed: of the splits and of the search."""
    answer_tokens: Annotated[int, SEARCH] = Field(64, ge=1)
    """Greedy tokens in each answer; also the length of teacher-forced KL."""
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

    @property
    def steps(self) -> int:
        return self.selection.steps or (96 if self.recipe == "selective" else 36)

    @property
    def per_layer(self) -> bool:
        return self.recipe == "selective" if self.selection.per_layer is None else self.selection.per_layer

    @property
    def direction_estimator(self) -> Estimator:
        return self.estimator or ("difference_of_means" if self.recipe == "article" else "projected")


class EvaluationConfig(JobConfig):
    """What `vectomy evaluate` measures, and how."""

    PANEL: ClassVar[Panel] = Panel("Measures")

    subjects: tuple[str, ...] = Field(min_length=1)
    """Models (a folder, a Hub id, `demo`), Edits (a file or a run folder; `@0.25,0.5,1` for
    strengths) and PEFT adapter folders. The others are compared with the first model.
    """
    prompts: Annotated[tuple[str, ...], PROMPTS] = Field(min_length=1)
    """Prompts that the models answer: a set as [NAME=]SRC; may be repeated. Rows with `type` and
    `label` are counted by them; rows with `messages` are conversations.
    """
    base: Annotated[str | None, EDIT] = None
    """The unedited model: needed if it is not the first of the subjects."""
    texts: Annotated[tuple[str, ...], PROMPTS] = ()
    """Plain text file on which perplexity is measured; may be repeated."""
    text_tokens: Annotated[int, EXPERT] = Field(8192, ge=2)
    """Maximum number of tokens of each text that are read."""
    judge: JudgeName = "refusal"
    answer_tokens: int = Field(64, ge=1)
    """Greedy tokens in each answer."""
    budgets: Annotated[tuple[int, ...], EXPERT] = (32,)
    """Shorter lengths at which the same answers are cut and judged too."""
    damage_prompts: Annotated[int, EXPERT] = Field(100, ge=1)
    """Prompts of each set for KL, cross-entropy and the noise floor: a seeded sample."""
    multi_turn: bool = False
    """Ask a sample of the prompts again after an earlier exchange."""
    context_tokens: int = Field(0, ge=0)
    """Ask a sample again after this many tokens of neutral text; 0 is off."""
    tool_calls: bool = True
    """Ask for tool calls and check their JSON."""
    tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness: suites (open-llm-leaderboard, nous, quick, example), task
    names or task files, separated by commas; may be repeated. `example` needs no network.
    """
    task_limit: int | None = Field(None, ge=1)
    """Maximum number of documents of each task: the first ones."""
    task_batch: Annotated[int, EXPERT] = Field(8, ge=1)
    """Requests of a task in one forward pass; lower it when memory is short."""
    controls: bool = True
    """Add a random direction of equal norm, and the base against itself."""
    limit: Annotated[int | None, PROMPTS] = Field(None, ge=1)
    """Maximum number of rows: a seeded sample of each set of prompts, the same for all subjects."""
    seed: int = Field(0, ge=0)
    """Random seed: of the samples and of the random direction."""
    runtime: Runtime = Runtime(batch_tokens=16384)

    @property
    def all_budgets(self) -> list[int]:
        """The shorter budgets and the whole answer, ascending."""
        return sorted(
            {budget for budget in self.budgets if 0 < budget < self.answer_tokens} | {self.answer_tokens}
        )


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
    for name, value in options.items():
        if value is not None:
            *folders, last = FLAT.get(name, (name,))
            place = values
            for depth, folder in enumerate(folders, 1):
                place = place.setdefault(folder, {})
                if not isinstance(place, dict):
                    key = ".".join(folders[:depth])
                    raise ConfigError(f"configuration key '{key}' is {place!r}; it takes keys of its own")
            place[last] = value
            typed[".".join((*folders, last))] = _flag(name)
    contrast = values.setdefault("contrast", {})
    for side, default in (DEMO_PROMPTS if model == "demo" else HUB_PROMPTS).items():
        source = contrast.setdefault(side, {}) if isinstance(contrast, dict) else None
        if isinstance(source, dict):
            source.setdefault("prompts", default)
    return validate_config(RunConfig, values, typed if flags else None)


def parse_config(values: JsonObject) -> RunConfig:
    """Check the values of a run. Raises ConfigError as `validate_config` does."""
    return validate_config(RunConfig, values)


def parse_selection(values: JsonObject, *, flags: bool = False) -> Selection:
    """Check thresholds alone. Raises ConfigError as `validate_config` does."""
    return validate_config(Selection, values, {name: _flag(name) for name in values} if flags else None)


def parse_evaluation(values: JsonObject, *, flags: bool = False) -> EvaluationConfig:
    """Check the values of an evaluation; None counts as not given. Raises ConfigError as
    `validate_config` does.
    """
    given = {name: value for name, value in values.items() if value is not None}
    return validate_config(EvaluationConfig, given, {name: _flag(name) for name in given} if flags else None)


Config = TypeVar("Config", bound=BaseModel)


def validate_config(
    kind: type[Config], values: Mapping[str, Any], typed: Mapping[str, str] | None = None
) -> Config:
    """Check values from any source against a configuration class.

    Args:
        typed: what a person typed for a key (`contrast.n_fit`: `--n-fit`), for the error.

    Raises:
        ConfigError: names each offending key, its value and what it should be.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problems = [_explain(problem, kind, typed or {}) for problem in error.errors()]
        raise ConfigError("; ".join(problems)) from None


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _explain(problem: Any, kind: type[BaseModel], typed: Mapping[str, str]) -> str:
    place = [part for part in problem["loc"] if part != "runtime"]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        for part in place[:-1]:
            annotation = kind.model_fields[str(part)].annotation
            options = getattr(annotation, "__args__", (annotation,))
            kind = next(item for item in options if isinstance(item, type) and issubclass(item, BaseModel))
        return f"unknown configuration key '{key}'; known here: {', '.join(_keys(kind))}"
    if problem["type"] == "missing":
        return f"configuration key '{key}' is missing"
    # A value of a list (`budgets.0`) was typed as one option.
    name = next((typed[start] for start in _beginnings(place) if start in typed), None)
    subject = f"configuration key '{key}'" if name is None else name
    return f"{subject} is {problem['input']!r:.200}: {problem['msg'].lower()}"


def _beginnings(place: list[Any]) -> list[str]:
    """`a.b.c`, `a.b`, `a`."""
    return [".".join(str(part) for part in place[:end]) for end in range(len(place), 0, -1)]


def _keys(kind: type[BaseModel]) -> list[str]:
    names = set(kind.model_fields)
    if issubclass(kind, JobConfig):
        names = names - {"runtime"} | set(kind.RUNTIME_KEYS)
    return sorted(names)


def load_config(path: Path) -> JsonObject:
    """Read a .toml or .json configuration as plain values; `parse_config` checks them.

    Raises:
        ConfigError: the file is missing, of another kind, or does not parse.
    """
    try:
        if path.suffix == ".toml":
            return tomllib.loads(read_text(path))
        if path.suffix == ".json":
            values = json.loads(read_text(path))
            if isinstance(values, dict):
                return values
            raise ConfigError(f"configuration {path} holds a {type(values).__name__}, not an object of keys")
    except FileNotFoundError:
        raise ConfigError(f"configuration file {path} does not exist") from None
    # ValueError: no UTF-8, no TOML, no JSON, or a number of more digits than Python takes.
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"configuration file {path} does not parse: {error}") from None
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from None
    raise ConfigError(f"configuration file {path} is neither .toml nor .json")
