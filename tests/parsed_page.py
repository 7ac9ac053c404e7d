"""An HTML page as its elements, with whatever is out of balance in it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "hr", "img", "link", "wbr"}


class Page(HTMLParser):
    """The page as elements: (tag, attributes, text inside), and whatever is out of balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.found: list[tuple[str, dict[str, str | None], str]] = []
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
            self.problems.append(f"</{tag}> at {self.getpos()} closes {self.open[-1][0] if self.open else 'nothing'}")
            return
        name, attributes, words = self.open.pop()
        self.found.append((name, attributes, "".join(words)))

    def handle_data(self, data: str) -> None:
        for _, _, words in self.open:
            words.append(data)

    def having(self, **wanted: str) -> list[tuple[str, dict[str, str | None], str]]:
        """Elements whose attributes hold each wanted word."""
        return [
            one
            for one in self.found
            if all(word in (one[1].get(key.rstrip("_")) or "").split() for key, word in wanted.items())
        ]

    def tagged(self, tag: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [one for one in self.found if one[0] == tag]
