"""The browser of the tests that look at the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from chromium import Browser, installed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = installed()
    if path is None:
        pytest.skip(
            "NO BROWSER: the reports were not looked at; put chromium on PATH or name one in VECTOMY_CHROMIUM"
        )
    with Browser(path) as started:
        yield started
