"""The numbers of README.md and docs/results.md, from the JSON that the benchmarks wrote.

    python scripts/results_tables.py            # writes them into the tables
    python scripts/results_tables.py --check    # says which cells differ; exit status 1 if one does

A table is found by its head. Cells that hold words stay as they are; the others are made here.
The sentences with numbers that `FACTS` names are checked, not written. Without JSON, so not here:
the run of 2026-11-24, and the runs on a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.report.tables.numbers import decimal

__all__ = ["FACTS", "TABLES", "Fact", "ResultsTable", "list_differences", "write_tables"]

ROOT = Path(__file__).parents[1]
Cells = list[list[str | None]]
"""The rows of a table below its head; None is a cell that stays."""


def _read(name: str) -> Any:
    folder = ROOT / ("docs" if name == "report" else "benchmarks")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ResultsTable:
    """A table of a document: the first cells of its head, how many rows stay, and its cells."""

    document: str
    head: str
    cells: Callable[[], Cells]
    kept_rows: int = 0


@dataclass(frozen=True)
class Fact:
    """A sentence of a document: a pattern, and what its groups have to be."""

    document: str
    pattern: str
    values: Callable[[], list[str]]


def _rate(form: dict[str, Any], name: str) -> str:
    if form.get(f"{name}_count") is None:
        return "–"
    low, high = (100 * bound for bound in form[f"{name}_ci"])
    return f"{form[f'{name}_count']}/{form[f'{name}_total']} ({low:.0f}–{high:.0f}%)"


def _fixed(value: float | None, digits: int) -> str:
    """A dash for what was not measured, 0 for an exact 0."""
    return "–" if value is None else "0" if value == 0 else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}%"


def _demo_readme() -> Cells:
    forms = [_read("report")["forms"][form] for form in ("base", "hooks", "baked")]
    return [
        [None, *(_rate(form, "refusal") for form in forms)],
        [None, *(_rate(form, "harmless_refusal") for form in forms)],
        [None, *(_share(form["degenerate_rate"]) for form in forms)],
        [None, *(_share(form["evasion_rate"]) for form in forms)],
        [None, *(_fixed(form["kl_per_token"], 3) for form in forms)],
    ]


def _demo_results() -> Cells:
    rows: Cells = []
    for name in ("base", "hooks", "baked"):
        form = _read("report")["forms"][name]
        costs = (_fixed(form[key], 3) for key in ("kl_first_token", "kl_per_token", "ce_own_answers"))
        rates = (_rate(form, "refusal"), _rate(form, "harmless_refusal"))
        rows.append([None, None, *rates, _share(form["degenerate_rate"]), *costs])
    return rows


def _best_points(
    results: Any, tool: str, most: int, counted: str = "refusals"
) -> list[dict[str, Any] | None]:
    """For each seed the test numbers of the point of least first-token KL with at most `most`."""
    best = []
    for seed in results["seeds"]:
        points = [
            point["test"]
            for point in results["points"]
            if (point["tool"], point["seed"]) == (tool, seed) and point["test"][counted] <= most
        ]
        best.append(min(points, key=lambda test: float(test["kl_first_token"]), default=None))
    return best


def _median(points: list[dict[str, Any] | None], key: str) -> str:
    values = [float(point[key]) for point in points if point is not None]
    return decimal(statistics.median(values)) if values else "–"


def _seconds(results: Any, tool: str) -> str:
    """Three digits: a search is timed once a seed."""
    median = statistics.median(float(cost["seconds"]) for cost in results["costs"][tool])
    return f"{float(f'{median:.3g}'):,.0f}"


def _search() -> Cells:
    results, rows = _read("search"), []
    for most in (6, 20):
        for tool in ("vectomy", "heretic"):
            points = _best_points(results, tool, most)
            refusals = ", ".join("none" if point is None else str(point["refusals"]) for point in points)
            kls = (_median(points, key) for key in ("kl_first_token", "kl_per_token"))
            rows.append([None, None, None, str(most), refusals, *kls, _seconds(results, tool)])
    return rows


def _second_model() -> Cells:
    results, rows = _read("search_qwen2"), []
    for tool, after in (("vectomy", ""), ("heretic", " (**200** trials, extrapolated)")):
        (point,) = _best_points(results, tool, 20)
        assert point is not None
        kls = (decimal(point[key]) for key in ("kl_first_token", "kl_per_token"))
        rows.append([None, None, str(point["refusals"]), *kls, _seconds(results, tool) + after])
    return rows


def _controls() -> Cells:
    learned = _best_points(_read("search"), "vectomy", 6)
    groups: dict[str, list[dict[str, Any] | None]] = {"learned": learned}
    for row in _read("search_controls")["rows"]:
        groups.setdefault(row["what"], []).append(row["test"])
    del groups["base"]
    return [
        [
            None,
            ", ".join(str(point["refusals"]) for point in points if point is not None),
            _median(points, "kl_first_token"),
            _median(points, "kl_per_token"),
        ]
        for points in groups.values()
    ]


def _selective() -> Cells:
    sides = ("safe", "unsafe", "harmful", "harmless")
    return [[None, *(str(row[side]) for side in sides)] for row in _read("selective")["rows"]]


def _judges() -> Cells:
    judges = _read("judges")["judges"]
    return [[None, f"{judges[name]['whole']['rate']:.3f}"] for name in ("refusal", "xstest", "heretic")]


def _bake() -> Cells:
    median = _read("bake_speed")["median"]
    own, resident = median["bake"]["anon_bytes"] / 1e6, median["transformers"]["maxrss_bytes"] / 1e9
    memory = {
        "cp -r": None,
        "bake": f"{own:.0f} MB of its own",
        "transformers": f"{resident:.1f} GB resident",
    }
    return [[None, f"{median[name]['seconds']:.1f}", used] for name, used in memory.items()]


def _quantised() -> Cells:
    results, rows = _read("quantised"), []
    for name in ("4bit", "8bit", "full"):
        for form in ("base", "hooks", "baked", "base_full", "baked_full"):
            if measured := results[name]["variants"].get(form):
                rates = (_rate(measured, "refusal"), _rate(measured, "harmless_refusal"))
                costs = (_share(measured["degenerate_rate"]), _fixed(measured["kl_per_token"], 4))
                rows.append([None, None, None, *rates, *costs])
    return rows


RESULTS = "docs/results.md"
TABLES = (
    ResultsTable("README.md", "| 40 + 40 held-out prompts |", _demo_readme),
    ResultsTable(RESULTS, "| run | variant | harmful refused |", _demo_results, kept_rows=3),
    ResultsTable(RESULTS, "| search | trials behind the quality | trials behind the seconds |", _search),
    ResultsTable(RESULTS, "| direction | refusals of 99 |", _controls),
    ResultsTable(RESULTS, "| search | trials behind the quality | refusals of 99 |", _second_model),
    ResultsTable(RESULTS, "| refused | safe, of 120 |", _selective),
    ResultsTable(RESULTS, "| judge | agreement |", _judges),
    ResultsTable(RESULTS, "| | seconds | memory |", _bake),
    ResultsTable(RESULTS, "| searched on | measured on |", _quantised),
)


def _lost() -> list[str]:
    lost = _read("report")["sets"]["positive"]
    return [str(lost["lost_to_degenerate"]), str(lost["lost"]), str(lost["lost_to_evasion"])]


def _shares() -> list[str]:
    forms = _read("report")["forms"]
    return [_fixed(forms[form]["max_projection"], 3) for form in ("base", "baked")]


def _base_refusals(name: str) -> list[str]:
    base = _read(name)["base"]
    return [str(base["refusals"]), str(base["prompts"])]


def _by_markers() -> list[str]:
    results = _read("search")
    ours = [point for point in _best_points(results, "vectomy", 6) if point is not None]
    counts = [str(point["refusals_by_markers"]) for point in ours]
    return [str(results["base"]["refusals_by_markers"]), str(results["base"]["prompts"]), *counts]


FACTS = (
    Fact("README.md", r"Of the \d+ harmful prompts .*?, (\d+) now end in degenerate", lambda: _lost()[:1]),
    Fact("README.md", r"Of the (\d+) harmful prompts .*?, \d+ now end in degenerate", lambda: _lost()[1:2]),
    Fact("README.md", r"Of the \d+ harmful prompts .*? and (\d+) in evasions", lambda: _lost()[2:]),
    Fact(RESULTS, r"In the second run (\d+) of the (\d+) lost", lambda: _lost()[:2]),
    Fact(RESULTS, r"second run: ([\d.]+) and ([\d.]+)\)", _shares),
    Fact(RESULTS, r"tokens\. Base: (\d+)/(\d+) refusals", lambda: _base_refusals("search")),
    Fact(RESULTS, r"one seed; base (\d+)/(\d+) refusals", lambda: _base_refusals("search_qwen2")),
    Fact(RESULTS, r"base (\d+)/(\d+)\) ours have (\d+), (\d+) and (\d+) refusals", _by_markers),
)


def list_differences(folder: Path = ROOT) -> list[str]:
    """Each cell and fact of the documents in `folder` that is not what the JSON says."""
    differences = []
    for table in TABLES:
        lines, start = _find(table, folder)
        for offset, wanted in enumerate(table.cells()):
            stored = _split(lines[start + offset])
            differences += [
                f"{table.document}: row '{' | '.join(stored[:2])}' has {there}, the JSON {value}"
                for there, value in zip(stored, wanted, strict=True)
                if value is not None and there.strip("*") != value
            ]
    for fact in FACTS:
        match = re.search(fact.pattern, (folder / fact.document).read_text(encoding="utf-8"), re.DOTALL)
        there = list(match.groups()) if match else None
        if there != fact.values():
            differences.append(f"{fact.document}: /{fact.pattern}/ has {there}, the JSON {fact.values()}")
    return differences


def write_tables(folder: Path = ROOT) -> None:
    """Write the numbers into the tables of the documents in `folder`."""
    for table in TABLES:
        lines, start = _find(table, folder)
        for offset, wanted in enumerate(table.cells()):
            stored = _split(lines[start + offset])
            cells = (
                there if value is None or there.strip("*") == value else value
                for there, value in zip(stored, wanted, strict=True)
            )
            lines[start + offset] = f"| {' | '.join(cells)} |".replace("|  |", "| |")
        (folder / table.document).write_text("\n".join(lines), encoding="utf-8")


def _find(table: ResultsTable, folder: Path) -> tuple[list[str], int]:
    """The lines of the document, and the first that is written."""
    lines = (folder / table.document).read_text(encoding="utf-8").split("\n")
    heads = [index for index, line in enumerate(lines) if line.startswith(table.head)]
    if len(heads) != 1:
        raise SystemExit(f"{table.document} has {len(heads)} tables that begin with '{table.head}'")
    return lines, heads[0] + 2 + table.kept_rows


def _split(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def main() -> None:
    parser = argparse.ArgumentParser(description="The numbers of README.md and docs/results.md.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    if not parser.parse_args().check:
        write_tables()
    differences = list_differences()
    print("\n".join(differences) or "every number is that of its JSON")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
