"""What the documents of the code say of it is so: the drawn tree of errors, and what each module
says it offers.
"""

import ast
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import vectomy
from vectomy.core import errors

TIER = "unit"

OWN = ("architecture", "apply", "checkpoint")
# A module of subclasses of a package that the tests do not install.
ABSENT = () if importlib.util.find_spec("inspect_ai") else ("workflows.inspect_provider",)
MODULES = sorted(
    found.name.removeprefix("vectomy.")
    for found in pkgutil.walk_packages(vectomy.__path__, "vectomy.")
    if not found.name.endswith(("__main__", *ABSENT))
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


# Every module is loaded, PyTorch and the trainers with it. So, too, below.
@pytest.mark.tiny
@pytest.mark.parametrize("name", MODULES)
def test_all_is_sorted_without_doubles_and_names_what_is_there(name: str) -> None:
    found = module(name)
    if not hasattr(found, "__all__"):
        assert not defined(source(name)), "a module that defines something declares it"
        return
    assert found.__all__ == sorted(set(found.__all__), key=by_kind)
    assert all(hasattr(found, offered) for offered in found.__all__)


def defined(tree: ast.Module) -> set[str]:
    """Public classes and functions at the top level of a module."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")}


@cache
def source(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(module(name)))


@pytest.mark.tiny
def test_nothing_undeclared_is_imported_from_a_module_by_another() -> None:
    """What others use of a module is a type alias, a constant, or in its __all__; a public class is
    in its __all__.
    """
    imports: dict[str, set[str]] = {}
    for other in MODULES:
        for node in ast.walk(source(other)):
            if isinstance(node, ast.ImportFrom) and node.module:
                imports.setdefault(node.module, set()).update(alias.name for alias in node.names)
    undeclared = {
        f"{name}.{used}"
        for name in MODULES
        for used in imports.get(f"vectomy.{name}", set()) & defined(source(name))
        if used not in module(name).__all__
    }
    assert not undeclared


@pytest.mark.parametrize("name", ["config", "errors", "run_folder", "progress", "jsonl"])
def test_the_lowest_modules_load_no_torch(name: str) -> None:
    program = (
        f"import sys, vectomy.core.{name}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", ["VectomyError", "PromptError", "ConfigError", "PreflightError"])
def test_names_of_others_stay_within_the_line_of_the_message(name: str) -> None:
    quoted = "a\u202eb\ufeff\x1b[31m\ud800 é東"
    message = str(getattr(errors, name)(f"the key '{quoted}' is unknown"))
    assert message == r"the key 'a\u202eb\ufeff\x1b[31m\ud800 é東' is unknown"


def test_of_a_word_without_end_the_beginning_is_quoted() -> None:
    path = "/" + "/".join(["folder"] * 100)
    assert str(errors.PromptError(f"{path} does not exist")) == f"{path} does not exist"
    message = str(errors.ConfigError(f"the key '{'n' * 70_000}' is unknown, and '{'9' * 5000}' too"))
    assert re.fullmatch("the key 'n+…? is unknown, and '9+…? too", message)
    assert len(message) < 2000


def test_a_line_break_is_an_escape_but_between_the_sentences_of_a_preflight() -> None:
    assert str(errors.PromptError("a\nb")) == r"a\nb"
    assert str(errors.PreflightError("a\nb")) == "a\nb"


def test_errors_reach_other_processes_whole() -> None:
    sent = errors.FinishedRunError(Path("runs/one"), "seed: 0 -> 1")
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301 (made in the line itself)
    assert (received.folder, received.differences) == (sent.folder, sent.differences)
    assert str(received) == str(sent)
    made = [getattr(errors, name) for name in errors.__all__ if name != "FinishedRunError"]
    assert all(str(pickle.loads(pickle.dumps(kind("a fault")))) == "a fault" for kind in made)  # noqa: S301
