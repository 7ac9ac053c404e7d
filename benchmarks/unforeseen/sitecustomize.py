"""Counts the errors that reach somebody as "unforeseen X": such an error is a defect.

    UNFORESEEN=FILE PYTHONPATH=benchmarks/unforeseen:src COMMAND

Python runs this file when it starts, in COMMAND and in every Python that COMMAND starts; each such
error becomes a line of FILE.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType


class _Watched(importlib.abc.MetaPathFinder):
    """Finds the command line, whose `_unforeseen` then also writes."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "vectomy.cli":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                describe = module._unforeseen

                def record(error: Exception) -> str:
                    text: str = describe(error)
                    with open(os.environ["UNFORESEEN"], "a", encoding="utf-8") as file:
                        file.write(f"{text} | {' '.join(sys.argv)[:300]}\n")
                    return text

                module._unforeseen = record  # type: ignore[attr-defined]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "UNFORESEEN" in os.environ:
    sys.meta_path.insert(0, _Watched())
