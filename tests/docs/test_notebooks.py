"""The notebooks run from top to bottom, here on the tiny chat model; their stored outputs are those
of the demo model (scripts/run_notebook.py).
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import tiny_chat

TIER = "chat"

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "run_notebook.py"))
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
# Another one is for hosted machines: it installs packages and fetches a model.
OURS = ("directions", "edit")


def printed(notebook: dict[str, Any]) -> str:
    return "".join(
        line
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        for line in (*output.get("text", ()), *output.get("data", {}).get("text/plain", ()))
    )


@pytest.mark.parametrize("name", OURS)
def test_the_notebook_runs(name: str, tmp_path: Path) -> None:
    for side, nouns in (("harmful", tiny_chat.NIGHT), ("harmless", tiny_chat.DAY)):
        (tmp_path / f"{side}.json").write_text(json.dumps(tiny_chat.texts(nouns)), encoding="utf-8")
    notebook = SCRIPT["read_notebook"](NOTEBOOKS[name])
    settings = {
        "MODEL": str(tiny_chat.folder()),
        "HARMFUL": str(tmp_path / "harmful.json"),
        "HARMLESS": str(tmp_path / "harmless.json"),
        "OUT": str(tmp_path / "run"),
        "COUNT": 8,
    }
    SCRIPT["run_cells"](notebook, settings)
    text = printed(notebook)
    assert "refused" in text


@pytest.mark.parametrize("name", ["directions"])
def test_the_stored_outputs_are_of_every_cell_in_order(name: str) -> None:
    cells = [
        cell for cell in SCRIPT["read_notebook"](NOTEBOOKS[name])["cells"] if cell["cell_type"] == "code"
    ]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    text = printed({"cells": cells})
    assert "refused" in text
    assert not [line for line in text.splitlines() if "/root/" in line or "/home/" in line or "/tmp" in line]
