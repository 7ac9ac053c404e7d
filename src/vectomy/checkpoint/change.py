"""What is to happen to a checkpoint's tensors: groups that change together, and tensors that the
source lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.reader import read_stored
from vectomy.checkpoint.safetensors_header import DTYPE_BITS, TensorEntry
from vectomy.core.errors import CheckpointError

__all__ = ["Added", "Change", "by_tensor"]

Make = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
# How much of its tensors a change by rows has in memory at a time.
BLOCK_BYTES = 1 << 25


@dataclass(frozen=True)
class Change:
    """Tensors whose new values are made together: one weight may be stored in several (fp8 values
    and their scales).

    `make` gets what the source holds of `tensors` and `reads`, in the stored dtypes, and returns
    the new values of `tensors`, in the same dtypes and shapes. What it gets is its own to
    overwrite. It gives the same for the same, for it is called once for each shard that the group
    lies in.

    With `rows` it is called on consecutive blocks of rows (axis 0, which all the tensors share), so
    that a tensor may be larger than memory; what it returns for a row must not depend on the other
    rows. A block of all these tensors has at most `block_bytes`, or is one row.
    """

    tensors: tuple[str, ...]
    make: Make
    reads: tuple[str, ...] = ()
    rows: bool = False
    block_bytes: int = BLOCK_BYTES

    def make_from(self, checkpoint: Checkpoint) -> Mapping[str, Tensor]:
        """The new values from what a checkpoint holds of `tensors` and `reads`, all in memory."""
        names = [name for name in (*self.tensors, *self.reads) if name in checkpoint.tensors]
        return self.make({name: read_stored(checkpoint, name) for name in names})

    @classmethod
    def of(cls, name: str, make: Callable[[Tensor], Tensor], *, rows: bool = False) -> Change:
        """The change of one tensor by itself."""
        return cls((name,), lambda old: {name: make(old[name])}, rows=rows)


@dataclass(frozen=True)
class Added:
    """A tensor that the source lacks. Its bytes are those of `copy_of`; without that, a Change
    makes it.
    """

    shard: str
    dtype: str
    """As safetensors spells it (BF16)."""
    shape: tuple[int, ...]
    copy_of: str | None = None

    @classmethod
    def copy(cls, entry: TensorEntry) -> Added:
        """An unchanged copy of a tensor that is there, in the same shard."""
        return cls(entry.shard, entry.dtype, entry.shape, entry.name)

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def by_tensor(
    checkpoint: Checkpoint, changes: Sequence[Change], added: Mapping[str, Added]
) -> dict[str, Change]:
    """The change that makes each tensor.

    Raises:
        CheckpointError: a tensor that is not there, or one to be added that is.
        ValueError: the changes contradict each other (a mistake of the caller's, not of the
            input's).
    """
    shards = {shard.name for shard in checkpoint.shards}
    for name, new in added.items():
        if name in checkpoint.tensors:
            raise CheckpointError(
                f"tensor '{name}' is to be added to {checkpoint.path}, which has one of that name"
            )
        if new.shard not in shards:
            raise ValueError(
                f"'{name}' is to be added to '{new.shard}', which is no shard of {checkpoint.path}"
            )
        if new.copy_of is not None and new.copy_of not in checkpoint.tensors:
            raise CheckpointError(
                f"tensor '{new.copy_of}' is not in {checkpoint.path}, so '{name}' cannot copy it"
            )
    made: dict[str, Change] = {}
    for change in changes:
        for name in (*change.tensors, *change.reads):
            if name not in checkpoint.tensors and (name not in added or name in change.reads):
                raise CheckpointError(f"tensor '{name}' is not in {checkpoint.path}, so it cannot be changed")
        for name in change.tensors:
            if name in made:
                raise ValueError(f"two changes make the tensor '{name}'")
            made[name] = change
        rows = {
            (added.get(name) or checkpoint.tensors[name]).shape[:1]
            for name in (*change.tensors, *change.reads)
        }
        if change.rows and (len(rows) != 1 or () in rows):
            raise ValueError(f"{change.tensors} are to change row by row, but do not share their rows")
    for name, new in added.items():
        if (name in made) is (new.copy_of is not None):
            raise ValueError(f"'{name}' is to be added: either as a copy or made by one change")
    return made
