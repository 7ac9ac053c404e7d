"""The site of `make docs` holds every page and every public name, and asks for nothing elsewhere.
mkdocs itself checks links and anchors (strict); it is no package of the tests.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import vectomy

TIER = "unit"

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
# Folders that scripts/site_hooks.py lists by itself.
LISTED = ("decisions", "log")


def test_every_page_is_in_the_navigation_once() -> None:
    named = re.findall(r"([\w/-]+\.md)$", CONFIG, re.M)
    pages = [str(path.relative_to(DOCS).as_posix()) for path in DOCS.rglob("*.md")]
    assert sorted(named) == sorted(page for page in pages if page.split("/")[0] not in LISTED)


def test_every_public_name_is_documented_once() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    names = re.findall(r"^::: vectomy\.(\w+)$", text, re.M)
    assert sorted(names) == sorted(vectomy.__all__)


def test_nothing_is_fetched_from_elsewhere() -> None:
    """Fonts and scripts of the theme come from Google and others unless they are switched off."""
    assert re.search(r"^  font: false$", CONFIG, re.M)
    assert "http" not in CONFIG
    for path in (*DOCS.rglob("*.css"), *DOCS.rglob("*.svg"), *DOCS.rglob("*.js")):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert not re.search(r"(?:src|href|url|@import)[^\n]{0,4}https?:", text), path
    pages = [path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")]
    assert not [text for text in pages if re.search(r"!\[[^\]]*\]\(https?:|<(?:script|iframe|img)\b", text)]


@pytest.mark.parametrize(
    "name", sorted(runpy.run_path(str(ROOT / "scripts" / "site_pictures.py"))["PICTURES"])
)
def test_the_picture_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "site_pictures.py"))
    picture = (DOCS / "explanation" / f"{name}.svg").read_text(encoding="utf-8")
    assert picture == script["PICTURES"][name](), "run python scripts/site_pictures.py"


def test_the_page_of_configuration_keys_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "config_docs.py"))["page"]()
    assert (DOCS / "configuration.md").read_text(encoding="utf-8") == page, (
        "run python scripts/config_docs.py"
    )
