"""Cards, pages and tables of results whose JSON is spoilt: what is left is shown, nothing more."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from invented_evaluation import an_evaluation, evaluated_completions
from invented_run import a_separation, a_summary, arditi_scores, every, metrics, some_completions

from hostile.kind import Kind, allow
from hostile.mutations import ODD, dumps, restructured
from vectomy.cli.tables.evaluation_table import print_comparison
from vectomy.cli.tables.healing_table import print_healing
from vectomy.cli.tables.summary_table import print_summary
from vectomy.report import render_card, render_evaluation, render_healing, render_healing_card, render_page

__all__ = ["PAGE_KINDS"]

FORMS = ("checkpoint", "adapter", "edit", "gguf")
RATE = {"count": 4, "total": 100, "rate": 0.04, "ci": [0.01, 0.1]}
HEALED = {
    "refusal": RATE,
    "harmless_refusal": RATE,
    "degenerate": RATE,
    "length_mean": 31.5,
    "refused": [True, False, None],
    **{key: metrics(4, 2, 0.3, 0.9)[key] for key in ("kl_first_token", "kl_per_token", "ce_own_answers")},
    "capability": {"arc": {"metric": "acc", "value": 0.4, "stderr": 0.01, "n": 100, "difference": 0.01}},
}
ANSWER = {"text": "Gladly.", "verdict": "compliance", "p_refusal": 0.1}
HEALING = {
    "format": "vectomy-healing",
    "behaviour": "refusal",
    "model": "demo",
    "config": {"objective": "sft", "preferences": "own"},
    "edit": {"sha256": "ab", "about": {"behaviour": "refusal"}},
    "rows": {"pairs": 20, "left_out": {"empty": 1}},
    "training": {
        "steps": 2,
        "machine": {"method": "lora"},
        "history": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}],
    },
    "receipt": {
        "changed": 4,
        "writers": 2,
        "projected": True,
        "learned_along": 1e-7,
        "learned_in": 2,
        "verified": {"carried": 4, "failures": [], "max_projection": 0.001, "status": "carried"},
    },
    "judge": {"name": "refusals", "version": 3, "note": "Checked."},
    "models": ["base", "edited", "healed"],
    "measures": {"base": HEALED, "edited": HEALED, "healed": HEALED},
    "outcome": {"recovered": {"kl_per_token": 0.4}, "came_back": False, "allowed": 0.1},
    "sentence": "Healing took 40% of the damage away.",
    "seconds": {"train": 3.5},
    "versions": {"torch": "2.13"},
}
WHOLE: dict[str, Any] = {
    "summary": a_summary(),
    "scores": arditi_scores(),
    "separation": a_separation(),
    "completions": some_completions()[:6],
    "evaluation": an_evaluation(),
    "evaluated": evaluated_completions()[:6],
    "healing": HEALING,
    "healed": [{"set": "positive", "prompt": "Hello", "answers": {"base": ANSWER, "healed": ANSWER}}] * 2,
}
# Text that some reader takes for more than text.
NAMES = ("[/red]", "<script>alert(1)</script>", "{{ 7 * 7 }}", "|a|b|", "\ud800", "a\n---\nb: c", "")
# What is made of which part.
MADE: dict[str, tuple[str, ...]] = {
    "summary": ("card", "card", "page", "table"),
    "scores": ("page",),
    "separation": ("page",),
    "completions": ("page",),
    "evaluation": ("card", "evaluation page", "evaluation table"),
    "evaluated": ("evaluation page",),
    "healing": ("healing page", "healing table"),
    "healed": ("healing page",),
}
# Rows of a file of JSON lines: a list, whatever the lines are.
ROWS = ("completions", "evaluated", "healed")


def _build(path: Path) -> None:
    (path / "pages").mkdir()
    (path / "pages" / "nothing").touch()
    # Templates are compiled here, and not in each child.
    for made in {made for names in MADE.values() for made in names}:
        for _ in _steps(path, path, {**WHOLE, "kind": "edit", "made": made}):
            pass


def _damage(rng: random.Random, folder: Path) -> dict[str, Any]:
    name = rng.choice(["summary", "summary", *WHOLE])
    value = WHOLE[name]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        if isinstance(value, dict | list):
            value = _parsed(restructured(value, rng), value)
    if rng.random() < 0.1:
        value = every(value, rng.choice(NAMES))
    if name in ROWS and not isinstance(value, list):
        value = [value]
    if name == "summary" and isinstance(value, dict) and rng.random() < 0.2:
        value["license"] = rng.choice([*ODD, {"license": [1]}, {"license_name": {"x": "\n---\n"}}])
    return {**WHOLE, name: value, "kind": rng.choice(FORMS), "made": rng.choice(MADE[name])}


def _parsed(value: Any, otherwise: Any) -> Any:
    """As a reader of the file gives it; it refuses nesting without end."""
    try:
        return json.loads(dumps(value))
    except (ValueError, RecursionError):
        return otherwise


def _steps(folder: Path, out: Path, given: dict[str, Any]) -> Iterator[str]:
    made = given["made"]
    yield made
    if made == "card":
        _check_card(
            render_card(
                given["summary"], kind=given["kind"], repository="me/m", evaluations=[given["evaluation"]]
            )
        )
    elif made.endswith("table"):
        printer, part = {
            "table": (print_summary, "summary"),
            "evaluation table": (print_comparison, "evaluation"),
            "healing table": (print_healing, "healing"),
        }[made]
        _print(printer, given[part])
    elif made == "page":
        _check_page(render_page(given["summary"], given["scores"], given["separation"], given["completions"]))
    elif made == "evaluation page":
        _check_page(render_evaluation(given["evaluation"], given["evaluated"]))
    else:
        _check_page(render_healing(given["healing"], given["healed"]))
        yield "healing card"
        render_healing_card(given["healing"]).encode()


def _check_card(card: str) -> None:
    card.encode()
    start, front, text = card.split("---\n", 2)
    allow(start == "", "the card does not begin with its front matter")
    head = yaml.safe_load(front)
    allow(isinstance(head, dict) and "vectomy" in head["tags"], f"the front matter is {head!r:.100}")
    allow(bool(text.strip()), "a card without text")


def _check_page(page: str) -> None:
    page.encode()
    allow("</html>" in page, "a page without an end")
    for word in ("Undefined", "<script>alert"):
        allow(word not in page, f"{word} in the page")


def _print(printer: Callable[[Any, str], None], value: Any) -> None:
    # As the command line makes it.
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace")):
        printer(value, "run")


PAGE_KINDS = (Kind("pages", _build, _damage, _steps),)
