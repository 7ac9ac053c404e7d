"""The examples of docs/steering.md, run from top to bottom on a tiny model."""

import re
from pathlib import Path

import torch
from tiny import hooked, load, tokens

TIER = "tiny"

PAGE = Path(__file__).parents[2] / "docs" / "steering.md"


def test_the_examples_run(tiny_of) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(code) >= 6
    tiny = tiny_of("llama")
    names = {"folder": tiny.folder, "model": load(tiny.folder), "ids": tokens()}
    with torch.no_grad():
        for block in code:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 (our own page)
    assert not hooked(names["model"])
