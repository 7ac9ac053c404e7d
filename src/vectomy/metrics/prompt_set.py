"""A named set of prompts to measure on, or a seeded sample of one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from vectomy.core.errors import PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Log, ignore
from vectomy.core.run_config import Source
from vectomy.core.run_folder import hash_of
from vectomy.data.prompts import Labelled, Prompt, read_labelled
from vectomy.data.sources import local_path, plain_source
from vectomy.metrics.behaviour import types_of

__all__ = ["PromptSet", "read_sets", "sample"]


@dataclass(frozen=True)
class PromptSet:
    """A named prompt set. `source` is the requested source, without local folders."""

    name: str
    source: str
    rows: tuple[Labelled, ...]

    @property
    def prompts(self) -> list[Prompt]:
        return [row.prompt for row in self.rows]

    @property
    def sha256(self) -> str:
        """Hash of the measured prompts with their types and labels."""
        return hash_of([[row.prompt.to_json(), row.type, row.label] for row in self.rows])

    def to_json(self) -> JsonObject:
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "count": len(self.rows),
            "types": types_of(self.rows),
        }


def read_sets(specs: Sequence[str], limit: int | None, seed: int, log: Log = ignore) -> list[PromptSet]:
    """Prompt sets from `[NAME=]SOURCE`. With `limit`, each is a seeded sample of that many prompts,
    in the order of the source.

    Raises:
        PromptError: a source cannot be read, or two sets have the same name.
    """
    sets: list[PromptSet] = []
    for spec in specs:
        name, source = _split_name(spec)
        if any(other.name == name for other in sets):
            raise PromptError(f"two prompt sets are called '{name}'; rename one: --prompts NAME={source}")
        rows = read_labelled(Source(prompts=source), log)
        kept = [rows[index] for index in sample(len(rows), limit, seed)]
        sets.append(PromptSet(name, plain_source(source), tuple(kept)))
    return sets


def sample(count: int, limit: int | None, seed: int) -> list[int]:
    """Indices of a seeded sample of at most `limit` of `count` items, in ascending order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))


def _split_name(spec: str) -> tuple[str, str]:
    """(name, source). A file whose name contains an equals sign is a source."""
    name, equals, source = spec.partition("=")
    if equals and name and source and local_path(spec) is None:
        return name, source
    path = local_path(spec)
    if path is not None:
        return path.stem, spec
    plain = spec.partition("#")[0]
    return plain.removeprefix("bundled:").partition(":")[0].rpartition("/")[2], spec
