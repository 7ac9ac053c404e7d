"""A misspelt name is answered with the near one, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from vectomy.core.packages import describe_missing
from vectomy.core.settings_change import RunSettings
from vectomy.core.suggestions import near_path, suggest, suggest_path
from vectomy.core.write_errors import check_writable

TIER = "unit"


@pytest.mark.parametrize(
    ("name", "near"),
    [("refusd", "refused"), ("Harmles", "harmless"), ("xxx", None), ("", None), ("everday", "everyday")],
)
def test_a_name_is_answered_with_the_near_one(name: str, near: str | None) -> None:
    assert suggest(name, ("refused", "harmless", "everyday")) == (f" (did you mean {near}?)" if near else "")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("positve.json", "positive.json"),
        ("Positive.json", "positive.json"),
        ("positive.jsonl", "positive.json"),
        # A suffix alone makes no two names alike.
        ("missing.txt", None),
        ("run", None),
        ("no/such/folder/positive.json", None),
        ("x" * 5000, None),
        ("positive\0.json", "positive.json"),
    ],
)
def test_a_path_is_answered_with_the_near_one(name: str, near: str | None, tmp_path: Path) -> None:
    for file in ("positive.json", "long.txt", ".run"):
        (tmp_path / file).touch()
    assert near_path(tmp_path / name) == (tmp_path / near if near else None)
    assert suggest_path(tmp_path / name) == (f" (did you mean {tmp_path / near}?)" if near else "")


def test_two_paths_of_one_file_are_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").touch()
    (tmp_path / "q.txt").touch()
    stored = RunSettings({"positive": "p.txt", "seed": 0})
    assert not RunSettings({"positive": str(tmp_path / "p.txt"), "seed": 0}).list_differences(stored)
    assert RunSettings({"positive": "q.txt", "seed": 0}).list_differences(stored)


def test_a_module_of_python_itself_is_not_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    message = describe_missing("this command", "lzma")
    assert message is not None
    assert "use another Python" in message
    assert "pip install" not in message


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_place_that_takes_no_folder_is_named_and_not_the_trial_folder() -> None:
    with pytest.raises(Exception, match=r"/proc/x/y cannot be written: no folder can be made there"):
        check_writable(Path("/proc/x/y"))
