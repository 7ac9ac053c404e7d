"""Every block of the pages runs in a test, or the page says why not (helpers/page_blocks.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from page_blocks import DOCS, FENCE, PARSED, ROOT, RUNNABLE, blocks_of

TIER = "unit"

# Records of what was run: their commands are history.
HISTORY = ("log", "decisions")
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if path.parent.name not in HISTORY]
PAGES.append(ROOT / "README.md")
# Their commands are run by tests/docs/test_howto_commands.py.
RUN = ("howto", "tutorial.md")


def open_blocks(page: Path) -> list[str]:
    """The blocks that are neither run nor marked."""
    text = page.read_text(encoding="utf-8")
    if PARSED in text or page.name == "cli.md":
        # Python of docs/ is run by tests/docs/test_python_blocks.py.
        python = [] if DOCS in page.parents else [b for b in blocks_of(page) if b.language == "python"]
        return [block.name for block in python if block.reason is None]
    runs = page.name in RUN or page.parent.name in RUN
    left = [
        block.name
        for block in blocks_of(page)
        if block.reason is None
        and (
            block.language == ""
            or (block.language in ("sh", "console") and not (runs and _is_vectomy(block.text)))
        )
    ]
    plain = re.findall(r"^(?: {4})(vectomy .*)$", FENCE.sub("", text), re.M)
    return left + plain


def _is_vectomy(text: str) -> bool:
    lines = text.replace("\\\n", " ").splitlines()
    return all(line.removeprefix("$ ").startswith("vectomy ") for line in lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_marked(page: Path) -> None:
    assert not open_blocks(page)


def test_a_mark_stands_before_a_block_that_could_run() -> None:
    for page in PAGES:
        marks = page.read_text(encoding="utf-8").count("<!-- not run: ")
        marked = [block for block in blocks_of(page) if block.reason]
        assert len(marked) == marks, page
        assert {block.language for block in marked} <= {*RUNNABLE, "yaml"}, page


def test_an_open_block_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    for block in ("```sh\nvectomy traits\n```\n", "    vectomy traits\n", "```\nvectomy traits\n```\n"):
        page.write_text(f"# A page\n\n{block}", encoding="utf-8")
        assert len(open_blocks(page)) == 1, block
    page.write_text("# A page\n\n<!-- not run: a network -->\n```sh\nvectomy traits\n```\n", encoding="utf-8")
    assert not open_blocks(page)
