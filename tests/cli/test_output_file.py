"""Commands that write one file replace no other content: the same again is fine, anything else is
refused before it is lost, unless --overwrite or a person says so.
"""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_chat
from command_line import Vectomy
from tiny import unit

from vectomy import Edit, bake
from vectomy.cli import output_folder
from vectomy.cli.output_folder import write_file
from vectomy.core.errors import FinishedRunError
from vectomy.core.output_path import check_file_content

TIER = "chat"

Arguments = Callable[[Path, str], list[str]]


def new_edit(folder: Path, seed: str) -> list[str]:
    return ["edit", "new", str(tiny_chat.folder()), "--direction", f"random:{seed}"]


def direction(folder: Path, seed: str) -> list[str]:
    sets = [f"--{side}={file}" for side, file in tiny_chat.sources().items()]
    return ["direction", str(tiny_chat.folder()), *sets, "--n-fit", "16", "--layer", seed, "--device", "cpu"]


def compare(folder: Path, seed: str) -> list[str]:
    edited = folder / f"edited-{seed}"
    if not edited.exists():
        edit = folder / f"{seed}.safetensors"
        Edit.ablation(tiny_chat.folder(), unit(int(seed))).save(edit)
        bake(Edit.load(edit), tiny_chat.folder(), edited)
    return ["compare", str(tiny_chat.folder()), str(edited)]


def judge(folder: Path, seed: str) -> list[str]:
    rows = [{"prompt": f"show {n} {seed}", "completion": "I can't help with that."} for n in range(3)]
    (folder / f"rows-{seed}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["judge", str(folder / f"rows-{seed}.jsonl")]


COMMANDS: dict[str, tuple[Arguments, str]] = {
    "edit new": (new_edit, "out.safetensors"),
    "direction": (direction, "out.safetensors"),
    "compare": (compare, "out.safetensors"),
    "judge": (judge, "out.jsonl"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_other_content_is_replaced_by_overwrite_alone(
    vectomy: Vectomy, tmp_path: Path, command: str
) -> None:
    arguments, name = COMMANDS[command]
    out = tmp_path / name
    to = ["--out", str(out)]
    assert vectomy(*arguments(tmp_path, "1"), *to)[0] == 0
    first = out.read_bytes()
    # The same again is no other content.
    assert vectomy(*arguments(tmp_path, "1"), *to)[0] == 0
    status, _, error = vectomy(*arguments(tmp_path, "2"), *to)
    assert status == 1
    assert f"{out} holds finished results of other settings" in error
    assert "--overwrite" in error
    assert out.read_bytes() == first
    assert vectomy(*arguments(tmp_path, "2"), *to, "--overwrite")[0] == 0
    assert out.read_bytes() != first


def test_the_same_edit_of_another_folder_is_no_other_edit(vectomy: Vectomy, tmp_path: Path) -> None:
    out = tmp_path / "e.safetensors"
    shutil.copytree(tiny_chat.folder(), tmp_path / "other")
    for model in (tiny_chat.folder(), tmp_path / "other"):
        given = ["edit", "new", str(model), "--direction", "random:1", "--out", str(out)]
        assert vectomy(*given)[0] == 0
        assert Edit.load(out).base.name == model.name
    assert vectomy(*given, "--strength", "0.5")[0] == 1


def test_both_files_of_a_direction_stay_where_one_is_another(vectomy: Vectomy, tmp_path: Path) -> None:
    out = tmp_path / "d.safetensors"
    out.with_suffix(".json").write_text("mine")
    assert vectomy(*direction(tmp_path, "1"), "--out", str(out))[0] == 1
    assert not out.exists()
    assert out.with_suffix(".json").read_text() == "mine"


def test_rows_without_a_verdict_may_be_judged_again(vectomy: Vectomy, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    given = judge(tmp_path, "1")
    rows = [json.loads(line) for line in (tmp_path / "rows-1.jsonl").read_text().splitlines()]
    stored = [{**row, "verdict": None, "p_refusal": None, "judge_error": "x"} for row in rows]
    out.write_text("\n".join(map(json.dumps, stored)))
    assert vectomy(*given, "--out", str(out))[0] == 0
    assert all(json.loads(line)["verdict"] for line in out.read_text().splitlines())
    # Verdicts of another judge are finished results.
    status, _, error = vectomy(*given, "--out", str(out), "--judge", "heretic")
    assert status == 1
    assert "3 of 3 rows have another verdict or probability" in error


@pytest.mark.unit
@pytest.mark.parametrize(
    ("answer", "written"), [("new", "a.b-2.safetensors"), ("replace", "a.b.safetensors"), ("stop", None)]
)
def test_a_person_at_the_terminal_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, written: str | None
) -> None:
    out = tmp_path / "a.b.safetensors"
    out.write_bytes(b"old")

    def write(path: Path, replace: bool) -> None:
        if not replace:
            check_file_content(path, b"new", "another")
        path.write_bytes(b"new")

    monkeypatch.setattr(output_folder, "at_terminal", lambda: True)
    monkeypatch.setattr(output_folder, "ask_about_folder", lambda error, following: answer)
    if written is None:
        with pytest.raises(FinishedRunError, match="another"):
            write_file(write, out, False)
        assert out.read_bytes() == b"old"
    else:
        assert write_file(write, out, False) == tmp_path / written
        assert (tmp_path / written).read_bytes() == b"new"


@pytest.mark.parametrize("command", ["edit new", "judge"])
def test_what_is_no_regular_file_is_never_replaced(vectomy: Vectomy, tmp_path: Path, command: str) -> None:
    arguments, _ = COMMANDS[command]
    other = tmp_path / "other"
    other.write_bytes(b"other")
    (tmp_path / "link").symlink_to(other)
    for path, kind in ((tmp_path / "link", "a link"), (Path("/dev/null"), "a device")):
        status, _, error = vectomy(*arguments(tmp_path, "1"), "--out", str(path), "--overwrite")
        assert status == 1
        assert kind in error
    assert other.read_bytes() == b"other"
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
