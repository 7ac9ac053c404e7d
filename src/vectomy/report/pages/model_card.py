"""The model card of an edited checkpoint: Markdown with YAML front matter.

Escaping is the default: every value that the template writes goes through `_markdown`, unless a
filter here made it. Absolute paths are cut to their last part, for a card is published and a home
folder is nobody's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from jinja2 import Environment
from markupsafe import Markup

from vectomy.core.chat_endpoint import without_addresses
from vectomy.core.json_value import JsonValue
from vectomy.core.results import EvaluationResults, JsonObject, RunResults
from vectomy.report.tables.behaviour_effect import effect_of
from vectomy.report.tables.evaluation_rows import evaluation_rows
from vectomy.report.tables.headline import write_headline
from vectomy.report.tables.numbers import finite
from vectomy.report.tables.recipe_terms import origin, several, strength, what
from vectomy.report.tables.statement import describe_results, forms, rows, sources
from vectomy.report.templates import encodable, environment

__all__ = ["Kind", "render_card", "without_places"]

Kind = Literal["checkpoint", "adapter", "edit", "gguf"]
"""What the card describes."""

# What the Hub calls these (https://huggingface.co/docs/hub/model-cards): how it relates to its
# base, and what loads it.
RELATIONS: dict[Kind, str] = {
    "checkpoint": "finetune",
    "adapter": "adapter",
    "edit": "adapter",
    "gguf": "quantized",
}
LIBRARIES: dict[Kind, str] = {
    "checkpoint": "transformers",
    "adapter": "peft",
    "edit": "vectomy",
    "gguf": "gguf",
}
KIND_TAGS: dict[Kind, tuple[str, ...]] = {
    "checkpoint": (),
    "adapter": ("lora",),
    "edit": (),
    "gguf": ("gguf",),
}
LICENCE = ("license", "license_name", "license_link")

# What Markdown or inline HTML could read as markup, wherever in a line it stands.
_HOSTILE = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
# What YAML does not allow in a file, or takes for a line break, though JSON leaves it as it is.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_ABSOLUTE = re.compile(
    r"(?<![\w./~-])(?:(?:~|[A-Za-z]:)[\\/](?:[^\s'\"\\/]+[\\/])*|[\\/](?:[^\s'\"\\/]+[\\/])+)([^\s'\"\\/]+)[\\/]?"
)


def render_card(
    summary: JsonObject,
    *,
    kind: Kind = "checkpoint",
    repository: str = "",
    linked: bool = True,
    record: Mapping[str, str] | None = None,
    use: str = "",
    evaluations: Sequence[JsonObject] = (),
) -> str:
    """README.md of an edited checkpoint, or of an adapter, an Edit or a GGUF file.

    Args:
        summary: what the run wrote (see render_page); of an Edit made by hand, as much of it as is
            known. `license` (a text, or the front matter's keys) is passed on if it is there, never
            guessed.
        repository: OWNER/NAME where it will be published.
        linked: `base_model` is the name of a repository on the Hub, and not of a folder.
        record: what `vectomy reproduce` finds its way by, for the front matter.
        use: lines that load it: Python, or of a GGUF a command.
        evaluations: further measurements (docs/evaluation-json.md).

    Returns:
        Markdown that says what was changed, how it was measured, what it costs and what it means
        for safety.
    """
    summary = RunResults.repair(summary)
    behaviour = str(summary.get("behaviour") or "behaviour")
    summary = {key: without_places(value) for key, value in summary.items()}
    summary["base_model"] = summary.get("base_model") or summary.get("model") or "unknown"
    results = RunResults.from_json(summary)
    card = (
        _cards()
        .get_template("card.md.jinja")
        .render(
            summary=summary,
            behaviour=behaviour,
            kind=kind,
            title=repository.rpartition("/")[2] or summary.get("model") or summary["base_model"],
            repository=repository,
            linked=linked,
            relation=RELATIONS[kind],
            library=LIBRARIES[kind],
            licence=_licence(summary.get("license")),
            record=dict(record or {}),
            use=use,
            language="sh" if kind == "gguf" else "python",
            tags=["vectomy", _method_tag(results), *KIND_TAGS[kind]],
            measured=any(summary.get(key) for key in ("base", "edited", "forms")),
            elsewhere=_elsewhere(results, kind),
            evaluations=[
                evaluation_rows(EvaluationResults.from_json(without_places(evaluation)))
                for evaluation in evaluations
            ],
            what=what(results),
            several=several(results),
            origin=origin(results),
            strength=strength(results),
            forms=list(forms(results)),
            rows=rows(results),
            headline=write_headline(results),
            **describe_results(results),
            **_opening(results),
            base=results.base.to_json(),
            edited=results.edited.to_json(),
            sources=sources(results),
            direction=results.direction.to_json() if results.direction else {},
            receipt=summary.get("receipt"),
            judge=results.judge.to_json(),
            settings=results.settings,
            versions=results.versions,
            edit=results.edit.to_json(),
        )
    )
    return encodable(card)


@cache
def _cards() -> Environment:
    """Made once: compiling the template takes longer than a card."""
    made = environment(autoescape=False, finalize=_markdown, keep_trailing_newline=True)
    made.filters.update(yaml=_yaml, code=_code, fence=_fence)
    return made


def _opening(results: RunResults) -> dict[str, str]:
    """What the first sentence says of the behaviour: that it is changed only where no measurement
    says otherwise.
    """
    if effect_of(results, "refusal").kind == "unchanged":
        return {"changes": "is made to change", "changed": "weights that are edited to change one behaviour"}
    return {"changes": "changes", "changed": "one behaviour changed in its weights"}


def _method_tag(results: RunResults) -> str:
    """The Hub's word for a model whose refusals were ablated; not where no fewer were counted."""
    before, after = (finite(form.refusal_rate) for form in (results.base, results.edited))
    fewer = before is None or after is None or after < before
    return "abliterated" if results.behaviour == "refusal" and fewer else "activation-steering"


def _licence(stored: object) -> dict[str, str]:
    """The front matter's own keys, in its order."""
    if isinstance(stored, str) and stored:
        return {"license": stored}
    return {key: str(stored[key]) for key in LICENCE if stored.get(key)} if isinstance(stored, dict) else {}


def _elsewhere(results: RunResults, kind: Kind) -> str:
    """What must be said where the numbers are not of the very thing that is published."""
    if kind == "gguf":
        return "These numbers were measured before the conversion to GGUF; a quantised file may differ."
    if kind == "adapter" and "lora" not in results.forms:
        return "These numbers were measured on the same edit in another form, not with this adapter loaded."
    return ""


def _markdown(value: object) -> object:
    """Text that Markdown shows as it is, on one line; what is already Markdown passes."""
    if isinstance(value, Markup):
        return value
    return _HOSTILE.sub(r"\\\1", " ".join(str(value).split()))


def _yaml(value: object) -> Markup:
    """A double-quoted YAML scalar: JSON's, with what YAML forbids escaped as well."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def _code(value: object) -> Markup:
    """Inline code, in a fence longer than any run of backticks inside."""
    text = " ".join(str(value).split())
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{ticks}{pad}{text}{pad}{ticks}")


def _fence(value: object, language: str = "sh") -> Markup:
    """A code block that its content cannot close."""
    ticks = "`" * max(3, max((len(run) for run in re.findall("`+", str(value))), default=0) + 1)
    return Markup(f"{ticks}{language}\n{value}\n{ticks}")


def without_places(value: JsonValue) -> JsonValue:
    """`value` without the folders of absolute paths and the addresses of servers in it."""
    if isinstance(value, dict):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_places(inner) for inner in value]
    return _ABSOLUTE.sub(r"\1", without_addresses(value)) if isinstance(value, str) else value
