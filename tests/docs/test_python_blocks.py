"""The Python blocks of the pages, run from top to bottom on a tiny model: `folder` is its folder,
`model` the same model loaded with transformers, `ids` three prompts as token ids.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from page_blocks import DOCS, python_of
from tiny import hooked, load, tokens

TIER = "tiny"

PAGES = [page for page in sorted(DOCS.rglob("*.md")) if python_of(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_run(page: Path, tiny_of) -> None:
    tiny = tiny_of("llama")
    names = {"folder": tiny.folder, "model": load(tiny.folder), "ids": tokens()}
    with torch.no_grad():
        for block in python_of(page):
            exec(compile(block, str(page), "exec"), names)  # noqa: S102 (our own page)
    assert not hooked(names["model"])


def test_there_are_blocks() -> None:
    assert sum(len(python_of(page)) for page in PAGES) > 6
