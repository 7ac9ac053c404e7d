"""Each command with each kind of thing that a person may name: it works, or one sentence says what
the thing is and what to give instead.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import published
import pytest

from vectomy.core.results import EvaluationResults, HealingResults
from vectomy.core.run_folder import MARK
from vectomy.edits.edit import Edit

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "chat"


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A path or name of each kind."""
    here, run, base = tmp_path_factory.mktemp("things"), published.finished(), published.base()
    for folder in ("evaluation", "unfinished", "empty"):
        (here / folder).mkdir()
    (here / "evaluation" / MARK).write_text("{}")
    (here / "evaluation" / "evaluation.json").write_text("{}")
    (here / "unfinished" / MARK).write_text("{}")
    (here / "unfinished" / "config.json").write_text(json.dumps({"model": str(base)}))
    (here / "notes.txt").write_text("notes")
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    shutil.copytree(run / "adapter", here / "foreign", ignore=lambda *_: ["vectomy", "edit.safetensors"])
    (here / "foreign" / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "owner/base"})
    )
    return {
        "run": str(run),
        "checkpoint": str(run / "checkpoint"),
        "adapter": str(run / "adapter"),
        "adapter of PEFT": str(here / "foreign"),
        "edit": str(shutil.copy(run / "edit.safetensors", here / "my.safetensors")),
        "model": str(base),
        "GGUF": str(published.gguf()),
        "weights": str(base / "model.safetensors"),
        "text": str(here / "notes.txt"),
        "evaluation": str(here / "evaluation"),
        "unfinished run": str(here / "unfinished"),
        "empty folder": str(here / "empty"),
        "nothing": str(here / "none"),
        "Hub id": "owner/nothing",
    }


# What is no model says so and names a model or the way to one.
NO_MODEL = {
    "adapter": "is an adapter, .*`vectomy apply .*--out DIR",
    "adapter of PEFT": r"is an adapter, .* base \(owner/base\), or merge",
    "edit": "is an Edit, not a model; .* tiny-base",
    "GGUF": "cannot be read as a GGUF file .*download it again",
    "weights": "is one file of weights; give the folder",
    "text": "is a file, not a model; give a folder",
    "evaluation": "is the folder of an evaluation, .*`vectomy report",
    "empty folder": "config.json",
    "nothing": "does not exist.*give a folder",
    "Hub id": "the Hub does not serve it",
}
# A run has two models: its base is named where an unedited one is needed.
NO_BASE = {
    **NO_MODEL,
    "run": "is the folder of a run, .*give .*tiny-base.*`vectomy run .*tiny-base --config .*--out .* resumes",
    "unfinished run": "is the folder of a run, .*give .*tiny-base",
}
NO_CHECKPOINT = {**NO_MODEL, "unfinished run": "has no checkpoint; write one with `vectomy apply"}
NO_EDIT = {
    "adapter of PEFT": "is an adapter without its Edit; give the Edit",
    "model": "is a model without its Edit; .*`vectomy compare BASE",
    "GGUF": "is a GGUF file, which names no Edit; .*`vectomy compare BASE",
    "weights": "is a safetensors file, but not an Edit",
    "text": "is no Edit file; give",
    "evaluation": "is the folder of an evaluation, which holds no Edit; give",
    "unfinished run": "is a run without an Edit; finish it with",
    "empty folder": "is a folder without an Edit .*give",
    "nothing": "does not exist",
    "Hub id": "no folder owner/nothing here",
}
NO_RUN = {
    "checkpoint": "is a part of the run .*give that folder",
    "adapter": "is a part of the run .*give that folder",
    "edit": "is an Edit, not the folder of a run; `vectomy show",
    "unfinished run": "is not finished; resume it with",
    "nothing": "does not exist; give the folder of a finished run",
    "Hub id": "does not exist; give the folder of a finished run",
    **dict.fromkeys(
        ("adapter of PEFT", "model", "GGUF", "weights", "text", "empty folder"),
        "is not the folder of a run .*give the --out of `vectomy run`",
    ),
}
WRONG_BASE = "the edit is for tiny-base .*Use the base it was made for"
# The command with X for the thing; what happens to each kind that does not work.
TABLE = {
    "plan X": NO_BASE,
    "edit new X --direction random:1 --out OUT": NO_BASE,
    "apply EDIT X --out OUT": {**NO_BASE, "checkpoint": WRONG_BASE},
    "apply X MODEL --out OUT --no-verify": NO_EDIT,
    "show X": NO_EDIT,
    "verify X --edit EDIT --base MODEL --no-run": {**NO_CHECKPOINT, "model": "as in the base"},
    "verify CHECKPOINT --edit X --no-run": NO_EDIT,
    "verify CHECKPOINT --edit EDIT --base X --no-run": {**NO_BASE, "checkpoint": WRONG_BASE},
    "compare MODEL X": NO_CHECKPOINT,
    "chat X": {
        **NO_EDIT,
        "edit": "which is not at hand; give that model with --base MODEL",
        "adapter of PEFT": "the Hub does not serve it",
    },
    "chat X --base MODEL": {kind: text for kind, text in NO_EDIT.items() if kind != "adapter of PEFT"},
    "report X": NO_RUN,
}


@pytest.mark.parametrize("command", TABLE)
def test_a_thing_works_or_is_named_with_the_remedy(
    command: str, things: dict[str, str], tmp_path: Path, vectomy: Vectomy
) -> None:
    places = {kind.upper(): thing for kind, thing in things.items()}
    # `report` of an evaluation needs a whole one: tests of the evaluation run it.
    kinds = [kind for kind in things if (command, kind) != ("report X", "evaluation")]
    for kind in kinds:
        places |= {"X": things[kind], "OUT": str(tmp_path / re.sub(r"\W", "", kind))}
        status, out, err = vectomy(*(places.get(word, word) for word in command.split()))
        assert "unforeseen" not in err
        if kind not in TABLE[command]:
            assert status == 0, (kind, err)
            continue
        assert status in (1, 2), (kind, out)
        sentences = [line for line in err.splitlines() if line.startswith("vectomy: ")] or [out]
        assert len(sentences) == 1, (kind, err)
        assert re.search(TABLE[command][kind], sentences[0], re.S), (kind, sentences[0])


@pytest.mark.parametrize("command", ["run", "baseline", "collect", "directions", "select", "direction"])
def test_a_search_starts_from_an_unedited_model(
    command: str, things: dict[str, str], tmp_path: Path, vectomy: Vectomy
) -> None:
    """Before prompts are read, which would be fetched from the Hub here."""
    for kind in ("run", "edit", "adapter", "weights", "text", "evaluation"):
        status, _, err = vectomy(command, things[kind], "--out", str(tmp_path / "out"))
        assert status == 2, err
        assert re.search(NO_BASE[kind], err)
        assert not (tmp_path / "out").exists()


def test_an_evaluation_of_edits_alone_takes_the_base_that_they_name(
    things: dict[str, str], vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    configs = []
    monkeypatch.setattr(
        "vectomy.workflows.evaluate.evaluation.evaluate_models",
        lambda config, out, **_: configs.append(config) or EvaluationResults(),
    )
    more = ("--prompts", "bundled:refused", "--out", str(tmp_path / "out"), "--json")
    for subjects, base in (
        ([things["run"] + "@0.5,1"], things["model"]),
        ([things["run"], things["adapter"]], things["model"]),
        ([things["model"], things["run"]], None),
        ([things["edit"]], None),
    ):
        assert vectomy("evaluate", *subjects, *more)[0] == 0
        assert configs[-1].base == base
    for kind in ("unfinished run", "weights", "text", "evaluation", "empty folder"):
        status, _, err = vectomy("evaluate", things["model"], things[kind], *more)
        assert status == 1
        assert re.search(NO_EDIT[kind], err)


def test_healing_a_run_takes_its_model_and_its_edit(
    things: dict[str, str], vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs = []
    monkeypatch.setattr(
        # By its name: the package has a function of the same one.
        importlib.import_module("vectomy.workflows.heal.heal_model"),
        "heal_model",
        lambda model, out, config, **more: (
            jobs.append((model, more["edit"], more["base"])) or HealingResults()
        ),
    )
    edit = Edit.load(things["edit"]).sha256
    more = ("--out", str(tmp_path / "out"), "--json")
    assert vectomy("heal", things["run"], *more)[0] == 0
    assert (jobs[-1][0], jobs[-1][1].sha256, jobs[-1][2]) == (things["model"], edit, None)
    assert vectomy("heal", things["run"], "--base", things["model"], "--no-project", *more)[0] == 0
    assert jobs[-1] == (things["checkpoint"], None, things["model"])
    for kind in ("edit", "adapter", "weights"):
        status, _, err = vectomy("heal", things[kind], *more)
        assert status == 2
        assert re.search(NO_BASE[kind], err)


def test_an_edit_is_loaded_from_every_folder_that_holds_it(things: dict[str, str]) -> None:
    edit = Edit.load(things["edit"])
    for kind in ("run", "checkpoint", "adapter"):
        assert Edit.load(things[kind]).sha256 == edit.sha256
