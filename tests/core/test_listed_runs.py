"""What `vectomy ls` says of a folder is what the result files in it say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vectomy.core.listed_runs import find_run_folders, list_runs
from vectomy.core.run_folder import MARK

TIER = "unit"

SUMMARY = {
    "format": "vectomy-summary",
    "version": 1,
    "model": "owner/model",
    "recipe": "gradient",
    "behaviour": "refusal",
    "command": "vectomy run owner/model",
    "base": {"refusal_rate": 0.8, "refusal_count": 8, "refusal_total": 10, "refusal_ci": [0.5, 0.9]},
    "edited": {"refusal_rate": 0.0, "refusal_count": 0, "refusal_total": 10, "kl_per_token": 0.02},
    "edit": {"path": "edit.safetensors", "sha256": "abc"},
}
SUMMARY["base"]["degenerate_rate"] = 0.05  # type: ignore[index]
NUMBERS = {
    "refusal": {"rate": 0.5, "count": 2, "total": 4},
    "degenerate": {"rate": 0.25, "count": 1, "total": 4},
    "kl_per_token": 0.5,
}
HEALING = {
    "format": "vectomy-healing",
    "version": 1,
    "model": "demo",
    "models": ["base", "edited", "healed"],
    "measures": dict.fromkeys(("base", "edited", "healed"), NUMBERS),
}


def make_run(folder: Path, when: int, stages: tuple[str, ...] = (), **files: object) -> Path:
    """A run folder with result files, all of one time."""
    (folder / "stages").mkdir(parents=True)
    written = {MARK: "{}", **{f"stages/{stage}.json": "{}" for stage in stages}}
    written |= {name.replace("_json", ".json"): json.dumps(value) for name, value in files.items()}
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
        os.utime(folder / name, (when, when))
    return folder


STAGES = ("baseline", "collect", "report")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    config = {"model": "demo", "recipe": "tpe", "contrast": {"behaviour": "praise"}}
    settings = {"format": "vectomy-settings", "version": 1, "settings": {}}
    make_run(tmp_path / "a", 5, STAGES, config_json=config, summary_json=SUMMARY)
    make_run(tmp_path / "deep" / "b", 9, STAGES[:2], config_json=config)
    make_run(tmp_path / "healed", 3, ("edited", "report"), summary_json=HEALING)
    make_run(tmp_path / "measured", 2, evaluation_json={"base": "demo"})
    make_run(tmp_path / "half", 1, settings_json={**settings, "until": "evaluation"})
    make_run(tmp_path / "hurt", 0, STAGES, config_json=config)
    (tmp_path / "hurt" / "summary.json").write_text("{", encoding="utf-8")
    os.utime(tmp_path / "hurt" / "summary.json", (0, 0))
    return tmp_path


def test_runs_are_listed_newest_first_with_what_their_files_say(runs: Path) -> None:
    listed = {run.folder.relative_to(runs).as_posix(): run for run in list_runs(runs)}
    assert list(listed) == ["deep/b", "a", "healed", "measured", "half", "hurt"]
    kinds = {name: (run.kind, run.state, run.stage) for name, run in listed.items()}
    assert kinds == {
        "deep/b": ("run", "unfinished", "collect"),
        "a": ("run", "finished", "report"),
        "healed": ("healing", "finished", "report"),
        "measured": ("evaluation", "finished", None),
        "half": ("evaluation", "unfinished", None),
        "hurt": ("run", "damaged", "report"),
    }
    done = listed["a"]
    assert done.before is not None
    assert done.after is not None
    assert (done.before.count, done.after.count, done.after.total) == (8, 0, 10)
    assert (done.degenerate_before, done.degenerate_after, done.kl_per_token) == (0.05, None, 0.02)
    assert done.date == "1970-01-01T00:00:05+00:00"
    assert (listed["deep/b"].model, listed["deep/b"].recipe, listed["deep/b"].behaviour) == (
        *("demo", "tpe"),
        "praise",
    )
    assert listed["healed"].to_json()["after"]["rate"] == 0.5
    assert "does not parse" in str(listed["hurt"].fault)


def test_what_was_not_measured_is_null_in_json(runs: Path) -> None:
    rows = [json.loads(json.dumps(run.to_json())) for run in list_runs(runs)]
    by_name = {Path(row["folder"]).name: row for row in rows}
    assert by_name["a"]["before"] == {"rate": 0.8, "count": 8, "total": 10, "ci": [0.5, 0.9]}
    assert by_name["a"]["degenerate_after"] is None
    assert by_name["b"]["before"] is None
    assert len({tuple(row) for row in rows}) == 1


def test_hidden_folders_links_and_the_inside_of_a_run_are_left_out(tmp_path: Path) -> None:
    outer = make_run(tmp_path / "outer", 1)
    make_run(outer / "inner", 1)
    make_run(tmp_path / ".hidden" / "run", 1)
    make_run(tmp_path / "1" / "2" / "3", 1)
    make_run(tmp_path / "1" / "2" / "4" / "5", 1)
    (tmp_path / "link").symlink_to(outer, target_is_directory=True)
    assert list(find_run_folders(tmp_path)) == [tmp_path / "1" / "2" / "3", outer]
    assert list(find_run_folders(outer)) == [outer]
