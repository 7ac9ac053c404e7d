"""What a command lacks is said before its first stage, and before the model is read."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from vectomy.core.config import Runtime
from vectomy.core.errors import CheckpointError, ModelError, PreflightError
from vectomy.core.run_folder import RunFolder
from vectomy.healing.heal_config import parse_heal
from vectomy.workflows.heal import heal_model
from vectomy.workflows.preflight import Check
from vectomy.workflows.run import run
from vectomy.workflows.stages import Stage, Workflow

TIER = "unit"


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("peft", "trl", "gguf", "lm_eval"):
        monkeypatch.setitem(sys.modules, name, None)


def go(out: Path, **options: object) -> object:
    """A run of a model that is not there: what is missing is said before it is looked for."""
    prompts = {"positive": "bundled:refused", "negative": "bundled:harmless"}
    return run("no-such-model", out, **prompts, **options)


@pytest.mark.usefixtures("no_packages")
def test_an_adapter_that_could_not_be_measured_is_said_before_work(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"the package peft: pip install 'vectomy\[lora\]'"):
        go(tmp_path / "run", lora=True)
    assert not (tmp_path / "run").exists()
    # Up to the choice of an Edit, and without the adapter, nothing needs the package.
    for options in ({"lora": True, "until": "select"}, {}):
        with pytest.raises((CheckpointError, ModelError)):
            go(tmp_path / "run", **options)


@pytest.mark.usefixtures("no_packages")
def test_healing_names_both_packages_before_work(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"packages trl and peft: pip install 'vectomy\[heal\]'"):
        heal_model("no-such-model", tmp_path / "healed", parse_heal({"prompts": "bundled:harmless"}))
    assert not (tmp_path / "healed").exists()


class Checked(Workflow):
    def list_checks(self) -> Sequence[Check[Self]]:
        return (lambda work: None, lambda work: f"{work.model} is too new", lambda work: "no space is left")


def test_a_fault_ends_the_command_before_its_first_stage_and_all_are_said(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        work = Checked(model="m", runtime=Runtime(), folder=folder)
        stage = Stage("first", {}, [], lambda work: pytest.fail("a stage was run"))
        with pytest.raises(PreflightError, match=r"^m is too new\nno space is left$"):
            work.run_stages([stage], "digest")
    assert not (tmp_path / "run" / "stages").exists()
