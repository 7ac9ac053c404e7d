"""`vectomy ls` and `vectomy cache`: tables, JSON, questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vectomy.core.run_folder import MARK

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "unit"


def test_runs_below_the_working_folder_are_listed(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "model-gradient"
    (run / "stages").mkdir(parents=True)
    (run / MARK).write_text("{}", encoding="utf-8")
    (run / "stages" / "collect.json").write_text("{}", encoding="utf-8")
    (run / "config.json").write_text('{"model": "/models/small"}', encoding="utf-8")
    status, out, _ = vectomy("ls")
    assert status == 0
    row = out.splitlines()[1].split()
    assert row == ["runs/model-gradient", "run", "small", "–", "–", "–", "no,", "up", "to", "collect"]
    status, out, _ = vectomy("ls", "runs", "--json")
    (listed,) = json.loads(out)
    assert (status, listed["folder"], listed["state"]) == (0, "runs/model-gradient", "unfinished")


def test_no_runs_and_no_folder_are_told_apart(tmp_path: Path, vectomy: Vectomy) -> None:
    (tmp_path / "runs").mkdir()
    assert vectomy("ls", str(tmp_path), "--json")[:2] == (0, "[]\n")
    assert "no runs in" in vectomy("ls", str(tmp_path))[2]
    status, _, err = vectomy("ls", str(tmp_path / "rnus"))
    assert status == 2
    assert f"did you mean {tmp_path / 'runs'}?" in err


def test_the_cache_is_removed_with_leave_alone(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOMY_CACHE", str(tmp_path))
    demo, other = tmp_path / "demo-0123456789ab", tmp_path / "thesis"
    for folder in (demo, other):
        folder.mkdir()
        (folder / "file").write_bytes(bytes(2048))
    listed = json.loads(vectomy("cache", "ls", "--json")[1])
    assert listed["folder"] == str(tmp_path)
    assert [(entry["path"], entry["bytes"]) for entry in listed["entries"]] == [(str(demo), 2048)]
    assert "2 KiB" in vectomy("cache", "ls")[1]
    status, _, err = vectomy("cache", "clean")
    assert status == 2
    assert "--yes" in err
    assert demo.is_dir()
    status, out, _ = vectomy("cache", "clean", "--yes", "--json")
    assert status == 0
    assert [entry["path"] for entry in json.loads(out)["removed"]] == [str(demo)]
    assert not demo.exists()
    assert (other / "file").exists()
    assert vectomy("cache", "clean", "--yes")[0] == 0
