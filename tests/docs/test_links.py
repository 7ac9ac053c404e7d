"""README, CONTRIBUTING and the docs link to files that exist, and name files that exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

TIER = "unit"

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


NAME = re.compile(r"(?<![\w./-])vectomy((?:\.[A-Za-z]\w*)+)")
IMPORT = re.compile(r"^from (vectomy[\w.]*) import (.+)$", re.M)


def resolve(name: str) -> object:
    """The module or attribute that a dotted name means."""
    parts = name.split(".")
    value: object = importlib.import_module(parts[0])
    for end in range(1, len(parts)):
        try:
            value = getattr(value, parts[end])
        except AttributeError:
            value = importlib.import_module(".".join(parts[: end + 1]))
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_of_the_package_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in NAME.findall(text):
        resolve("vectomy" + name)
    for module, names in IMPORT.findall(text):
        for name in names.split(", "):
            resolve(f"{module}.{name}")
