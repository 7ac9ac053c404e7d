"""List the addresses outside that the pages link to, with the pages, for a person to open.

    python scripts/external_links.py

Links within the repository are checked by tests/docs/test_links.py and by `make docs`; these are
not, since neither uses a network.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def external_links() -> dict[str, list[str]]:
    """The pages by the address that they link to."""
    result: dict[str, list[str]] = defaultdict(list)
    for page in PAGES:
        for address in re.findall(r"\]\((https?://[^)\s]+)\)", page.read_text(encoding="utf-8")):
            result[address].append(page.relative_to(ROOT).as_posix())
    return dict(sorted(result.items()))


def main() -> None:
    for address, pages in external_links().items():
        print(address, *sorted(set(pages)))


if __name__ == "__main__":
    main()
