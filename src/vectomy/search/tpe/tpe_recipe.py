"""Recipe `tpe`: tries edits that a tree-structured Parzen estimator proposes, and chooses one from
the frontier (pareto.py).

Each trial is a dozen numbers (layer_weights.py) with two objectives: the KL of the first token on
the negative search prompts, in nats (which `kl_budget` limits here), and the share of positive
search prompts that still show the behaviour, measured by generating. KL is cheap and comes first.
Answers are generated a few prompts at a time, and a trial stops as soon as a finished trial beats
it for certain: with no higher KL, and with no more prompts that show the behaviour than counted so
far. Optuna then gets the counted share, an exact lower bound, with which the trial is still beaten.
The choice among the same trials does not change, but later proposals may.

Every finished trial is stored in the journal at once. A proposal depends only on the seed, the
trial's number and the known trials, so a resumed run with one process tries the same edits. With
several processes or ranks, it also depends on the order in which trials end.

Source: Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022, as implemented in
Optuna.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

from vectomy.core.errors import SelectionError
from vectomy.core.json_value import JsonObject
from vectomy.core.ranks import current_ranks
from vectomy.search.pareto import choose_point, frontier
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.tpe.layer_weights import heaviest_layer, ranges
from vectomy.search.tpe.trial import Job, Row, TrialBench, one_by_one, side_by_side
from vectomy.search.tpe.trial_study import TrialStudy
from vectomy.search.tpe.trials_over_ranks import search_over_ranks

__all__ = ["select_tpe"]


def select_tpe(task: RecipeInput, *, racing: bool = True) -> RecipeResult:
    """Try `trials` edits and choose one. With `processes` above 1, that many processes try edits,
    each with its own copy of the model. Ranks of a launcher try edits themselves.

    Args:
        racing: stop trials that are certain to be beaten; otherwise every trial answers every
            prompt.

    Raises:
        SelectionError: there is neither a judge nor behaviour tokens, no trial has finite
            measurements, or a process died.
    """
    c, limits = task.config, task.config.selection
    if task.judge is None and not task.tokens:
        raise SelectionError(
            f"there is no judge of the behaviour '{c.contrast.behaviour}', so recipe tpe cannot recognise "
            "answers that show it; name "
            "their first tokens with --behaviour-tokens, or use --recipe arditi, which finds them"
        )
    bench = TrialBench.of(task)
    n_layers = task.chat.architecture.n_layers
    ranks = current_ranks()
    search = search_over_ranks if ranks.count > 1 and not ranks.lockstep else _search
    rows = search(task, bench, ranges(bench.places, n_layers), racing)
    exact = [row for row in rows if row["rejected"] is None]
    place, note = choose_point(exact, limits.target_rate, limits.kl_budget)
    parameters = exact[place]["parameters"]
    best = {at: f"trial-{exact[at]['number']}.safetensors" for at in frontier(exact)}

    def place_of(parameters: dict[str, Any]) -> JsonObject:
        layer = heaviest_layer(parameters, bench.places, n_layers)
        return {
            "site": "resid_pre",
            "layer": layer,
            "position": -1,
            "token": task.chat.tokenizer.decode([task.chat.post_instruction()[-1]]),
            "norm": float(task.directions.at("resid_pre", layer, -1).norm()),
        }

    scores = {
        "recipe": "tpe",
        "candidates": rows,
        "frontier": [
            {
                **{key: exact[at][key] for key in ("number", "rate", "kl")},
                "edit": f"frontier/{name}",
                "direction": place_of(exact[at]["parameters"]),
            }
            for at, name in best.items()
        ],
        "chosen": place_of(parameters),
        "trial": exact[place]["number"],
        "note": note,
    }
    edits = {name: bench.edit(exact[at]["parameters"]) for at, name in best.items()}
    return RecipeResult(scores, bench.edit(parameters), edits)


def _search(
    task: RecipeInput, bench: TrialBench, space: dict[str, tuple[float, float]], racing: bool
) -> list[Row]:
    """All trials by number: those in the journal first, then new ones."""
    limits = task.config.selection
    study = TrialStudy(space, limits, task.config.seed)
    rows: dict[int, Row] = {}
    asked: dict[int, Any] = {}
    for number in range(limits.trials):
        if (key := f"trial {number}") in task.journal:
            rows[number] = task.journal.get_or_compute(key, dict)
            study.add(rows[number])

    def jobs() -> Iterator[Job]:
        for number in range(limits.trials):
            if number not in rows:
                asked[number] = _, parameters = study.ask(number)
                known = [(row["kl"], row["shown"]) for row in rows.values() if row["rejected"] is None]
                yield number, parameters, known if racing else []

    left = limits.trials - len(rows)
    if min(limits.processes, left) > 1:
        results = side_by_side(bench, min(limits.processes, left), jobs())
    else:
        results = one_by_one(bench.on(task.chat), jobs())
    with closing(results), task.progress("trying edits", limits.trials, "edits") as update:
        update(len(rows))
        for number, result in results:
            trial, parameters = asked.pop(number)
            row = {"number": number, "parameters": parameters, **result}
            rows[number] = task.journal.get_or_compute(f"trial {number}", partial(dict, row))
            study.tell(trial, rows[number])
            update(1)
            name = f"edit {len(rows)} of {limits.trials}"
            task.log_tried(name, rows[number]["rate"], rows[number]["kl"])
    return [rows[number] for number in sorted(rows)]
