"""Every relative link of README, CONTRIBUTING and docs leads to a file and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def links(page: Path) -> list[str]:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            dead.append(target)
    assert not dead


def test_there_are_links_and_anchors_to_check() -> None:
    every = [target for page in PAGES for target in links(page)]
    assert len(every) > 50
    assert any("#" in target for target in every)


def test_the_places_that_contributors_are_sent_to_exist() -> None:
    """`search/NAME.py` is a new file; its folder exists."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`([a-z_]+/[\w./-]*)`", text))
    known = {place: re.sub(r"[^/]*(NAME|TOPIC|ROOM).*", "", place) for place in places}
    assert len(known) > 20
    roots = (ROOT / "src" / "vectomy", ROOT)
    assert not [place for place, path in known.items() if not any((root / path).exists() for root in roots)]
