"""An HTML page as its elements, with whatever is out of balance in it, and what every page of ours
holds to.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import re
from html.parser import HTMLParser

Element = tuple[str, dict[str, str | None], str]
VOID = {"meta", "input", "br", "hr", "img", "link", "wbr"}


class _Parser(HTMLParser):
    """The page as elements: (tag, attributes, text inside), and whatever is out of balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.found: list[Element] = []
        self.problems: list[str] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag, *_ in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            self.found.append((tag, dict(attrs), ""))
        else:
            self.open.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            self.problems.append(
                f"</{tag}> at {self.getpos()} closes {self.open[-1][0] if self.open else 'nothing'}"
            )
            return
        name, attributes, words = self.open.pop()
        self.found.append((name, attributes, "".join(words)))

    def handle_data(self, data: str) -> None:
        for _, _, words in self.open:
            words.append(data)


class Page:
    """A page, parsed when a test first asks for an element: many look at the text alone."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def _parsed(self) -> _Parser:
        return _Parser(self.text)

    @property
    def found(self) -> list[Element]:
        return self._parsed.found

    @property
    def problems(self) -> list[str]:
        return self._parsed.problems

    def having(self, **wanted: str) -> list[Element]:
        """Elements whose attributes hold each wanted word."""
        return [
            element
            for element in self.found
            if all(word in (element[1].get(key.rstrip("_")) or "").split() for key, word in wanted.items())
        ]

    def tagged(self, tag: str) -> list[Element]:
        return [element for element in self.found if element[0] == tag]


def assert_well_formed(text: str) -> Page:
    """Balanced, one h1, headings without gaps, unique ids, and no reference to an unknown id."""
    found = Page(text)
    assert text.startswith("<!doctype html>")
    assert found.problems == []
    assert len(found.tagged("h1")) == 1
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", text)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes, _ in found.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes, _ in found.found:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        assert (attributes.get("href") or "#result")[1:] in ids
    return found


def assert_told_in_words(found: Page) -> None:
    """Every figure has a title and a description, every table a caption, every head of a table a
    scope.
    """
    ids = {attributes.get("id"): words for _, attributes, words in found.found}
    for _, attributes, _ in found.having(role="img"):
        title, description = (attributes["aria-labelledby"] or "").split()
        assert ids[title]
        assert len(ids[description]) > 20
    assert len(found.tagged("caption")) == len(found.tagged("table"))
    assert all(words.strip() for *_, words in found.tagged("caption"))
    assert all(
        attributes.get("scope") in ("col", "row", "colgroup") for _, attributes, _ in found.tagged("th")
    )


def assert_reaches_for_nothing(found: Page, text: str) -> None:
    """One script, which the policy of the page names by its hash, and nothing from elsewhere."""
    assert not re.search(r"https?://|url\(|@import", text)
    assert not any("src" in attributes for _, attributes, _ in found.found)
    ((_, attributes, script),) = found.tagged("script")
    assert attributes == {}
    (policy,) = (
        a["content"] for _, a, _ in found.tagged("meta") if a.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def assert_stays_text(text: str, hostile: str, at_least: int) -> None:
    """What was written as text is text: no element, attribute or script of its own came of it."""
    found = Page(text)
    assert found.problems == []
    assert len(found.tagged("script")) == 1
    assert found.tagged("img") == []
    assert not any(name.startswith("on") for _, attributes, _ in found.found for name in attributes)
    everything = "".join(words for tag, _, words in found.found if tag == "html")
    assert everything.count(hostile) > at_least
    assert text.count(hostile) == 0
