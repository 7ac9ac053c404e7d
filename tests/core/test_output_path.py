"""No writer replaces what is no regular file or no empty folder of its own, nor what it reads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tiny import build, unit

from vectomy.core.errors import ArtifactError
from vectomy.core.output_path import check_file_output, check_new_folder, check_output, check_run_output
from vectomy.core.run_folder import RunFolder, write_whole

if TYPE_CHECKING:
    from command_line import Vectomy
    from tiny import Tiny

TIER = "tiny"


def put_device(path: Path) -> None:
    try:
        os.mknod(path, 0o020666, os.makedev(1, 3))
    except OSError:
        pytest.skip("making a device node takes root")


def put_socket(path: Path) -> None:
    # A socket's path is short by law; the folder of a test is not.
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)
        made.bind(path.name)
        os.chdir(here)


def put_link_to_file(path: Path) -> None:
    (path.parent / "aim").write_text("precious")
    path.symlink_to(path.parent / "aim")


def put_link_to_folder(path: Path) -> None:
    (path.parent / "aim").mkdir()
    path.symlink_to(path.parent / "aim")


def put_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nothing")


SPECIAL: dict[str, Callable[[Path], None]] = {
    "device": put_device,
    "pipe": os.mkfifo,
    "socket": put_socket,
    "link to a file": put_link_to_file,
    "link to a folder": put_link_to_folder,
    "dangling link": put_dangling_link,
}


def write_text(path: Path) -> None:
    with write_whole(path) as beside:
        beside.write_text("new")


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("write", [write_text, check_file_output, check_new_folder])
def test_what_is_no_regular_file_is_never_replaced(
    kind: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "out"
    SPECIAL[kind](path)
    before = path.lstat()
    with pytest.raises(ArtifactError, match=r"never replaced; give"):
        write(path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not [entry for entry in tmp_path.iterdir() if entry.name not in ("out", "aim")]


def test_a_mount_point_is_never_replaced_and_can_hold_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path)
    with pytest.raises(ArtifactError, match="mount point"):
        check_new_folder(tmp_path)
    with pytest.raises(ArtifactError, match="mount point"):
        check_file_output(tmp_path)
    with RunFolder(tmp_path):
        pass


def test_a_run_is_written_through_a_link_to_a_folder_and_the_link_stays(tmp_path: Path) -> None:
    put_link_to_folder(tmp_path / "out")
    with RunFolder(tmp_path / "out"):
        pass
    assert (tmp_path / "out").is_symlink()
    put_dangling_link(tmp_path / "other")
    with pytest.raises(ArtifactError, match="does not exist; make that folder"):
        check_run_output(tmp_path / "other")


def test_regular_files_and_empty_folders_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    write_text(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"
    (tmp_path / "empty").mkdir()
    check_new_folder(tmp_path / "empty")
    with pytest.raises(ArtifactError, match="not empty"):
        check_new_folder(tmp_path)
    with pytest.raises(ArtifactError, match="give the name of a file"):
        write_text(tmp_path / "empty")


def test_an_input_and_a_folder_in_it_are_no_output(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "rows").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    for out in ("model", "model/new", "model/deep/new", "link/new", "model/../model/x"):
        with pytest.raises(ArtifactError, match="never touched"):
            check_output(tmp_path / out, tmp_path / "model")
    with pytest.raises(ArtifactError, match="is the input"):
        check_output(tmp_path / "rows", tmp_path / "rows")
    for out in ("model-2", "new", "rows-2"):
        check_output(tmp_path / out, tmp_path / "model", tmp_path / "rows")


# The commands that write, each with what it takes besides --out.
COMMANDS: dict[str, tuple[str, ...]] = {
    "edit new": ("edit", "new", "MODEL", "--direction", "random:1"),
    "apply": ("apply", "EDIT", "MODEL"),
    "apply lora": ("apply", "EDIT", "MODEL", "--as", "lora"),
    "apply gguf-lora": ("apply", "EDIT", "MODEL", "--as", "gguf-lora"),
    "compare": ("compare", "MODEL", "MODEL"),
    "direction": ("direction", "MODEL", "--positive", "ROWS", "--negative", "ROWS"),
    "judge": ("judge", "ROWS", "--judge", "heretic"),
    "run": ("run", "MODEL", "--positive", "ROWS", "--negative", "ROWS", "--yes"),
    "evaluate": ("evaluate", "MODEL", "--prompts", "ROWS"),
    "heal": ("heal", "MODEL", "--base", "MODEL"),
    "reproduce": ("reproduce", "EDIT", "--base", "MODEL"),
}
# Commands that write into a folder, through a link too.
INTO = ("run", "evaluate", "heal")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from vectomy import Edit

    folder = tmp_path_factory.mktemp("world")
    tiny: Tiny = build(folder / "model", "llama")

    Edit.ablation(tiny.folder, unit()).save(folder / "edit.safetensors")
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return {
        "MODEL": str(tiny.folder),
        "EDIT": str(folder / "edit.safetensors"),
        "ROWS": str(folder / "rows.jsonl"),
    }


@pytest.mark.parametrize("kind", ["device", "pipe", "link to a file", "link to a folder"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_replaces_what_is_no_regular_file(
    command: str, kind: str, world: dict[str, str], tmp_path: Path, vectomy: Vectomy
) -> None:
    if command in INTO and kind == "link to a folder":
        pytest.skip("the folder is written into; the link stays (a test above)")
    path = tmp_path / "out"
    SPECIAL[kind](path)
    before = path.lstat()
    status, _, err = vectomy(*(world.get(word, word) for word in COMMANDS[command]), "--out", str(path))
    assert status == 1, err
    assert "never replaced; give" in err or (command in INTO and "takes a folder" in err), err
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("judge", "reproduce")])
def test_no_command_writes_into_the_model(command: str, world: dict[str, str], vectomy: Vectomy) -> None:
    model = Path(world["MODEL"])
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    for out in (model / "model.safetensors", model / "new"):
        if command in ("run", "direction", "evaluate") and out.name == "new":
            continue  # These check the prompts first.
        status, _, err = vectomy(*(world.get(word, word) for word in COMMANDS[command]), "--out", str(out))
        assert status in (1, 2), err
        assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
