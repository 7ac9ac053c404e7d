"""The log of experiments: its index is made from the headings, and every heading has its form."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
LOG = ROOT / "docs" / "log"
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "log_index.py"))


def test_the_index_is_current() -> None:
    assert (LOG / "README.md").read_text(encoding="utf-8") == SCRIPT["index"](), (
        "run python scripts/log_index.py"
    )


@pytest.mark.parametrize(
    "path", sorted(set(LOG.glob("*.md")) - {LOG / "README.md"}), ids=lambda path: path.stem
)
def test_entries_have_a_date_a_question_and_a_verdict(path: Path) -> None:
    headings = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("## ")]
    dates = [SCRIPT["HEADING"].match(line)[1] for line in headings]
    verdicts = [SCRIPT["HEADING"].match(line)[3] for line in headings]
    assert dates
    assert dates == sorted(dates)
    assert all("?" in line for line in headings)
    assert all(any(w in v for w in ("kept", "dropped")) for v in verdicts), verdicts


def test_a_heading_without_a_verdict_is_an_error() -> None:
    with pytest.raises(ValueError, match="VERDICT"):
        SCRIPT["entry"]("judge.md", "## 2026-11-25: A judge?")
