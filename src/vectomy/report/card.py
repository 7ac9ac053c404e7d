"""The model card of an edited checkpoint: Markdown with YAML front matter.

Escaping is the default: every value that the template writes goes through `_markdown`, unless a filter here made it.
Absolute paths are cut to their last part, for a card is published and a home folder is nobody's business.
"""

from __future__ import annotations

import json
import re
from typing import Any

from markupsafe import Markup

from vectomy.report.recipe import origin, several, strength, what
from vectomy.report.statement import KEEP, change, forms, keeps, rows, sources
from vectomy.report.templates import environment

__all__ = ["render_card"]

# What Markdown or inline HTML could read as markup, wherever in a line it stands.
_HOSTILE = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
# What YAML does not allow in a file, or takes for a line break, though JSON leaves it as it is.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff\ufffe\uffff]")
_ABSOLUTE = re.compile(
    r"(?<![\w./~-])(?:(?:~|[A-Za-z]:)[\\/](?:[^\s'\"\\/]+[\\/])*|[\\/](?:[^\s'\"\\/]+[\\/])+)([^\s'\"\\/]+)[\\/]?"
)


def render_card(summary: dict[str, Any]) -> str:
    """README.md of the edited checkpoint.

    Args:
        summary: what the run wrote (see render_page). `license` is passed on if it is there, never guessed.

    Returns:
        Markdown that says what was changed, how it was measured, what it costs and what it means for safety.
    """
    templates = environment(autoescape=False, finalize=_markdown, keep_trailing_newline=True)
    templates.filters.update(yaml=_yaml, code=_code, fence=_fence)
    behaviour = str(summary.get("behaviour") or "behaviour")
    summary = {key: _public(value) for key, value in summary.items()}
    summary["base_model"] = summary.get("base_model") or summary.get("model") or "unknown"
    return templates.get_template("card.md.jinja").render(
        summary=summary,
        behaviour=behaviour,
        tags=["vectomy", "abliterated" if behaviour == "refusal" else "activation-steering"],
        what=what(summary),
        several=several(summary),
        origin=origin(summary),
        strength=strength(summary),
        forms=list(forms(summary)),
        rows=rows(summary),
        refusals=change(summary, "refusal"),
        harmless=change(summary, "harmless_refusal"),
        kept=change(summary, KEEP) if keeps(summary) else None,
        base=summary.get("base") or {},
        edited=summary.get("edited") or {},
        sources=sources(summary),
        direction=summary.get("direction") or {},
        receipt=summary.get("receipt"),
        judge=summary.get("judge") or {},
        settings=summary.get("settings") or {},
        versions=summary.get("versions") or {},
        edit=summary.get("edit") or {},
    )


def _markdown(value: object) -> object:
    """Text that Markdown shows as it is, on one line; what is already Markdown passes."""
    if isinstance(value, Markup):
        return value
    return _HOSTILE.sub(r"\\\1", " ".join(str(value).split()))


def _yaml(value: object) -> Markup:
    """A double-quoted YAML scalar: JSON's, with what YAML forbids escaped as well."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def _code(value: object) -> Markup:
    """Inline code, in a fence longer than any run of backticks inside."""
    text = " ".join(str(value).split())
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{ticks}{pad}{text}{pad}{ticks}")


def _fence(value: object) -> Markup:
    """A code block that its content cannot close."""
    ticks = "`" * max(3, max((len(run) for run in re.findall("`+", str(value))), default=0) + 1)
    return Markup(f"{ticks}sh\n{value}\n{ticks}")


def _public(value: Any) -> Any:
    """`value` with the folders of every absolute path in it left out."""
    if isinstance(value, dict):
        return {key: _public(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_public(inner) for inner in value]
    return _ABSOLUTE.sub(r"\1", value) if isinstance(value, str) else value
