"""What the documents of the code say of it is so: the drawn tree of errors, and what each module says it offers."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from types import ModuleType

import pytest

import vectomy
from vectomy import errors

OWN = ("architecture", "apply", "checkpoint")
MODULES = (
    *(
        "artifacts",
        "capture",
        "config",
        "edit",
        "errors",
        "hooks",
        "intervene",
        "jsonl",
        "linalg",
        "progress",
        "prompts",
        "types",
    ),
    *(f"{package}{'.' if name else ''}{name}" for package in OWN for name in ("",)),
    *("architecture.families", "architecture.resolve", "apply.bake", "apply.receipt"),
    *("checkpoint.index", "checkpoint.reader", "checkpoint.writer"),
)


def drawn() -> dict[str, str]:
    """Class name -> name of its parent, as the docstring draws it."""
    tree, path = {}, []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:[│ ] {3})*(?:[├└]── )?)(\w+Error)\b", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            tree[found[2]] = path[depth - 1] if depth else "Exception"
    return tree


def test_the_drawn_tree_of_errors_is_that_of_the_classes() -> None:
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert drawn() == {name: kind.__base__.__name__ for name, kind in classes.items()}
    assert set(drawn()) == set(errors.__all__)


def test_only_mistakes_of_the_caller_exit_with_2() -> None:
    two = {name for name in errors.__all__ if getattr(errors, name).exit_status == 2}
    assert two == {"UsageError", "ConfigError"}
    assert {getattr(errors, name).exit_status for name in errors.__all__} == {1, 2}


def module(name: str) -> ModuleType:
    return importlib.import_module(f"vectomy.{name}")


def by_kind(name: str) -> tuple[int, str]:
    """RUF022: constants, then classes, then the rest, each in order of code points."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def every_module() -> list[str]:
    return [found.name for found in pkgutil.walk_packages(vectomy.__path__, "vectomy.")]


@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_without_doubles_and_names_what_is_there(name: str) -> None:
    found = module(name)
    assert found.__all__ == sorted(set(found.__all__), key=by_kind)
    assert all(hasattr(found, offered) for offered in found.__all__)


def defined(tree: ast.Module) -> set[str]:
    """Public classes and functions at the top level of a module."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


def imported_from(tree: ast.Module, target: str) -> set[str]:
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == target
        for alias in node.names
    }


def source(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(module(name)))


@pytest.mark.parametrize("name", MODULES)
def test_nothing_undeclared_is_imported_from_a_module_by_another(name: str) -> None:
    """What others use of a module is a type alias, a constant, or in its __all__; a public class is in its __all__."""
    trees = [source(other) for other in MODULES if other != name]
    used = set().union(*(imported_from(tree, f"vectomy.{name}") for tree in trees)) & defined(source(name))
    assert used <= set(module(name).__all__)


@pytest.mark.parametrize("name", ["config", "errors", "artifacts", "progress", "jsonl"])
def test_the_lowest_modules_load_no_torch(name: str) -> None:
    program = f"import sys, vectomy.{name}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_names_tested_here_are_modules_of_the_package() -> None:
    assert {f"vectomy.{name}" for name in MODULES} <= set(every_module())
