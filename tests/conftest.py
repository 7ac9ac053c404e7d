"""What every test runs under: shapes in signatures checked, one thread a worker, one seed, no
network.
"""

import os

# pytest-xdist has a process a core; more threads than that spin against each other. Before torch is
# loaded, and for children.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

from jaxtyping import install_import_hook

ROOMS = Path(__file__).resolve().parent.parent / "src" / "vectomy"
# Signatures of pages and of results read from JSON name no shape, and are called a million times.
UNCHECKED = ("vectomy.report", "vectomy.core.results")


def _checked_modules() -> list[str]:
    names = [f"vectomy.{path.stem}" for path in ROOMS.iterdir() if path.name not in ("core", "__init__.py")]
    names += [f"vectomy.core.{path.stem}" for path in (ROOMS / "core").iterdir()]
    return [name for name in names if name not in UNCHECKED]


install_import_hook(_checked_modules(), "shape_checks.checked")

import gc  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from functools import cache  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

if TYPE_CHECKING:
    from command_line import Vectomy
    from hub_server import Hub
    from tiny import Tiny

torch.set_num_threads(1)

# Each test is in one tier (tests/README.md): its file's `TIER`, or a mark of its own.
TIERS = ("unit", "tiny", "zoo", "chat", "demo")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m TIER` a file without a test of that tier is not imported: that takes seconds."""
    tier = config.option.markexpr
    if tier not in TIERS or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    text = collection_path.read_text(encoding="utf-8")
    return True if not re.search(rf'^TIER = "{tier}"|@pytest\.mark\.{tier}\b', text, re.M) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        own = [mark.name for mark in item.iter_markers() if mark.name in TIERS]
        tiers = own or [getattr(getattr(item, "module", None), "TIER", None)]
        if len(tiers) != 1 or tiers[0] not in TIERS:
            raise pytest.UsageError(
                f"{item.nodeid} has the tiers {tiers}: give its file TIER = one of {TIERS}, "
                "or the test one mark"
            )
        if not own:
            item.add_marker(tiers[0])
    _sort_longest_first(items)


def _sort_longest_first(items: list[pytest.Item]) -> None:
    """Files of many tests first, and before them the demo model's: minutes each, they would leave
    the other processes idle at the end.
    """
    files = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.get_closest_marker("demo") is None, -files[item.path], str(item.path)))


# Seconds of imports each, in every process of the tests.
SLOW_IMPORTS = ("datasets", "lm_eval", "peft", "transformers.modeling_utils", "trl")


def pytest_collection_finish(session: pytest.Session) -> None:
    """The unit tests start soon: they import no library that runs models. And the garbage collector
    leaves out what the imports made: each run of a tiny model collects several times
    (`Workflow.free`), and would look through all modules each time.
    """
    imported = [name for name in SLOW_IMPORTS if name in sys.modules]
    if session.config.option.markexpr == "unit" and imported:
        raise pytest.UsageError(
            f"the unit tests import {imported}: import them in the functions that use them, "
            "or move the tests marked unit to a file of their own"
        )
    gc.collect()
    gc.freeze()


def _builds(self: object, *given: object, **more: object) -> None:
    raise AssertionError("a unit test builds no model: mark it tiny, zoo or chat")


@pytest.fixture(autouse=True)
def _units_build_no_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("unit") and "transformers.modeling_utils" in sys.modules:
        monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel.__init__", _builds)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: all cores for the demo model, one for tiny ones (see tiny_chat.py)."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1 if item.get_closest_marker("demo") else 1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _modes_left_as_found() -> Iterator[None]:
    """No test, and nothing it calls, leaves gradients off behind it: the next one would fail, in
    some orders alone.
    """
    yield
    left = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert left == (False, True), "(inference mode, gradients) after this test"


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Signatures as a user has them: nothing but the code itself refuses a wrong value."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def vectomy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Vectomy":
    """`vectomy("run", MODEL, ...)` runs the command in this process: status, stdout, stderr."""
    from command_line import Vectomy

    return Vectomy(monkeypatch, capsys)


@pytest.fixture(scope="session")
def tiny_of(tmp_path_factory: pytest.TempPathFactory):
    """`tiny_of(model_type, tied=..., sharded=..., **config)`: a tiny model and its folder, built
    once a session.
    """
    from tiny import build

    built: dict[str, Tiny] = {}

    def of(
        model_type: str = "llama", *, tied: bool = False, sharded: bool = False, **config: object
    ) -> "Tiny":
        key = repr((model_type, tied, sharded, sorted(config.items())))
        if key not in built:
            folder: Path = tmp_path_factory.mktemp(model_type)
            built[key] = build(folder, model_type, tied=tied, sharded=sharded, **config)
        return built[key]

    return of


@pytest.fixture(scope="session")
def zoo_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`zoo_of(label)`: the folder of a zoo model, built once a session."""
    from zoo import zoo_folder

    return cache(lambda label: zoo_folder(label, tmp_path_factory.mktemp("zoo")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> "Iterator[Hub]":
    """A stand-in for the Hub on this machine, which huggingface_hub talks to."""
    from hub_server import connected

    with connected(monkeypatch, tmp_path / "home") as hub:
        yield hub
