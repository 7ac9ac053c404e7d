"""Trials over the ranks of a launcher: each rank tries edits on its own card, and all of them learn
from one Optuna study in the run folder.

Rank r of n takes every nth trial. A proposal depends on the trials that have ended by then, so the
trials of several ranks depend on the order in which they end, as with `--processes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from vectomy.core.ranks import apart, current_ranks
from vectomy.search.recipe import RecipeInput
from vectomy.search.tpe.trial import Row, TrialBench
from vectomy.search.tpe.trial_study import TrialStudy

__all__ = ["search_over_ranks"]

Rows: TypeAlias = Mapping[int, Row]


@dataclass(frozen=True)
class _SharedTrials:
    """The trials of one search, in a file that all ranks write to. Rank 0 copies them into the
    journal, which outlives the file.
    """

    task: RecipeInput
    space: Mapping[str, tuple[float, float]]
    file: Path

    def open_study(self) -> TrialStudy:
        limits = self.task.config.selection
        return TrialStudy(self.space, limits, self.task.config.seed, self.file)

    def start(self) -> Rows:
        """Rank 0: a new file with the trials of an interrupted search, which are returned."""
        if self.file.exists():
            self.copy(lambda count: None)
        # Also those of other inputs.
        for leftover in self.file.parent.glob("*.trials*"):
            leftover.unlink()
        rows = self.read_journal()
        study = self.open_study()
        for row in rows.values():
            study.add(row)
        return rows

    def copy(self, update: Callable[[int], None]) -> None:
        """Rank 0: copy new trials into the journal."""
        for row in self.open_study().rows():
            if (key := f"trial {row['number']}") not in self.task.journal:
                self.task.journal.get_or_compute(key, partial(dict, row))
                update(1)

    def finish(self, update: Callable[[int], None]) -> Rows:
        """Rank 0: all trials; the file is removed."""
        self.copy(update)
        for leftover in self.file.parent.glob(f"{self.file.name}*"):
            leftover.unlink()
        return self.read_journal()

    def read_journal(self) -> Rows:
        journal, trials = self.task.journal, self.task.config.selection.trials
        return {
            number: journal.get_or_compute(key, dict)
            for number in range(trials)
            if (key := f"trial {number}") in journal
        }


def search_over_ranks(
    task: RecipeInput, bench: TrialBench, space: Mapping[str, tuple[float, float]], racing: bool
) -> list[Row]:
    """All trials by number: those in the journal first, then new ones of all ranks."""
    ranks, trials = current_ranks(), task.config.selection.trials
    journal = task.journal
    shared = _SharedTrials(task, space, journal.path.with_suffix(f".{journal.inputs[:12]}.trials"))
    rows = ranks.on_first(shared.start)
    left = [number for number in range(trials) if number not in rows]
    with task.progress("trying edits", trials, "edits") as update:
        update(len(rows))
        with apart():
            measure, study = bench.on(task.chat), shared.open_study()
            for number in ranks.share(left):
                trial, parameters = study.ask(number)
                known = [(row["kl"], row["shown"]) for row in study.rows() if row["rejected"] is None]
                row = {"number": number, "parameters": parameters}
                study.tell(trial, {**row, **measure(parameters, known if racing else [])})
                if ranks.is_first:
                    shared.copy(update)
        # The others may still be at work.
        ranks.gather(None)
        results = ranks.on_first(partial(shared.finish, update))
    return [results[number] for number in sorted(results)]
