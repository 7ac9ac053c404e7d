"""Every public name and its public methods have a docstring; what a function raises is in it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

import vectomy

TIER = "tiny"


def members(name: str) -> Iterator[tuple[str, Any]]:
    """The name itself, and of a class its methods and properties."""
    item = getattr(vectomy, name)
    yield name, item
    if inspect.isclass(item):
        for part, value in vars(item).items():
            if part.startswith("_") or part == "model_config":
                continue
            value = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            value = value.fget if isinstance(value, property) else value
            if inspect.isfunction(value):
                yield f"{name}.{part}", value


@pytest.mark.parametrize("name", vectomy.__all__)
def test_a_public_name_is_explained(name: str) -> None:
    missing = [place for place, item in members(name) if not (item.__doc__ or "").strip()]
    assert not missing
    item = getattr(vectomy, name)
    if inspect.isfunction(item):
        assert "Raises" in (item.__doc__ or ""), name
    elif not issubclass(item, BaseModel | Exception):
        # The docstring that a dataclass makes of its fields explains nothing.
        assert not (item.__doc__ or "").startswith(f"{name}(")


def test_tab_shows_every_public_name_and_the_version() -> None:
    from importlib.metadata import version

    assert set(vectomy.__all__) <= set(dir(vectomy))
    assert set(vectomy.__all__) == set(vectomy._HOMES)
    assert vectomy.__version__ == version("vectomy")
    assert {"wrap", "capture", "intervene"} <= set(vectomy.__all__)
