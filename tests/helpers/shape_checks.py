"""The type checker of every signature in vectomy. It imports no torch: every test loads it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

# An int is a float to a type checker (PEP 484), so to this one too.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with its types checked.

    The check is built at the first call: that takes 3 ms, and a test process imports thousands of
    functions that it never calls. Functions within functions are left out: their check would be
    built anew at each call of the outer one.
    """
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    built: Callable[..., Any] | None = None

    @functools.wraps(function)
    def check(*args: object, **kwargs: object) -> object:
        nonlocal built
        if built is None:
            built = _checked(function)
        return built(*args, **kwargs)

    return check
