"""The page of a healing: the model before the edit, after it and after healing, and the curve of
the training.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vectomy.report.charts.losses_chart import losses_chart
from vectomy.report.charts.rate_charts import timings
from vectomy.report.tables.completions import answers
from vectomy.report.tables.numbers import decimal, finite, interval, percent
from vectomy.report.templates import html_page

__all__ = ["healing_rows", "render_healing", "render_healing_card"]

CURVES = (("loss", "loss", "line positive"),)
RATES = (
    ("refusals", "refusal"),
    ("harmless refusals", "harmless_refusal"),
    ("degenerate answers", "degenerate"),
)
NUMBERS = (
    ("KL of the first token, nats", "kl_first_token"),
    ("KL per token, nats", "kl_per_token"),
    ("cross-entropy of the base's answers, nats", "ce_own_answers"),
    ("tokens an answer", "length_mean"),
    ("repeated runs of words", "repeated_share"),
)


def render_healing(summary: dict[str, Any], completions: list[dict[str, Any]]) -> str:
    """The whole report of `vectomy heal`.

    Args:
        summary: what workflows/heal/heal_model.py writes.
        completions: the rows of completions.jsonl.

    Returns:
        Self-contained HTML. Parts whose input is absent are left out or say so.
    """
    models = tuple(_models(summary))
    training = summary.get("training") or {}
    return html_page(
        "healing.html.jinja",
        summary=summary,
        behaviour=str(summary.get("behaviour") or "behaviour"),
        models=models,
        rows=healing_rows(summary),
        curve=_curve(training.get("history")),
        training=training,
        receipt=summary.get("receipt") or {},
        names=models,
        left=1 if len(models) > 1 else 0,
        right=len(models) - 1,
        pairs=[
            {
                "set": row.get("set"),
                "prompt": row.get("prompt"),
                "answers": answers(row.get("answers") or {}, models),
            }
            for row in completions
        ],
        sets_of_answers=list(dict.fromkeys(str(row.get("set")) for row in completions)),
        settings=summary.get("config") or {},
        versions=summary.get("versions") or {},
        judge=summary.get("judge") or {},
        **timings(summary.get("seconds")),
    )


def render_healing_card(summary: dict[str, Any]) -> str:
    """README.md of the healed checkpoint: what was changed and healed, how it was measured, and
    what it means for safety.
    """
    judge, config = summary["judge"], summary["config"]
    models = list(_models(summary))
    cells = [["held-out prompts", *models], ["---"] * (len(models) + 1)]
    cells += [[label, *row] for label, row in healing_rows(summary)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    learned = f"{config['objective']} on {summary['rows']['pairs']} rows of {config['preferences']}"
    name = plain_name(summary["model"])
    return f"""# {name}, edited and healed

{summary["sentence"]}

Base: {name}. Trained after the edit: {learned if summary["training"] else "an adapter that was trained elsewhere"}. Judge: {judge["name"]} {judge["version"]};
rates with Wilson's 95% interval.

{table}

## Safety

This is an edited model. What the edit took away stays away, the refusal of harmful requests included where that was edited; it has no
other safeguard than the ones around it. Do not deploy it where its base's refusals were relied on.
"""


def plain_name(name: str) -> str:
    """A model's name without what Markdown would read as markup."""
    return re.sub(r"[^\w./ -]", "", name)


def healing_rows(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The table before edit, after edit, after healing, as text: for the page and for the terminal."""
    models = list(_models(summary).values())
    rows = [(label, [_rate(model.get(key)) for model in models]) for label, key in RATES]
    rows += [(label, [decimal(model.get(key)) for model in models]) for label, key in NUMBERS]
    tasks = dict.fromkeys(task for model in models for task in model.get("capability") or {})
    for task in tasks:
        rows.append((task, [_task((model.get("capability") or {}).get(task)) for model in models]))
    return rows


def _models(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was measured, by model in the order of `models`; JSON of a file is in the order of its
    names.
    """
    measures = summary.get("measures") or {}
    return {name: measures[name] for name in summary.get("models") or measures if name in measures}


def _rate(rate: Mapping[str, Any] | None) -> str:
    if not rate:
        return decimal(None)
    bounds = interval(rate.get("ci"))
    return f"{rate.get('count')}/{rate.get('total')}{f' ({bounds})' if bounds else ''}"


def _task(task: Mapping[str, Any] | None) -> str:
    if not task:
        return decimal(None)
    return f"{percent(task.get('value'))} ± {percent(task.get('stderr'))}"


def _curve(history: Sequence[Mapping[str, Any]] | None) -> Markup:
    known = [row for row in history or [] if finite(row.get("loss")) is not None]
    return losses_chart({"history": known}, CURVES)
