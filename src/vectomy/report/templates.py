"""Where templates become text: HTML pages that hold all they need, and Markdown.

Values are untrusted: an HTML page escapes them all, and its content security policy lets it load
nothing and run one script, named by its hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup, escape

from vectomy.report.charts.heatmap import candidate_name
from vectomy.report.tables.numbers import decimal, percent, plain, thousands
from vectomy.report.tables.statement import token_text

__all__ = ["encodable", "environment", "html_page"]


def environment(**options: Any) -> Environment:
    """The templates of this package, with the filters that pages and card share."""
    made = Environment(
        loader=PackageLoader("vectomy.report", "pages"),
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    made.filters.update(decimal=decimal, percent=percent, plain=plain, thousands=thousands, token=token_text)
    return made


def html_page(template: str, **values: Any) -> str:
    """A self-contained page; `template` extends frame.html.jinja, which takes the style, the script
    and the policy.
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    page = _pages().get_template(template)
    return encodable(
        page.render(css=Markup(_asset("page.css")), script=Markup(script), policy=policy, **values)
    )


def encodable(text: str) -> str:
    """The text with a question mark for each half of a character (JSON has "\\ud800"), which no
    file can hold.
    """
    return text.encode("utf-8", "replace").decode()


@cache
def _pages() -> Environment:
    """Made once: compiling the templates takes longer than a page."""
    made = environment(autoescape=True)
    made.filters.update(name=candidate_name, breakable=_breakable, bold_counts=_bold_counts)
    return made


def _breakable(name: object) -> Markup:
    """A path or Hub id that may break after its slashes."""
    return escape(name).replace("/", Markup("/<wbr>"))


def _bold_counts(text: object) -> Markup:
    """A sentence with its counts (`33 of 40`, `33 to 0 of 40`, `3.8% to 13.8%`) in bold."""
    counts = r"\b(?:\d+ to )?\d+ of \d+\b|[\d.]+% to [\d.]+%"
    return Markup(re.sub(counts, r"<b>\g<0></b>", str(escape(text))))


def _asset(name: str) -> str:
    return (resources.files("vectomy.report.pages") / name).read_text(encoding="utf-8")
