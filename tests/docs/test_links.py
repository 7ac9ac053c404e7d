"""README, CONTRIBUTING and the docs link to files that exist, and name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)")
FILE = re.compile(r"(?<![\w./])((?:\w+/)+\w+\.(?:py|toml|json|jsonl|yaml))\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    places = (ROOT, ROOT / "src" / "vectomy", ROOT / "docs")
    names = [
        name
        for name in FILE.findall(text)
        if "NAME" not in name and "MODULE" not in name and not name.startswith("vectomy/")
    ]
    assert [name for name in names if not any((place / name).exists() for place in places)] == []
