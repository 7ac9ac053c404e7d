"""`vectomy verify` by its exit status: 0 carries the edit, 1 does not, 3 cannot tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file, save_file
from tiny import build, unit

from vectomy import Edit, bake

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "tiny"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an Edit of half strength, and what was baked of it."""
    folder = tmp_path_factory.mktemp("world")
    tiny = build(folder / "base", "llama")
    edit = Edit.ablation(tiny.folder, unit(), 0.5)
    edit.save(folder / "edit.safetensors")
    bake(edit, tiny.folder, folder / "edited")
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "given", "status", "exit_status"),
    [
        ("edited", ["--base", "base"], "carried", 0),
        ("base", ["--base", "base"], "not_carried", 1),
        ("base", [], "not_carried", 1),
        ("edited", [], "unknown", 3),
    ],
)
def test_the_exit_status_is_the_receipts(
    checkpoint: str,
    given: list[str],
    status: str,
    exit_status: int,
    world: Path,
    vectomy: Vectomy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(world)
    command = ("verify", checkpoint, "--edit", "edit.safetensors", *given, "--no-run")
    got, out, _ = vectomy(*command, "--json")
    receipt = json.loads(out)
    assert (got, receipt["status"]) == (exit_status, status)
    assert receipt["reason"]
    got, out, _ = vectomy(*command)
    first = {"carried": "carries the edit: ", "not_carried": "FAILED: ", "unknown": "cannot tell: "}
    assert got == exit_status
    assert out.startswith(first[status] + receipt["reason"])


def test_apply_writes_a_broken_base_and_says_so(
    world: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = build(tmp_path / "base", "llama")
    weights = load_file(tiny.folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3] = float("nan")
    save_file(weights, tiny.folder / "model.safetensors", metadata={"format": "pt"})
    Edit.ablation(tiny.folder, unit()).save(tmp_path / "edit.safetensors")
    got, out, _ = vectomy("apply", "edit.safetensors", "base", "--out", "out")
    assert got == 1
    assert out.startswith("FAILED: the residual stream has NaN or infinite values, leaving layer 1")
    assert (tmp_path / "out" / "vectomy" / "record.json").is_file()
