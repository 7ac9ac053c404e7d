"""docs/glossary.md names terms that the project uses, each once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"


def entries() -> list[tuple[str, str]]:
    """Pairs of a term and its meaning."""
    text = GLOSSARY.read_text(encoding="utf-8").split("## Reserved words")[0]
    rows = [line.split("|", 2)[1:] for line in text.splitlines() if line.startswith("| ")]
    return [
        (term, meaning) for terms, meaning in rows for term in terms.strip().split(" / ") if term != "term"
    ]


def normalized(text: str) -> str:
    return re.sub(r"[\s_]+", " ", text).lower()


@pytest.fixture(scope="module")
def words() -> str:
    sources = [path for room in ("src", "docs") for path in (ROOT / room).rglob("*.*")]
    return " ".join(
        normalized(path.read_text(encoding="utf-8"))
        for path in (*sources, ROOT / "README.md")
        if path.suffix in (".py", ".md", ".jinja", ".toml") and path != GLOSSARY
    )


def test_every_term_stands_once() -> None:
    terms = [term for term, _ in entries()]
    assert len(terms) == len(set(terms)) > 50


@pytest.mark.parametrize(("term", "meaning"), entries(), ids=lambda value: value[:30])
def test_the_project_uses_the_term(term: str, meaning: str, words: str) -> None:
    """In docs or code: the term itself, or the code that its line names."""
    names = (term.removesuffix(" splits"), *re.findall(r"`([^`]+)`", meaning)[:1])
    assert any(re.search(rf"(?<!\w){re.escape(normalized(name))}", words) for name in names), term
