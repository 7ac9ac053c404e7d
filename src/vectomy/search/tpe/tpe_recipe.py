"""Recipe `tpe`: try edits drawn by a tree-structured Parzen estimator and take one off the frontier
(pareto.py).

Each trial is a handful of numbers (layer_weights.py) with two objectives: the KL of the first token
on the negative search prompts, in nats (`kl_budget` means this one here), and the share of positive
search prompts that still show the behaviour, found by generating. KL is cheap and comes first;
answers are generated a few prompts at a time, and a trial is stopped as soon as a finished one
beats it whatever the rest would bring: KL no higher, and no more prompts that show the behaviour
than were counted so far. Optuna is told the counted share then, an exact lower bound, with which
the trial is still beaten; the choice among given trials stays the same, while draws after it may
differ.

Every finished trial goes to the journal at once. What Optuna draws depends on the seed, the trial's
number and the trials it knows, so that with one process an interrupted run that goes on tries the
very same edits. Side by side the order in which trials end decides too.

Source: Ozaki et al., "Multiobjective Tree-Structured Parzen Estimator", 2022, as Optuna has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

from vectomy.core.config import Selection
from vectomy.core.errors import SelectionError
from vectomy.core.run_folder import hash_of
from vectomy.search.pareto import choose_point, frontier
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.tpe.layer_weights import SCOPES, Parameters, heaviest_layer, ranges
from vectomy.search.tpe.trial import Job, Row, TrialBench, one_by_one, side_by_side

__all__ = ["select_tpe"]


def select_tpe(task: RecipeInput, *, racing: bool = True) -> RecipeResult:
    """Try `limits.trials` edits and choose one.

    With `limits.processes` above 1, as many processes try edits, each with its own copy of the
    model beside this one.

    Args:
        racing: stop trials that cannot matter any more; without it every prompt is answered in
            every trial.

    Raises:
        SelectionError: nothing says which answers show the behaviour, no trial has finite numbers,
            or a process died.
    """
    c, limits = task.config, task.config.selection
    if task.judge is None and not task.tokens:
        raise SelectionError(
            f"there is no judge of the behaviour '{c.contrast.behaviour}', so recipe tpe cannot tell which answers show it; name the "
            "first tokens of those that do with --behaviour-tokens, or use --recipe arditi, which finds them"
        )
    bench = TrialBench.of(task)
    n_layers = task.chat.architecture.n_layers
    rows = _search(task, bench, ranges(bench.places, n_layers), racing)
    exact = [row for row in rows if row["rejected"] is None]
    place, note = choose_point(exact, limits.target_rate, limits.kl_budget)
    parameters = exact[place]["parameters"]
    layer = heaviest_layer(parameters, bench.places, n_layers)
    best = {at: f"trial-{exact[at]['number']}.safetensors" for at in frontier(exact)}
    scores = {
        "recipe": "tpe",
        "candidates": rows,
        "frontier": [
            {**{key: exact[at][key] for key in ("number", "rate", "kl")}, "edit": f"frontier/{name}"}
            for at, name in best.items()
        ],
        "chosen": {
            "site": "resid_pre",
            "layer": layer,
            "position": -1,
            "token": task.chat.tokenizer.decode([task.chat.post_instruction()[-1]]),
            "norm": float(task.directions.at("resid_pre", layer, -1).norm()),
        },
        "trial": exact[place]["number"],
        "note": note,
    }
    edits = {name: bench.edit(exact[at]["parameters"]) for at, name in best.items()}
    return RecipeResult(scores, bench.edit(parameters), edits)


def _search(
    task: RecipeInput, bench: TrialBench, space: dict[str, tuple[float, float]], racing: bool
) -> list[Row]:
    """All trials in the order of their numbers: those in the journal, then the others."""
    limits = task.config.selection
    study = _Study(space, limits, task.config.seed)
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
        for number, found in results:
            trial, parameters = asked.pop(number)
            row = {"number": number, "parameters": parameters, **found}
            rows[number] = task.journal.get_or_compute(f"trial {number}", partial(dict, row))
            study.tell(trial, rows[number])
            update(1)
    return [rows[number] for number in sorted(rows)]


class _Study:
    """Optuna's part: numbers out, results in."""

    def __init__(self, space: dict[str, tuple[float, float]], limits: Selection, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(directions=["minimize", "minimize"])
        self.space: dict[str, Any] = {"scope": optuna.distributions.CategoricalDistribution(SCOPES)}
        self.space |= {name: optuna.distributions.FloatDistribution(*ends) for name, ends in space.items()}
        self.startup, self.seed = limits.startup_trials, seed

    def ask(self, number: int) -> tuple[Any, Parameters]:
        import optuna

        # A sampler's random state is stored nowhere: made anew for each trial, it needs none.
        seed = int(hash_of([self.seed, number])[:8], 16)
        self.study.sampler = optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=self.startup, seed=seed
        )
        trial = self.study.ask(self.space)
        return trial, dict(trial.params)

    def tell(self, trial: Any, row: Row) -> None:
        import optuna

        if row["kl"] is None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, [row["kl"], row["rate"]])

    def add(self, row: Row) -> None:
        import optuna

        if row["kl"] is not None:
            made = optuna.trial.create_trial(
                params=row["parameters"], distributions=self.space, values=[row["kl"], row["rate"]]
            )
            self.study.add_trial(made)
