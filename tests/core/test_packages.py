"""The extras of pyproject.toml are those that messages name, and hold what messages say they do."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from vectomy.core.packages import EXTRAS, NAMES, describe_missing

TIER = "unit"

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
# A package of the defaults or of an extra brings these.
BROUGHT = {
    **dict.fromkeys(("numpy", "tqdm", "yaml"), "transformers"),
    "markupsafe": "jinja2",
    "pyarrow": "datasets",
}
# Named with their own installation: they fit no extra (an engine of its own torch, trackers).
ALONE = {"vllm"}


def names_in(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=! ]", line)[0].lower().replace("-", "_") for line in requirements}


def imported() -> set[str]:
    """The packages that the source imports, Python's own left out."""
    names: set[str] = set()
    for file in (ROOT / "src" / "vectomy").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"vectomy"}


def test_every_package_that_is_imported_is_a_default_or_in_the_extra_that_messages_name() -> None:
    defaults = names_in(PROJECT["dependencies"])
    for module in sorted(imported()):
        package = BROUGHT.get(module, module).lower()
        extra = EXTRAS.get(module)
        place = defaults if extra is None else names_in(OPTIONAL[extra])
        assert package in place or module in ALONE, f"{module} (extra {extra}) is in no requirement"


def test_what_is_heavy_and_used_in_one_place_is_no_default() -> None:
    assert not names_in(PROJECT["dependencies"]) & names_in([NAMES.get(name, name) for name in EXTRAS])


def test_the_extra_all_holds_every_extra_of_a_user() -> None:
    (line,) = OPTIONAL["all"]
    held = set(re.fullmatch(r"vectomy\[(.+)\]", line)[1].split(","))
    assert held == set(OPTIONAL) - {"all", "dev", "docs", "oracle"}


@pytest.mark.parametrize(("module", "extra"), sorted(EXTRAS.items()))
def test_a_missing_package_is_named_with_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = describe_missing("this", module)
    assert message is not None
    assert message.startswith("this needs the package ")
    assert message.endswith(f"pip install 'vectomy[{extra}]'")
    assert describe_missing("this", "torch") is None


def test_several_packages_are_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trl", "peft", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    message = describe_missing("healing", "trl", "peft", "datasets")
    assert message == "healing needs the packages trl, peft and datasets: pip install 'vectomy[heal]'"
