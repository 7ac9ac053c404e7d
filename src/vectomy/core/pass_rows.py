"""Which prompts the rows of the current forward pass belong to. Rows leave and join while answers
are generated; whoever treats rows differently (a strength for each) finds them by their prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakSet

__all__ = ["apart_by_row", "current_rows", "pass_rows", "treats_rows_apart"]

_ROWS: ContextVar[tuple[int, ...] | None] = ContextVar("rows", default=None)
_APART: WeakSet[object] = WeakSet()


@contextmanager
def pass_rows(rows: Sequence[int]) -> Iterator[None]:
    """Passes inside the block have these rows: indices in the caller's list of prompts."""
    token = _ROWS.set(tuple(rows))
    try:
        yield
    finally:
        _ROWS.reset(token)


def current_rows() -> tuple[int, ...] | None:
    """The rows of the pass that runs; None where nobody has said."""
    return _ROWS.get()


@contextmanager
def apart_by_row(model: object) -> Iterator[None]:
    """Inside the block the model treats its rows differently, so that none may stand for others."""
    _APART.add(model)
    try:
        yield
    finally:
        _APART.discard(model)


def treats_rows_apart(model: object) -> bool:
    """Whether one row may not stand for others, as a shared beginning of prompts does."""
    return model in _APART
