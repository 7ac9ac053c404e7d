"""A GGUF file comes to where LM Studio and Ollama find it, and replaces nothing there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vectomy.core.errors import ArtifactError, VectomyError
from vectomy.workflows.place_gguf import place_gguf, write_modelfile

TIER = "unit"


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "My Model-Q4_K_M.gguf"
    path.parent.mkdir()
    path.write_bytes(b"GGUF one")
    return path


@pytest.mark.parametrize("moved", [False, True])
def test_lm_studio_finds_publisher_name_file(gguf: Path, tmp_path: Path, moved: bool) -> None:
    home = tmp_path / "home"
    folder = tmp_path / "elsewhere" if moved else home / ".lmstudio"
    for path in (home, folder):
        path.mkdir(parents=True, exist_ok=True)
    if moved:
        (home / ".lmstudio-home-pointer").write_text(f"{folder}\n", encoding="utf-8")
    placed = place_gguf(gguf, "lmstudio", home)
    target = folder / "models" / "vectomy" / "my-model-q4_k_m" / gguf.name
    assert placed.startswith("LM Studio lists it")
    assert str(target) in placed
    assert target.read_bytes() == gguf.read_bytes()
    assert os.path.samefile(target, gguf)
    assert place_gguf(gguf, "lmstudio", home).startswith("LM Studio has it already")
    gguf.unlink()
    gguf.write_bytes(b"GGUF two")
    with pytest.raises(ArtifactError, match="has another file"):
        place_gguf(gguf, "lmstudio", home)
    assert target.read_bytes() == b"GGUF one"


def test_without_lm_studio_nothing_is_made_and_the_way_is_said(gguf: Path, tmp_path: Path) -> None:
    placed = place_gguf(gguf, "lmstudio", tmp_path)
    assert placed.startswith("LM Studio is not here")
    assert f"lms import {gguf.name}" in placed
    assert not (tmp_path / ".lmstudio").exists()


def test_the_modelfile_names_the_file_beside_it(gguf: Path) -> None:
    modelfile = write_modelfile(gguf)
    lines = modelfile.read_text("utf-8").splitlines()
    (source,) = [line for line in lines if line.startswith("FROM ")]
    assert (modelfile.parent / source.removeprefix("FROM ")).read_bytes() == gguf.read_bytes()
    modelfile.write_text("FROM mine\n", encoding="utf-8")
    assert write_modelfile(gguf).read_text("utf-8") == "FROM mine\n"


def test_ollama_is_called_with_the_modelfile_or_the_line_is_shown(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    placed = place_gguf(gguf, "ollama")
    line = f"ollama create my-model-q4_k_m -f {gguf.with_suffix('.Modelfile')}"
    assert line in placed
    program, called = tmp_path / "ollama", tmp_path / "called"
    program.write_text(
        f'#!/bin/sh\n[ $1 = create ] || exit 1\nprintf "%s|" "$@" > {called}\n', encoding="utf-8"
    )
    program.chmod(0o755)
    assert place_gguf(gguf, "ollama") == "ollama run my-model-q4_k_m"
    assert called.read_text("utf-8").split("|")[:3] == ["create", "my-model-q4_k_m", "-f"]
    assert called.read_text("utf-8").split("|")[3] == str(gguf.with_suffix(".Modelfile"))
    program.write_text("#!/bin/sh\necho no such template >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(VectomyError, match="ollama create failed: no such template"):
        place_gguf(gguf, "ollama")


def test_a_model_of_ollama_is_replaced_only_if_that_is_said(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program, called = tmp_path / "ollama", tmp_path / "called"
    # It has a model of every name.
    program.write_text(f'#!/bin/sh\n[ $1 = show ] || printf "%s" "$1 $2" > {called}\n', encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises(ArtifactError, match=r"has a model my-model-q4_k_m already.*--overwrite"):
        place_gguf(gguf, "ollama")
    assert not called.exists()
    assert place_gguf(gguf, "ollama", overwrite=True) == "ollama run my-model-q4_k_m"
    assert called.read_text("utf-8") == "create my-model-q4_k_m"
