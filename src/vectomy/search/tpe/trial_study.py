"""The Optuna study of recipe `tpe`: proposes parameters and learns from results; in memory, or in a
file that several processes write to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vectomy.core.run_config import Selection
from vectomy.core.run_folder import hash_of
from vectomy.search.tpe.layer_weights import SCOPES, Parameters
from vectomy.search.tpe.trial import Row

__all__ = ["TrialStudy"]

NAME = "tpe"


class TrialStudy:
    """Args:
    space: the lowest and highest value of each number.
    file: is made, or shared, by the processes of one search; absent: the study is in memory.
    """

    def __init__(
        self, space: Mapping[str, tuple[float, float]], limits: Selection, seed: int, file: Path | None = None
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            directions=["minimize", "minimize"],
            storage=None if file is None else _open_storage(file),
            study_name=None if file is None else NAME,
            load_if_exists=file is not None,
        )
        self.space: dict[str, Any] = {"scope": optuna.distributions.CategoricalDistribution(SCOPES)}
        self.space |= {name: optuna.distributions.FloatDistribution(*ends) for name, ends in space.items()}
        self.startup, self.seed = limits.startup_trials, seed

    def ask(self, number: int) -> tuple[Any, Parameters]:
        import optuna

        # The sampler's random state is never stored: each trial gets a new sampler with its own
        # seed.
        seed = int(hash_of([self.seed, number])[:8], 16)
        self.study.sampler = optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=self.startup, seed=seed
        )
        trial = self.study.ask(self.space)
        return trial, dict(trial.params)

    def tell(self, trial: Any, row: Row) -> None:
        import optuna

        trial.set_user_attr("row", row)
        if row["kl"] is None:
            self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, [row["kl"], row["rate"]])

    def add(self, row: Row) -> None:
        import optuna

        if row["kl"] is not None:
            made = optuna.trial.create_trial(
                params=row["parameters"],
                distributions=self.space,
                values=[row["kl"], row["rate"]],
                user_attrs={"row": row},
            )
            self.study.add_trial(made)

    def rows(self) -> Iterator[Row]:
        """The rows of all trials that have ended, in whichever process."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.is_finished() and "row" in trial.user_attrs:
                yield trial.user_attrs["row"]


def _open_storage(file: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # The other lock of Optuna is a symbolic link, which Windows does not let everybody make.
    return JournalStorage(JournalFileBackend(str(file), lock_obj=JournalFileOpenLock(str(file))))
