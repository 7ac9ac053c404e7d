"""The page of a healing: the model before the edit, after it and after healing, and the curve of
the training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup

from vectomy.core.results import HealingCompletion, HealingResults, JsonObject, LossRow, Rate, TaskScore
from vectomy.report.charts.losses_chart import losses_chart
from vectomy.report.charts.rate_charts import timings
from vectomy.report.tables.behaviour_effect import SIDES
from vectomy.report.tables.completions import answers
from vectomy.report.tables.numbers import decimal, finite, interval, percent
from vectomy.report.templates import encodable, html_page

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


def render_healing(summary: JsonObject, completions: Sequence[JsonObject]) -> str:
    """The whole report of `vectomy heal`.

    Args:
        summary: what workflows/heal/heal_model.py writes.
        completions: the rows of completions.jsonl.

    Returns:
        Self-contained HTML. Parts whose input is absent are left out or say so.
    """
    results = HealingResults.from_json(summary)
    rows = [HealingCompletion.from_json(row) for row in completions]
    models = tuple(results.measured)
    training = results.training
    return html_page(
        "healing.html.jinja",
        summary=HealingResults.repair(summary),
        behaviour=str(results.behaviour or "behaviour"),
        models=models,
        rows=healing_rows(summary),
        safety=healing_safety(results),
        curve=_curve(training.history if training else ()),
        training=training.to_json() if training else {},
        receipt=results.receipt.to_json(),
        names=models,
        sides={"positive": "harmful", "negative": "harmless"} if results.behaviour == "refusal" else SIDES,
        left=1 if len(models) > 1 else 0,
        right=len(models) - 1,
        pairs=[
            {
                "set": row.set,
                "prompt": row.prompt,
                "answers": answers(row.answers, models),
            }
            for row in rows
        ],
        sets_of_answers=list(dict.fromkeys(str(row.set) for row in rows)),
        settings=results.config,
        versions=results.versions,
        judge=results.judge.to_json(),
        **timings(results.seconds),
    )


def render_healing_card(summary: JsonObject) -> str:
    """README.md of the healed checkpoint: what was changed and healed, how it was measured, and
    what it means for safety.
    """
    results = HealingResults.from_json(summary)
    judge, config = results.judge, results.config
    models = list(results.measured)
    cells = [["held-out prompts", *models], ["---"] * (len(models) + 1)]
    cells += [[label, *row] for label, row in healing_rows(summary)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    learned = (
        f"{config.get('objective', 'trained')} on {results.rows.pairs} rows of "
        f"{config.get('preferences', 'an unrecorded source')}"
    )
    name = plain_name(results.model or "")
    trained = learned if results.training else "an adapter that was trained elsewhere"
    card = f"""# {name}, edited and healed

{results.sentence}

Base: {name}. Trained after the edit: {trained}. Judge: {judge.name} {judge.version};
rates with Wilson's 95% interval.

{table}

## Safety

{healing_safety(results)}
"""
    return encodable(card)


def healing_safety(results: HealingResults) -> str:
    """The warning on a healed model: whether what the edit took away is still away."""
    state = {
        True: "The behaviour that the edit changed came back, in part or completely.",
        False: "Healing did not measurably bring back what the edit had removed.",
        None: "It was not measured whether healing brought back what the edit had removed.",
    }[results.outcome.came_back]
    return (
        f"This is an edited model. {state} Treat it as less safe than its base: its only safeguards are "
        "those of the system around it. Do not deploy it where its base's refusals were relied on."
    )


def plain_name(name: str) -> str:
    """A model's name without what Markdown would read as markup."""
    return re.sub(r"[^\w./ -]", "", name)


def healing_rows(summary: JsonObject) -> list[tuple[str, list[str]]]:
    """The table before edit, after edit, after healing, as text: for page, card and terminal."""
    models = list(HealingResults.from_json(summary).measured.values())
    rows = [(label, [_rate(getattr(model, key)) for model in models]) for label, key in RATES]
    rows += [(label, [decimal(getattr(model, key)) for model in models]) for label, key in NUMBERS]
    tasks = dict.fromkeys(task for model in models for task in model.capability)
    for task in tasks:
        rows.append((task, [_task(model.capability.get(task)) for model in models]))
    return rows


def _rate(rate: Rate) -> str:
    if not rate.model_fields_set:
        return decimal(None)
    bounds = interval(rate.ci)
    unjudged = f", {rate.not_judged} not judged" if rate.not_judged else ""
    if unjudged and not rate.total:
        return unjudged.removeprefix(", ")
    return f"{rate.count}/{rate.total}{f' ({bounds})' if bounds else ''}{unjudged}"


def _task(task: TaskScore | None) -> str:
    if not task:
        return decimal(None)
    return f"{percent(task.value)} ± {percent(task.stderr)}"


def _curve(history: Sequence[LossRow]) -> Markup:
    known = [row for row in history if finite(row.loss) is not None]
    return losses_chart(known, CURVES)
