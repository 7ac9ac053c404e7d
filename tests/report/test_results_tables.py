"""Every number in the tables of README.md and docs/results.md is that of its JSON."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from results_tables import FACTS, ROOT, TABLES, list_differences, write_tables

TIER = "unit"

DOCUMENTS = ("README.md", "docs/results.md")


def copied(folder: Path) -> Path:
    for name in DOCUMENTS:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def test_the_documents_hold_the_numbers_of_the_json() -> None:
    assert list_differences() == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.head.strip("| "))
def test_a_number_of_a_table_that_is_changed_is_found_and_written_again(table: Any, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    file = folder / table.document
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")
    row = next(index for index, line in enumerate(lines) if line.startswith(table.head)) + 2 + table.kept_rows
    numbers = [index for index, cell in enumerate(table.cells()[0]) if cell is not None]
    cells = lines[row].split("|")
    cells[1 + numbers[-1]] = " 12345 "
    lines[row] = "|".join(cells)
    file.write_text("\n".join(lines), encoding="utf-8")
    (found,) = list_differences(folder)
    assert "has 12345, the JSON" in found
    write_tables(folder)
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.pattern[:24])
def test_a_number_of_a_sentence_that_is_changed_is_found(fact: Any, tmp_path: Path) -> None:
    file = copied(tmp_path) / fact.document
    text = file.read_text(encoding="utf-8")
    match = re.search(fact.pattern, text, re.DOTALL)
    assert match is not None
    start, end = match.span(1)
    file.write_text(text[:start] + "987" + text[end:], encoding="utf-8")
    found = list_differences(tmp_path)
    assert any(line.startswith(f"{fact.document}: /{fact.pattern}/") and "987" in line for line in found)


@pytest.mark.parametrize("name", ["search", "search_qwen2", "search_controls"])
def test_what_was_not_counted_is_not_written_as_0(name: str) -> None:
    """The base shows refusals by every count; a count of 0 for it was never made."""
    results = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
    bases = [results["base"]] if "base" in results else [row["test"] for row in results["rows"][:1]]
    for base in bases:
        assert all(value != 0 for key, value in base.items() if key.startswith("refusals"))
