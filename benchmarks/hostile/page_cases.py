"""Card, page and table of a run whose JSON is spoilt: what is left is shown, and nothing more."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from invented_evaluation import an_evaluation
from invented_run import a_separation, a_summary, arditi_scores, some_completions

from hostile.kind import Kind, allow
from hostile.mutations import ODD, dumps, restructured
from vectomy.report import render_card, render_page

__all__ = ["PAGE_KINDS"]

FORMS = ("checkpoint", "adapter", "edit", "gguf")
PARTS = ("summary", "scores", "separation", "completions", "evaluation")


def _build(path: Path) -> None:
    parts = (a_summary(), arditi_scores(), a_separation(), some_completions(), an_evaluation())
    for name, part in zip(PARTS, parts, strict=True):
        (path / "pages").mkdir(exist_ok=True)
        (path / "pages" / f"{name}.json").write_text(json.dumps(part))
    # Templates are compiled here, and not in each child.
    render_card(parts[0])
    render_page(*parts[:4])


def _damage(rng: random.Random, folder: Path) -> dict[str, Any]:
    given = {name: json.loads((folder / f"{name}.json").read_text()) for name in PARTS}
    name = rng.choice(["summary", "summary", *PARTS])
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        if isinstance(given[name], dict | list):
            spoilt = restructured(given[name], rng)
            # Not JSON that no reader takes (nesting without end): the readers refuse it.
            parsed = _parsed(spoilt, given[name])
            # Completions are read as lines, so they are a list whatever the lines are.
            given[name] = parsed if name != "completions" or isinstance(parsed, list) else [parsed]
    if name == "summary" and isinstance(given[name], dict) and rng.random() < 0.3:
        given[name]["license"] = rng.choice([*ODD, {"license": [1]}, {"license_name": {"x": "\n---\n"}}])
    return {
        **given,
        "kind": rng.choice(FORMS),
        "page": name not in ("summary", "evaluation") or rng.random() < 0.3,
    }


def _parsed(value: Any, otherwise: Any) -> Any:
    try:
        return json.loads(dumps(value))
    except (ValueError, RecursionError):
        return otherwise


def _steps(folder: Path, out: Path, given: dict[str, Any]) -> Iterator[str]:
    yield "card"
    card = render_card(
        given["summary"], kind=given["kind"], repository="me/model", evaluations=[given["evaluation"]]
    )
    card.encode()
    start, front, text = card.split("---\n", 2)
    allow(start == "", "the card does not begin with its front matter")
    head = yaml.safe_load(front)
    allow(isinstance(head, dict) and "vectomy" in head["tags"], f"the front matter is {head!r:.100}")
    allow(bool(text.strip()), "a card without text")
    if not given["page"]:
        return
    yield "page"
    page = render_page(given["summary"], given["scores"], given["separation"], given["completions"])
    page.encode()
    allow("</html>" in page, "a page without an end")
    for word in ("Undefined", "<script>alert"):
        allow(word not in page, f"{word} in the page")


PAGE_KINDS = (Kind("pages", _build, _damage, _steps),)
