"""Finished results of other settings are replaced only by a command that says so."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import tiny_style
from command_line import Vectomy
from finished_run import summary_in
from tiny import file_hashes
from tiny_evaluation import go as evaluate
from tiny_evaluation import undisturbed
from trait_runs import trait
from watched_run import finished_copy, finished_with, go

from vectomy.core.errors import ConfigError, FinishedRunError, UsageError
from vectomy.core.run_folder import SETTINGS
from vectomy.workflows import run as run_module
from vectomy.workflows import stages
from vectomy.workflows.run import STAGES, run
from vectomy.workflows.trait_config import TraitRun, make_trait_run

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return finished_copy(tmp_path)


@pytest.fixture
def no_model(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "load_model", lambda *_, **__: pytest.fail("loaded"))


def refused(folder: Path, match: str, **options: Any) -> None:
    before = file_hashes(folder)
    with pytest.raises(FinishedRunError, match=match):
        go(folder, **options)
    assert file_hashes(folder) == before


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("recorded", [True, False], ids=["this version", "an earlier one"])
def test_what_differs_is_named_with_both_values(copy: Path, tmp_path: Path, recorded: bool) -> None:
    if not recorded:
        (copy / SETTINGS).unlink()
    refused(copy, r"\(seed: 0 -> 1\).*nothing was changed.*--out.*--overwrite", seed=1)
    refused(copy, r"recipe: arditi -> gradient", recipe="gradient", behaviour_tokens=None)
    refused(copy, r"lora: no -> yes", lora=True)
    # A stage of a run protects as the run does, and so does a file that changed under its name.
    refused(copy, r"seed: 0 -> 2", seed=2, until="collect")
    file = Path(tiny_chat.sources()["negative"])
    rows = json.loads(file.read_text(encoding="utf-8"))
    text = file.read_text(encoding="utf-8")
    try:
        file.write_text(json.dumps([*rows[:-1], "draw the bee purple"]), encoding="utf-8")
        refused(copy, r"\(the negative prompts: changed\)")
    finally:
        file.write_text(text, encoding="utf-8")
    assert go(copy) == summary_in(finished_with())


def trait_config(**options: Any) -> TraitRun:
    quick = {"n_fit": 8, "n_search": 4, "n_test": 4, "answer_tokens": 8, "device": "cpu"}
    return make_trait_run(str(tiny_style.folder()), trait(operation="induce"), {**quick, **options})


def test_a_trait_is_protected_too(tmp_path: Path) -> None:
    out = tmp_path / "trait"
    run(trait_config(), out, until="baseline")
    before = file_hashes(out)
    other = make_trait_run(str(tiny_style.folder()), trait(operation="remove"), {"device": "cpu"})
    for config, named in (
        (trait_config(answer_tokens=7), "answer_tokens: 8 -> 7"),
        (other, "trait.operation"),
    ):
        with pytest.raises(FinishedRunError, match=named):
            run(config, out)
        assert file_hashes(out) == before


def test_a_run_with_another_judge_is_another_run(copy: Path) -> None:
    """`--judge` means what it does in evaluate: the verdicts of another judge are other results."""
    with pytest.raises(FinishedRunError, match="judge: refusal -> heretic"):
        go(copy, judge="heretic")
    out = copy.with_name("heretic")
    go(out, judge="heretic", until="baseline")
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["judge"] == "heretic"
    stored = json.loads((out / "stages" / "baseline.json").read_text(encoding="utf-8"))
    assert stored["inputs"]["judge"][0] == "heretic"
    with pytest.raises(UsageError, match="there is no judge 'nobody'"):
        go(out.with_name("nobody"), judge="nobody")
    with pytest.raises(ConfigError, match="--judge mean nothing to the trait"):
        run(trait_config(judge="heretic"), out.with_name("trait"))


def test_an_evaluation_is_protected_too(tmp_path: Path) -> None:
    plain, _ = undisturbed()
    out = Path(shutil.copytree(plain, tmp_path / "evaluation"))
    before = file_hashes(out)
    changes = [
        ({"answer_tokens": 5}, "answer_tokens: 8 -> 5"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"sets": ("night",)}, "the prompts day: left out"),
    ]
    for recorded in (True, False):
        if not recorded:
            (out / SETTINGS).unlink()
            del before[SETTINGS]
        for options, named in changes:
            with pytest.raises(FinishedRunError, match=named):
                evaluate(out, ["tiny", "edit@0.5,1"], **options)
        with pytest.raises(FinishedRunError, match="the subject edit@1: left out"):
            evaluate(out, ["tiny", "edit@0.5"])
        assert file_hashes(out) == before


def test_an_unfinished_run_goes_on_with_other_settings_and_says_what_differs(copy: Path) -> None:
    for stage in STAGES[-2:]:
        (copy / "stages" / f"{stage}.json").unlink()
    told: list[str] = []
    go(copy, seed=1, until="baseline", log=told.append)
    assert [line for line in told if "unfinished" in line and "seed: 0 -> 1" in line]


def test_a_replacement_that_was_cut_off_resumes_without_asking_again(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(work: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "run_select", stop)
        with pytest.raises(KeyboardInterrupt):
            go(copy, seed=1, overwrite=True)
    go(copy, seed=1)
    go(tmp_path / "fresh", seed=1)
    for name in ("edit.safetensors", "completions.jsonl", "checkpoint/model.safetensors"):
        assert (copy / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_the_usual_folder_gets_a_number_and_a_typed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vectomy: Vectomy
) -> None:
    monkeypatch.chdir(tmp_path)
    usual = Path("runs") / f"{tiny_chat.folder().name}-arditi"
    shutil.copytree(finished_with(), tmp_path / usual)
    before = file_hashes(tmp_path / usual)
    given = [f"--{side}={file}" for side, file in tiny_chat.sources().items()]
    given += ["--device=cpu", "--answer-tokens=8", "--behaviour-tokens=I", "--recipe=arditi"]
    given += ["--layer-fraction=1.0", "--yes"]
    command = ("run", str(tiny_chat.folder()), *given)

    status, _, err = vectomy(*command)
    assert (status, err.count("done before")) == (0, 7 - 1)
    status, _, err = vectomy(*command, "--seed=1", "--out", str(usual))
    assert status == 1
    assert "seed: 0 -> 1" in err
    assert "Traceback" not in err
    # The folder that a command would take, and that it takes again: baseline is enough to show it.
    baseline = ("baseline", *command[1:], "--seed=1")
    status, _, err = vectomy(*baseline)
    assert status == 0
    assert f"(seed: 0 -> 1); these go into {usual}-2" in err
    status, _, err = vectomy(*baseline)
    assert (status, err.count("done before")) == (0, 1)
    status, _, err = vectomy(*baseline[:-1], "--seed=2")
    assert (status, f"these go into {usual}-3" in err) == (0, True)
    report = {"report.html", "summary.json", "stages/report.json", "MODEL_CARD.md", "checkpoint/README.md"}
    after = file_hashes(tmp_path / usual)
    assert {name for name in before if after[name] != before[name]} <= report
