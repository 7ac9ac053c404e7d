"""The completions of a page in a browser: the filter, and what it shows."""

from __future__ import annotations

import json

from chromium import Tab

SHOWN = """[...document.querySelectorAll(".pair")].filter((pair) => !pair.hidden).map((pair) => [
  pair.querySelector(".words").textContent,
  ...[...pair.querySelectorAll(".answer")].filter((answer) => !answer.hidden)
    .sort((a, b) => a.style.order - b.style.order).map((answer) => answer.dataset.verdict),
])"""


def set_filter(tab: Tab, **values: object) -> list[list[str]]:
    """Set the filter as a person would, and say what is shown: prompts, each with the verdicts of
    its answers.
    """
    tab.run("document.getElementById('filter').reset()")
    for name, value in values.items():
        member = "checked" if isinstance(value, bool) else "value"
        tab.run(f"document.getElementById('filter').elements.{name}.{member} = {json.dumps(value)}")
    tab.run("document.getElementById('filter').dispatchEvent(new Event('input'))")
    return tab.run(SHOWN)
