"""A trait file: the two contexts that differ in a behaviour, how the behaviour is recognised, and
whether to induce or remove it.

    description = "Answers are sad, weary and lonely."
    safety = "..."                     # the effect on safety; every result repeats it
    operation = "induce"               # or "remove"

    [positive]                         # the context that shows the trait; [negative] does not
    system = "You are sad and weary."  # absent: no system prompt
    [[positive.examples]]              # earlier turns, for models that follow system prompts weakly
    user = "How do I sharpen a pencil?"
    assistant = "Alas, ..."

    [scorer]                           # lexicon (patterns, at_least), length (at_least, in tokens)
    kind = "lexicon"                   # or log_odds
    patterns = ["sigh\\\\w*", "alas"]

A trait with `recipe` is a contrast of two prompt sets instead, and runs like `vectomy run
--recipe`. Imports no torch.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vectomy.core.arguments import require
from vectomy.core.choices import Recipe
from vectomy.core.config import load_config
from vectomy.core.errors import ConfigError
from vectomy.core.suggestions import suggest

__all__ = [
    "ContextExample",
    "Form",
    "Operation",
    "Prompts",
    "ScorerSpec",
    "Trait",
    "TraitContext",
    "bundled_traits",
    "load_trait",
    "own_trait",
]

Operation = Literal["induce", "remove"]
Form = Literal["learned", "bias", "set-point", "amplify"]
"""`learned`: vectors at the writers of many layers, learned by distilling one context into the
other (distillation.py). Closed forms (closed_forms.py): `bias` at one layer; `set-point`, affine;
`amplify`, which scales the component along a direction in every writer.
"""

SAFETY = (
    "The effect on safety is unknown: the trait is the user's own, and nothing beyond these "
    "measurements was examined."
)


class _TraitModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContextExample(_TraitModel):
    """An earlier exchange."""

    user: str
    assistant: str


class TraitContext(_TraitModel):
    """The context of a prompt. If both are absent, the model's template supplies its own system
    prompt.
    """

    system: str | None = None
    examples: tuple[ContextExample, ...] = ()


class ScorerSpec(_TraitModel):
    """How an answer is recognised as showing the trait (trait_scorers.py)."""

    kind: Literal["lexicon", "length", "log_odds"] = "log_odds"
    patterns: tuple[str, ...] = ()
    """lexicon: regular expressions, ignoring case."""
    at_least: int = Field(1, ge=1)
    """lexicon: the fewest different matches; length: the fewest tokens of the answer."""
    whole_words: bool = True

    @model_validator(mode="after")
    def _whole(self) -> ScorerSpec:
        if (self.kind == "lexicon") != bool(self.patterns):
            raise ValueError("a lexicon scorer needs patterns, and no other scorer has them")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern '{pattern}' is not a regular expression ({error})") from None
        return self


class Prompts(_TraitModel):
    """The prompts: one neutral `source` for both contexts, or the sets of a trait with `recipe`."""

    source: str = "bundled:everyday"
    positive: str | None = None
    negative: str | None = None
    keep: str | None = None


class Trait(_TraitModel):
    name: str = Field(pattern=r"^[\w-]+$")
    description: str
    safety: str = SAFETY
    operation: Operation = "induce"
    form: Form = "learned"
    prompts: Prompts = Prompts()
    positive: TraitContext = TraitContext()
    negative: TraitContext = TraitContext()
    scorer: ScorerSpec = ScorerSpec()
    recipe: Recipe | None = None
    """Run this recipe of `vectomy run` on two prompt sets, instead of contrasting two contexts."""
    lead: int = Field(0, ge=0)
    """induced, learned: let so many sentences of the styled answer lead the plain one
    (distill_examples.py); 0: the styled answer as it is.
    """
    target_rate: float | None = Field(None, ge=0, le=1)
    """Share of the search answers that are to show the trait in the end (0.8 induced, 0.05
    removed).
    """
    kl_budget: float | None = Field(None, gt=0)
    """Largest KL(base || edited) per token on the base's own plain answers, in nats."""

    @model_validator(mode="after")
    def _contrasts(self) -> Trait:
        if self.recipe == "distill":
            raise ValueError("a trait by two contexts names no recipe; leave it out")
        if self.recipe is None and self.positive == self.negative:
            raise ValueError(
                "the positive and the negative context are the same: no contrast; make them differ"
            )
        return self

    @property
    def target(self) -> float:
        if self.target_rate is not None:
            return self.target_rate
        return 0.8 if self.operation == "induce" else 0.05

    @property
    def label(self) -> str:
        """The effect of an edit in two words, which every result repeats."""
        return f"{self.name} {'induced' if self.operation == 'induce' else 'removed'}"


def bundled_traits() -> list[str]:
    """Names of the bundled traits."""
    folder = resources.files("vectomy") / "data" / "traits"
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def load_trait(name: str, **changed: Any) -> Trait:
    """A bundled trait by name, or a trait from a .toml or .json file.

    Args:
        changed: keys to replace, such as `operation="remove"`; None leaves a key as it is.

    Raises:
        ConfigError: there is no such trait or file, or it is invalid.
        UsageError: `name` is no text.
    """
    require(name, str, "the trait", f"give a name ({', '.join(bundled_traits())}) or a file")
    path = Path(name).expanduser()
    if path.suffix in (".toml", ".json"):
        values, label = load_config(path), path.stem
    elif name in bundled_traits():
        with resources.as_file(resources.files("vectomy") / "data" / "traits" / f"{name}.toml") as file:
            values, label = load_config(file), name
    else:
        raise ConfigError(
            f"there is no trait '{name}'{suggest(name, bundled_traits())}; choose from "
            f"{', '.join(bundled_traits())}, or give a file (.toml, .json)"
        )
    return _validate(
        {"name": label, **values, **{key: value for key, value in changed.items() if value is not None}}
    )


def own_trait(positive: str, negative: str | None = None, name: str = "own", **changed: Any) -> Trait:
    """A trait from two system prompts, recognised by the log-odds of answers under the two.

    Raises:
        ConfigError: the two are the same, or a value of `changed` is out of range.
    """
    description = f"Answers as under the system prompt '{positive}'" + (
        f" and not as under '{negative}'." if negative else "."
    )
    values = {
        "name": name,
        "description": description,
        "positive": {"system": positive},
        "negative": {"system": negative},
    }
    return _validate({**values, **{key: value for key, value in changed.items() if value is not None}})


def _validate(values: dict[str, Any]) -> Trait:
    try:
        return Trait.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(f"the trait '{values.get('name')}' is invalid: {'; '.join(problems)}") from None
