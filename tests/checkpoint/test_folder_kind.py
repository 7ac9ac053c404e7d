"""A folder that is no model says what it is and what to do; a download is blamed only for what a
download can break.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import CheckpointError, UnsafeCheckpointError

TIER = "unit"

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456789\n"
HEADER = b"\x02\x00\x00\x00\x00\x00\x00\x00{}"


def write(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def adapter(folder: Path) -> None:
    write(folder, adapter_config_dot_json='{"base_model_name_or_path": "org/base"}')
    write(folder, adapter_model_dot_safetensors=HEADER)


def adapter_beside_a_model(folder: Path) -> None:
    adapter(folder)
    write(folder, config_dot_json="{}", model_dot_safetensors=HEADER)


def cache(folder: Path) -> None:
    for commit in ("aaa", "bbb", "ccc"):
        write(folder, **{f"snapshots__{commit}__config_dot_json": "{}"})
    write(folder, refs__main="bbb")


def parts(folder: Path) -> None:
    write(folder, config_dot_json="{}")
    write(folder, **{"model-00001-of-00003_dot_safetensors": HEADER})


FOLDERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "lfs-weights": (
        lambda f: write(f, config_dot_json="{}", model_dot_safetensors=POINTER),
        ("git-LFS pointer", "git lfs pull"),
    ),
    "lfs-config": (lambda f: write(f, config_dot_json=POINTER), ("git lfs pull",)),
    "lfs-tokenizer": (
        lambda f: write(f, config_dot_json="{}", model_dot_safetensors=HEADER, tokenizer_dot_json=POINTER),
        ("tokenizer.json is a git-LFS pointer",),
    ),
    "adapter": (adapter, ("PEFT adapter", "'org/base'", "merge_and_unload")),
    "adapter-beside": (adapter_beside_a_model, ("whole model and an adapter", "move the adapter")),
    "gguf": (
        lambda f: write(f, **{"model-Q4_dot_gguf": b"GGUF", "mmproj-model_dot_gguf": b"GGUF"}),
        ("holds GGUF files", "give one of the files", "/model-Q4.gguf"),
    ),
    "capitals": (
        lambda f: write(f, config_dot_json="{}", MODEL_dot_SAFETENSORS=HEADER),
        ("holds MODEL.SAFETENSORS", "rename it to model.safetensors"),
    ),
    "projector": (
        lambda f: write(f, **{"mmproj-model-f16_dot_gguf": b"GGUF"}),
        ("holds a projector alone", "does not generate text", "give the language model"),
    ),
    "cache": (cache, ("Hub cache", "snapshots/bbb")),
    "cache-of-models": (
        lambda f: write(f, **{"models--org--name__refs__main": "x"}),
        ("Hub cache of 1 models", "org/name"),
    ),
    "diffusion": (lambda f: write(f, model_index_dot_json="{}"), ("diffusers pipeline", "text_encoder/")),
    "fsdp": (
        lambda f: write(f, config_dot_json="{}", pytorch_model_fsdp_0__x="x"),
        ("sharded training checkpoint", "merge-weights"),
    ),
    "maker": (
        lambda f: write(f, params_dot_json="{}", **{"consolidated.00_dot_pth": "x"}),
        ("maker's own layout", "release for transformers"),
    ),
    "onnx": (lambda f: write(f, config_dot_json="{}", model_dot_onnx="x"), ("format ONNX", "safetensors")),
    "trainer": (
        lambda f: write(
            f, **{"checkpoint-5__config_dot_json": "{}", "checkpoint-5__model_dot_safetensors": HEADER}
        ),
        ("no config.json", "give", "checkpoint-5"),
    ),
    "some-parts": (parts, ("1 of 3 parts", "was the download complete?")),
    "no-weights": (
        lambda f: write(f, config_dot_json="{}"),
        ("holds no weights", "was the download complete?"),
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_model_says_what_it_is(kind: str, tmp_path: Path) -> None:
    build, parts = FOLDERS[kind]
    build(tmp_path)
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(tmp_path)
    assert all(part in str(error.value) for part in parts), error.value
    blamed = "download complete" in str(error.value)
    assert blamed is any("download complete" in part for part in parts)


def test_a_file_and_a_broken_link_are_told_from_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(HEADER)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, message in (
        ("model.safetensors", f"give the folder {tmp_path}"),
        ("link", "is a link to"),
        ("none", "does not exist"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(tmp_path / name)


def test_pickles_stay_unsafe(tmp_path: Path) -> None:
    write(tmp_path, config_dot_json="{}", pytorch_model_dot_bin="x")
    with pytest.raises(UnsafeCheckpointError, match="pickle"):
        Checkpoint.open(tmp_path)


def test_a_broken_adapter_config_is_an_adapter_all_the_same(tmp_path: Path) -> None:
    for content in ("{", "[]", json.dumps({"base_model_name_or_path": 3}), "[" * 100_000):
        write(tmp_path, adapter_config_dot_json=content)
        with pytest.raises(CheckpointError, match="PEFT adapter"):
            Checkpoint.open(tmp_path)
