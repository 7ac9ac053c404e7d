"""What importing the package loads: nothing heavy that a command may not need."""

import pkgutil
import re

import pytest
from command_line import process

import vectomy

TIER = "tiny"

# Optional packages, and large ones that a few functions use.
HEAVY = (
    *("accelerate", "datasets", "gguf", "lm_eval", "matplotlib", "optuna", "pandas", "peft", "plotly"),
    *("pyarrow", "scipy", "sklearn", "tensorboard", "torchvision", "trl", "wandb"),
    *("transformers.generation", "transformers.modeling_utils", "transformers.trainer"),
)
# Made of classes of TRL and of transformers' caches: only a job in training imports the first ones,
# only a model that answers the last one.
SUBCLASSES = (
    r"vectomy\.(healing\.(objectives|trainable_model|training|training_progress|__main__)|models\.kv_cache"
    r"|workflows\.inspect_provider)"
)
LIGHT = ("torch", "transformers", "numpy", "pydantic")


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(vectomy.__path__, "vectomy.")]
    # A `__main__` runs what its neighbours hold.
    return [name for name in names if not re.fullmatch(SUBCLASSES, name) and not name.endswith("__main__")]


def test_no_module_but_subclasses_of_their_classes_loads_a_heavy_package() -> None:
    """So a command starts soon, and needs no optional package before it uses it."""
    assert len(modules()) > 150
    done = process(f"""
import importlib, sys
for name in {modules()!r}:
    importlib.import_module(name)
    loaded = sorted(set({HEAVY!r}) & set(sys.modules))
    assert not loaded, f"{{name}} loads {{loaded}}"
""")
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.unit
def test_the_package_itself_loads_no_library_at_all() -> None:
    done = process(f"import sys, vectomy; print(*sorted(set({(*HEAVY, *LIGHT)!r}) & set(sys.modules)))")
    assert (done.returncode, done.stdout.strip()) == (0, "")
