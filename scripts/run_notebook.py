"""Run the cells of a notebook from top to bottom and store what they print.

    python scripts/run_notebook.py notebooks/directions.ipynb

No Jupyter is needed: the cells share one namespace, and the value of a last expression is shown as
Jupyter shows it (its repr, and its HTML if it has one).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLAIN = {"name": "stdout", "output_type": "stream"}


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook as JSON."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def run_cells(notebook: dict[str, Any], settings: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Run every code cell and store its outputs in it; the namespace of the cells is returned.

    Args:
        settings: values of names in capitals, in place of those that the notebook assigns.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, 1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = _run_cell(ast.parse("".join(cell["source"])), names, settings or {})
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            outputs.append({**PLAIN, "text": printed.getvalue().splitlines(keepends=True)})
        if value is not None:
            data = {"text/plain": repr(value).splitlines(keepends=True)}
            if html := getattr(value, "_repr_html_", lambda: None)():
                data["text/html"] = html.splitlines(keepends=True)
            outputs.append(
                {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}
            )
        cell["outputs"], cell["execution_count"] = outputs, number
    return names


def _run_cell(tree: ast.Module, names: dict[str, Any], settings: Mapping[str, object]) -> object:
    """The value of the last expression, None if there is none."""
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    for statement in tree.body:
        exec(compile(ast.Module([statement], []), "cell", "exec"), names)  # noqa: S102 (our own notebook)
        names.update({name: value for name, value in settings.items() if name in names})
    if last is None:
        return None
    value: object = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    return value


def write_notebook(path: Path, notebook: dict[str, Any]) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a notebook and store what its cells print.")
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    notebook = read_notebook(path)
    run_cells(notebook)
    write_notebook(path, notebook)


if __name__ == "__main__":
    main()
