"""Threads: as many as the process may use, asleep while they wait, and as many as are asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import typer
from command_line import Vectomy

from vectomy.cli import app
from vectomy.core import threads
from vectomy.core.config import Runtime
from vectomy.core.threads import available_cores, prepare_threads, use_threads

TIER = "unit"

# They compute nothing that takes time: they read headers and results, or send files.
WITHOUT = {
    *("plan", "edit new", "show", "report", "push", "traits"),
    *("ls", "cache ls", "cache clean", "config init", "config schema"),
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As before torch is loaded, in an environment that says nothing of threads."""
    monkeypatch.delitem(sys.modules, "torch")
    for name in (*threads.WAITING, *threads.COUNTS):
        # Set first, so that it is put back to nothing.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("spoilt", 64)],
)
def test_the_cores_are_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda self: list(range(64)), raising=False)
    (tmp_path / "cpu.max").write_text(quota, encoding="utf-8")
    assert available_cores(tmp_path / "cpu.max") == cores
    assert available_cores(tmp_path / "none") == 64


def test_threads_soon_sleep_unless_the_environment_says_otherwise(environment: pytest.MonkeyPatch) -> None:
    prepare_threads()
    assert {name: os.environ.get(name) for name in threads.WAITING if name in os.environ} == {
        "GOMP_SPINCOUNT": "1000",
        "KMP_BLOCKTIME": "1",
    }


@pytest.mark.parametrize("name", threads.WAITING)
def test_what_the_environment_says_of_waiting_stays(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "active")
    prepare_threads()
    assert [other for other in threads.WAITING if other in os.environ] == [name]


def test_a_container_with_fewer_cores_gets_fewer_threads(environment: pytest.MonkeyPatch) -> None:
    environment.setattr("vectomy.core.threads.available_cores", lambda: 3)
    environment.setattr("os.cpu_count", lambda: 64)
    prepare_threads()
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("name", threads.COUNTS)
def test_a_number_of_threads_in_the_environment_stays(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setattr("vectomy.core.threads.available_cores", lambda: 3)
    environment.setattr("os.cpu_count", lambda: 64)
    environment.setenv(name, "5")
    prepare_threads()
    assert {key: os.environ.get(key) for key in threads.COUNTS if key in os.environ} == {name: "5"}


def test_nothing_is_set_once_torch_is_there(environment: pytest.MonkeyPatch) -> None:
    environment.setitem(sys.modules, "torch", torch)
    prepare_threads()
    assert not [name for name in (*threads.WAITING, *threads.COUNTS) if name in os.environ]


PROGRAM = """
import json, os, sys
import vectomy
if sys.argv[1] == "command":
    from vectomy.cli import main
    sys.argv[1:] = ["show", "--help"]
    try:
        main()
    except SystemExit:
        pass
else:
    vectomy.bake
print(json.dumps({"waits": os.environ.get("GOMP_SPINCOUNT"), "torch": "torch" in sys.modules}))
"""


@pytest.mark.tiny
@pytest.mark.parametrize("use", ["command", "library"])
def test_the_command_and_the_library_set_it_before_torch_is_loaded(use: str) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in threads.WAITING}
    words = [sys.executable, "-c", PROGRAM, use]
    done = subprocess.run(words, env=plain, capture_output=True, encoding="utf-8", check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["waits"] == "1000"
    # Loaded only after that, by the library.
    assert told["torch"] is (use == "library")


def test_a_number_of_threads_is_that_of_torch_and_of_processes_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    before = torch.get_num_threads()
    try:
        use_threads(3)
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (3, "3")
        use_threads("auto")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def commands(group: typer.core.TyperGroup, prefix: str = "") -> dict[str, set[str]]:
    """The options of every command, by its name."""
    result = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            result |= commands(command, f"{prefix}{name} ")
        else:
            result[prefix + name] = {flag for parameter in command.params for flag in parameter.opts}
    return result


def test_every_command_that_computes_takes_a_number_of_threads() -> None:
    listed = commands(typer.main.get_command(app))
    assert set(listed) > WITHOUT
    assert {name for name, flags in listed.items() if "--threads" not in flags} == WITHOUT


def test_a_wrong_number_is_named(vectomy: Vectomy) -> None:
    status, _, told = vectomy("verify", "x", "--edit", "y", "--threads", "0")
    assert status == 2
    assert "--threads is '0': input should be auto, or a number of at least 1" in told


@pytest.mark.parametrize(("given", "value"), [("auto", "auto"), ("4", 4), (2, 2)])
def test_a_configuration_takes_a_number_of_threads(given: object, value: object) -> None:
    assert Runtime.model_validate({"threads": given}).threads == value
