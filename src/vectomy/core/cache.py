"""Measurements kept by the hash of their inputs, so that none is made twice: not after a kill, and
not for a new subject.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vectomy.core.cost_meter import CostMeter, highest_cost
from vectomy.core.json_value import JsonObject
from vectomy.core.ranks import current_ranks
from vectomy.core.results.result_parts import StageCost
from vectomy.core.run_folder import Journal, hash_of, read_json, write_json

__all__ = ["Cache"]


class Cache:
    """A folder with one JSON file per measurement, named by the hash of its inputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.cost = StageCost(seconds=0.0)
        """What the values asked for since the last `start` took, now or in an earlier run."""

    def __contains__(self, inputs: JsonObject) -> bool:
        return current_ranks().on_first(self._file(inputs).exists)

    def start(self) -> None:
        """Count `cost` anew."""
        self.cost = StageCost(seconds=0.0)

    def get_or_compute(self, inputs: dict[str, Any], work: Callable[[], Any]) -> Any:
        """The value stored for `inputs`, else that of `work()`, stored now. Values must survive
        JSON. All ranks run `work`, and get the value of rank 0.

        Raises:
            ArtifactError: a kept file was changed by hand and does not parse.
        """
        file, ranks = self._file(inputs), current_ranks()
        if not ranks.on_first(file.exists):
            with CostMeter() as meter:
                value = work()
            record = {"inputs": inputs, **meter.cost.to_json(), "value": value}
            ranks.on_first(partial(write_json, file, record))
            ranks.on_first(partial(self._journal_file(inputs).unlink, missing_ok=True))
        # A new value is read back too: a run that was killed and one that was not see the same
        # values.
        stored = ranks.on_first(partial(read_json, file))
        cost = StageCost.from_json({name: stored.get(name) for name in StageCost.model_fields})
        self.cost = highest_cost(self.cost, cost)
        return stored["value"]

    def journal(self, inputs: JsonObject) -> Journal:
        """The pieces of a value that is not whole yet; gone when the value is stored."""
        return Journal(self._journal_file(inputs), inputs)

    def _journal_file(self, inputs: JsonObject) -> Path:
        return self._file(inputs).with_suffix(".journal")

    def _file(self, inputs: JsonObject) -> Path:
        return self._folder / f"{inputs['kind']}-{hash_of(inputs)[:32]}.json"
