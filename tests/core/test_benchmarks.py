"""Benchmarks take from each other and from the tests' helpers only what is there: they run seldom,
and nothing else would notice.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TIER = "unit"

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(ROOT.glob("benchmarks/**/*.py"))


def file_of(module: str) -> Path | None:
    """The benchmark or helper of this name."""
    for folder in (ROOT / "benchmarks", ROOT / "tests" / "helpers"):
        place = folder.joinpath(*module.split("."))
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file():
                return file
    return None


def names_of(file: Path) -> set[str]:
    """Names that a module defines or imports at its top level."""
    names: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
    return names


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_benchmark_imports_is_there(benchmark: Path) -> None:
    for node in ast.walk(ast.parse(benchmark.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            file = file_of(node.module)
            if file is not None and file.name != "__init__.py":
                assert {alias.name for alias in node.names} <= names_of(file), node.module
            elif file is not None:
                wanted = {alias.name for alias in node.names if not file_of(f"{node.module}.{alias.name}")}
                assert wanted <= names_of(file), node.module
