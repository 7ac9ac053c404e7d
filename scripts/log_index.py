"""Write docs/log/README.md, the index of the log, from the headings of its files.

    python scripts/log_index.py

The heading of an entry is `## DATE: QUESTION **VERDICT**`; the verdict says kept or dropped.
"""

from __future__ import annotations

import re
from pathlib import Path

LOG = Path(__file__).resolve().parent.parent / "docs" / "log"
HEADING = re.compile(r"^## (\d{4}-\d\d-\d\d): (.+?) \*\*(.+)\*\*$")
ABOUT = """# Log of experiments

Made by `python scripts/log_index.py` from the headings of the files in this folder; not written
by hand.
Unless an entry says otherwise: two cores, bfloat16, no GPU. No entry is ever removed, failed
experiments included.

An entry has a heading `## DATE: QUESTION **VERDICT**` (the verdict says *kept* or *dropped*), a table
where there are several numbers, and last the command that reproduces it. Newest entries are last.
Terms are in the [glossary](../glossary.md).
"""


def index() -> str:
    """The text of docs/log/README.md."""
    parts = [ABOUT]
    for path in sorted(LOG.glob("*.md")):
        if path.name == "README.md":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [entry(path.name, line) for line in lines if line.startswith("## ")]
        title = lines[0].removeprefix("# ")
        parts.append(
            f"## [{title}]({path.name})\n\n| date | question | verdict |\n|---|---|---|\n" + "".join(rows)
        )
    return "\n".join(parts)


def entry(name: str, heading: str) -> str:
    """One row of the index.

    Raises:
        ValueError: The heading is not of the form `## DATE: QUESTION **VERDICT**`.
    """
    match = HEADING.match(heading)
    if match is None:
        raise ValueError(f"{name}: the heading {heading!r} is not `## DATE: QUESTION **VERDICT**`")
    date, question, verdict = match.groups()
    anchor = re.sub(r"[^\w\- ]", "", heading.removeprefix("## ").lower()).replace(" ", "-")
    return f"| {date} | [{question}]({name}#{anchor}) | {verdict} |\n"


if __name__ == "__main__":
    (LOG / "README.md").write_text(index(), encoding="utf-8")
