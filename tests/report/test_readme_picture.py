"""The README's table, sentence and picture come from one run of the default recipe."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from vectomy.core.run_config import make_config

TIER = "unit"

ROOT = Path(__file__).parents[2]
DATA = json.loads((ROOT / "docs" / "report.json").read_text(encoding="utf-8"))
FORMS = ("base", "hooks", "baked")


def rate(form: dict[str, Any], name: str) -> str:
    low, high = (100 * bound for bound in form[f"{name}_ci"])
    return f"{form[f'{name}_count']}/{form[f'{name}_total']} ({low:.0f}–{high:.0f}%)"


ROWS = {
    "refusals of harmful prompts": lambda form: rate(form, "refusal"),
    "refusals of harmless prompts": lambda form: rate(form, "harmless_refusal"),
    "degenerate answers": lambda form: f"{100 * form['degenerate_rate']:.1f}%",
    "KL per token from the base": lambda form: f"{form['kl_per_token']:.3f}".replace("0.000", "0"),
}


def cells(text: str, start: str) -> list[str]:
    """The cells of the first row of a Markdown table whose head begins with `start`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_readmes_table_holds_the_numbers_of_the_pictures_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for start, show in ROWS.items():
        assert cells(readme, start) == [show(DATA["forms"][form]) for form in FORMS], start
    lost = DATA["sets"]["positive"]
    sentence = re.search(r"Of the (\d+) harmful prompts .*?, (\d+) now end in degenerate", readme, re.DOTALL)
    assert sentence is not None
    assert [int(number) for number in sentence.groups()] == [lost["lost"], lost["lost_to_degenerate"]]


def test_the_results_page_holds_them_too() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    _, after = results.split("| 2026-11-27, bfloat16, another machine ", 1)
    lines = after.splitlines()[:3]
    for form, line in zip(FORMS, lines, strict=True):
        values = DATA["forms"][form]
        rates = [rate(values, "refusal"), rate(values, "harmless_refusal")]
        costs = [f"{values[name]:.3f}" for name in ("kl_first_token", "kl_per_token", "ce_own_answers")]
        shown = [form, *rates, f"{100 * values['degenerate_rate']:.1f}%"]
        shown += [cost.replace("0.000", "0") for cost in costs]
        assert [cell.strip() for cell in line.strip("| ").split("|")] == shown


def test_the_picture_is_of_that_run_and_the_run_of_the_default_recipe() -> None:
    picture = (ROOT / "docs" / "report.png").read_bytes()
    assert hashlib.sha256(picture).hexdigest() == DATA["picture_sha256"]
    default = make_config("demo", {})
    assert (DATA["model"], DATA["recipe"], DATA["seed"]) == ("demo", default.recipe, default.seed)
    assert DATA["settings"]["answer_tokens"] == default.answer_tokens
    assert DATA["judge"] == "refusal"
