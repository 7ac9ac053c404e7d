"""Optional packages, and the extra that installs each. Loads no torch."""

from __future__ import annotations

import importlib.util
import sys

from vectomy.core.errors import PreflightError

__all__ = ["EXTRAS", "describe_missing", "has_kernels", "require_packages"]

EXTRAS = {
    "bitsandbytes": "quantised",
    "datasets": "hub",
    "inspect_ai": "inspect",
    "lm_eval": "capability",
    "matplotlib": "notebook",
    "pandas": "notebook",
    "optuna": "tpe",
    "peft": "lora",
    "pyarrow": "hub",
    "trl": "heal",
}
"""The extra of pyproject.toml by the name that is imported."""
NAMES = {"inspect_ai": "inspect-ai", "lm_eval": "lm-eval"}


def describe_missing(purpose: str, *modules: str) -> str | None:
    """One sentence with the command that installs what is missing; None where nothing is.

    Args:
        purpose: the subject of the sentence, such as "healing".
        modules: names that are imported, of EXTRAS.
    """
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if not missing:
        return None
    if lacking := [module for module in missing if module in sys.stdlib_module_names]:
        return (
            f"{purpose} needs the module {lacking[0]} of Python itself, which {sys.executable} was built "
            "without; use another Python"
        )
    # The extra of healing includes all that healing takes.
    extra = EXTRAS["trl"] if "trl" in modules else EXTRAS.get(missing[0])
    names = [NAMES.get(module, module) for module in missing]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    install = f"'vectomy[{extra}]'" if extra else " ".join(names)
    return f"{purpose} needs the package{'s' if len(names) > 1 else ''} {listed}: pip install {install}"


def require_packages(purpose: str, *modules: str) -> None:
    """Raises PreflightError: one of the packages is missing; with `describe_missing`."""
    if missing := describe_missing(purpose, *modules):
        raise PreflightError(missing)


def has_kernels() -> bool:
    """Whether the package is here from which transformers takes the kernels of packed weights."""
    return importlib.util.find_spec("kernels") is not None
