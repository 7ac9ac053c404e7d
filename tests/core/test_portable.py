"""Source files that run on every system: text in UTF-8 with its line ends, no shell, no module that
only POSIX has. The rules of Windows: tests/workflows/test_windows.py; its types: `make check`.
"""

import ast
import errno
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
import torch
from windows_rules import POSIX_MODULES, in_use

from vectomy.cli import has_lost_reader
from vectomy.core.output_path import explain_name
from vectomy.core.tensor_file import read_tensors
from vectomy.hub.leaks import find_leaks

TIER = "unit"

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vectomy"
FILES = sorted(SOURCE.rglob("*.py"))


def keywords(call: ast.Call) -> dict[str, object]:
    return {word.arg: getattr(word.value, "value", "") for word in call.keywords if word.arg}


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def faults_in(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if (module or "").partition(".")[0] in POSIX_MODULES:
                yield f"imports {module}"
        if not isinstance(node, ast.Call):
            continue
        given, name = keywords(node), name_of(node)
        # The help's formatter writes to no file.
        attribute = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) != "formatter"
        if given.get("shell") or name in ("system", "popen"):
            yield "runs a shell"
        if name in ("run", "Popen") and given.get("text"):
            yield f"{name}(text=True) reads in the code page: give encoding="
        text = (given.get("encoding"), given.get("newline"))
        if name == "write_text" and len(node.args) == 1 and attribute and text != ("utf-8", "\n"):
            yield "write_text without encoding='utf-8', newline='\\n'"
        if name == "read_text" and attribute and not node.args and not given.get("encoding"):
            yield "read_text without encoding="
        if name in ("open", "fdopen") and node.args:
            modes = [item.value for item in node.args if isinstance(item, ast.Constant)]
            if any(isinstance(mode, str) and set(mode) <= set("rwax+t") for mode in modes):
                yield "open in text mode: write bytes, or write_text"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import fcntl", 1),
        ("from termios import tcgetattr", 1),
        ("path.write_text(text, encoding='utf-8')", 1),
        ("path.write_text(text, encoding='utf-8', newline='\\n')", 0),
        ("path.read_text()", 1),
        ("path.open('w')", 1),
        ("open(path, 'a', encoding='utf-8')", 1),
        ("path.open('rb')", 0),
        ("subprocess.run(words, shell=True)", 1),
        ("subprocess.run(words, text=True)", 1),
    ],
)
def test_the_faults_of_a_source_are_seen(text: str, count: int) -> None:
    assert len(list(faults_in(text))) == count


def test_every_source_runs_on_every_system() -> None:
    faults = {str(file): list(faults_in(file.read_text(encoding="utf-8"))) for file in FILES}
    assert len(faults) > 300
    assert not {name: found for name, found in faults.items() if found}


@pytest.mark.parametrize("name", ["a:b", "nul", "COM1.txt", "what?", "x. ", 'a"b', "tab\t"])
def test_names_that_windows_gives_no_file_are_refused_there_alone(name: str) -> None:
    assert explain_name(PureWindowsPath(f"C:/runs/{name}/out"))
    assert explain_name(PurePosixPath("/runs") / name) is None


@pytest.mark.parametrize("name", [r"C:\runs\new", "runs/null", "..", "console.txt", r"\\server\share\x"])
def test_other_names_are_good(name: str) -> None:
    assert explain_name(PureWindowsPath(name)) is None


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped stands there")
def test_the_tensors_of_a_small_file_leave_it_free(tmp_path: Path) -> None:
    import safetensors.torch

    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(1000)}, file, metadata={"k": "v"})
    mapped = safetensors.torch.load_file(file)
    assert list(in_use(str(tmp_path))) == [str(file)]
    del mapped
    tensors, metadata = read_tensors(file)
    assert (tensors["a"].sum(), metadata) == (1000, {"k": "v"})
    assert not list(in_use(str(tmp_path)))


@pytest.mark.parametrize("text", [r"C:\data\me\x", r"C:\\data\\me\\x", "C:/data/me/x"])
def test_a_folder_of_windows_is_found_however_it_is_written(text: str) -> None:
    own = [PureWindowsPath(r"C:\data\me")]
    leaks = find_leaks("notes.txt", f"from {text}".encode(), own)
    assert [leak.what for leak in leaks] == ["a path of this machine"]


@pytest.mark.parametrize("windows", [True, False])
def test_a_pager_that_has_gone_is_an_invalid_argument_on_windows(windows: bool) -> None:
    assert has_lost_reader(BrokenPipeError(), windows)
    assert has_lost_reader(OSError(errno.EINVAL, "Invalid argument"), windows) is windows
    assert not has_lost_reader(OSError(errno.EINVAL, "Invalid argument", "a?b"), windows)
    assert not has_lost_reader(OSError(errno.EIO, "broken"), windows)
