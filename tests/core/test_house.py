"""What holds the house together: few rooms, a name for one thing, a fact in one place."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "vectomy"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def lines_with(pattern: str, *, outside: str = "") -> list[str]:
    """`FILE: LINE` for each line of the package that the pattern is found in."""
    return [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in MODULES
        if not (outside and path.is_relative_to(PACKAGE / outside))
        for line in path.read_text(encoding="utf-8").split("\n")
        if re.search(pattern, line)
    ]


def test_there_are_at_most_fifteen_rooms_and_nothing_beside_them() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0] for path in MODULES} - {"__init__.py", "__main__.py"}
    assert len(rooms) <= 15, sorted(rooms)


def test_names_of_modules_occur_once() -> None:
    names = Counter(path.name for path in MODULES if not path.name.startswith("__"))
    assert not [name for name, count in names.items() if count > 1]


def test_names_of_classes_occur_once() -> None:
    names = Counter(
        node.name
        for path in MODULES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert not [name for name, count in names.items() if count > 1]


@pytest.mark.parametrize(
    ("pattern", "most", "outside"),
    [
        # One driver, the last norm's bias, checkpoint or path, and MXFP4's layout: a home each.
        ("done before with the same inputs", 1, ""),
        (r"norms\[-1:\]", 1, ""),
        (r"isinstance\(.*, Checkpoint\) else", 1, ""),
        ('"mxfp4"', 0, "checkpoint"),
    ],
)
def test_a_fact_has_one_home(pattern: str, most: int, outside: str) -> None:
    found = lines_with(pattern, outside=outside)
    assert len(found) <= most, found


def test_untyped_values_stay_few() -> None:
    untyped = sum(
        len(re.findall(r"(?:dict|Mapping)\[str, Any\]", path.read_text(encoding="utf-8"))) for path in MODULES
    )
    assert untyped < 150
    report = [path for path in (PACKAGE / "report").rglob("*") if path.suffix in (".py", ".jinja")]
    assert sum(path.read_text(encoding="utf-8").count("or {}") for path in report) < 10


def test_no_line_is_exempt_from_its_width() -> None:
    """ruff checks the widths (pyproject.toml); nothing switches that or the formatter off."""
    exempt = re.compile(r"#\s*(fmt|ruff):\s*(skip|off|noqa)|#\s*noqa:.*\b(E501|W505)|#\s*noqa\s*$", re.M)
    paths = [
        path for room in ("src", "tests", "scripts", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    assert len(paths) > len(MODULES)
    assert not [path for path in paths if exempt.search(path.read_text("utf-8"))]


def test_no_test_imports_another() -> None:
    tests = (ROOT / "tests").rglob("test_*.py")
    assert not [path for path in tests if re.search(r"^from test_", path.read_text("utf-8"), re.M)]
