"""Every row of a table in README, CONTRIBUTING and docs has as many cells as the table has columns.

A bar in a text is escaped, or it ends the cell.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def uneven(text: str) -> list[str]:
    """The rows that differ from the head of their table."""
    result: list[str] = []
    head: int | None = None
    for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines():
        if not line.startswith("|"):
            head = None
            continue
        head = cells(line) if head is None else head
        if cells(line) != head:
            result.append(line[:90])
    return result


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rows_have_the_cells_of_their_head(page: Path) -> None:
    assert uneven(page.read_text(encoding="utf-8")) == []


def test_a_bar_in_a_text_is_seen() -> None:
    table = "| option | meaning |\n|---|---|\n| `--kl` | KL(base || edited) |\n| `a\\|b` | fine |\n"
    assert uneven(table) == ["| `--kl` | KL(base || edited) |"]
