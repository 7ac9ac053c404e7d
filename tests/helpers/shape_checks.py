"""The type checker of every signature in vectomy. It imports no torch: every test loads it."""

from __future__ import annotations

from typing import Any

from beartype import BeartypeConf, beartype

# An int is a float to a type checker (PEP 484), so to this one too.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


def checked(function: Any) -> Any:
    """Functions within functions are left out: they would be looked at anew at each call of the
    outer one, at 3 ms each.
    """
    return function if "<locals>" in getattr(function, "__qualname__", "") else _checked(function)
