"""The fenced blocks of the pages of docs/, and which of them a test runs.

A block is run in a test, or stands below `<!-- not run: REASON -->`. Pages whose blocks are only
parsed (tests/docs/test_commands.py) say so once: `PARSED`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
PARSED = "<!-- commands of this page are parsed, not run -->"
RUNNABLE = ("python", "sh", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, language, text, and why it is not run (None if it is)."""

    page: Path
    language: str
    text: str
    reason: str | None

    @property
    def name(self) -> str:
        """The page and the first line, for the names of tests."""
        return f"{self.page.stem}: {self.text.splitlines()[0][:40]}"


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [Block(page, item["language"], item["text"], item["reason"]) for item in FENCE.finditer(text)]


def commands_of(page: Path) -> list[str]:
    """The command lines of the shell blocks that are run, without the prompt `$`."""
    return [
        line.removeprefix("$ ")
        for block in blocks_of(page)
        if block.language in ("sh", "console") and block.reason is None
        for line in block.text.replace("\\\n", " ").splitlines()
        if line.removeprefix("$ ").startswith("vectomy ")
    ]


def python_of(page: Path) -> list[str]:
    """The Python blocks that are run, from top to bottom."""
    return [block.text for block in blocks_of(page) if block.language == "python" and block.reason is None]
