"""A folder is believed only as far as it checks out: every lie is a CheckpointError that names it,
and nothing is written.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damaged_folder import (
    INDEX,
    NORM,
    SINGLE,
    damage,
    is_readable,
    list_shards,
    refuse_to_open,
    rewrite_index,
    split_shard,
)
from safetensors.torch import load_file, save_file
from tiny import build, file_hashes

from vectomy.checkpoint import Checkpoint, fingerprint, read_tensor
from vectomy.core.errors import CheckpointError, UnsafeCheckpointError

TIER = "tiny"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return build(tmp_path / "single", "llama").folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return build(tmp_path / "sharded", "llama", sharded=True).folder


# What is right


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor_is_read_as_safetensors_reads_it(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    opened = Checkpoint.open(folder)
    expected = {name: value for file in list_shards(folder) for name, value in load_file(file).items()}
    assert opened.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(read_tensor(opened, name), value)
        assert opened.tensors[name].shape == tuple(value.shape)
    assert opened.bytes == sum(file.stat().st_size for file in list_shards(folder))
    assert (opened.index is None) is (kind == "single")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_scalars_and_empty_tensors_of_every_float_dtype_are_read(single: Path, dtype: torch.dtype) -> None:
    values = {
        "a": torch.tensor(2.5, dtype=dtype),
        "b": torch.zeros(0, 3, dtype=dtype),
        "c": torch.randn(3, 5).to(dtype),
    }
    save_file(values, single / SINGLE)
    opened = Checkpoint.open(single)
    for name, value in values.items():
        read = read_tensor(opened, name)
        assert read.dtype == dtype
        assert torch.equal(read, value)
    assert fingerprint(opened)


def test_sidecars_and_other_weights_are_told_apart(single: Path) -> None:
    for name in ("model.gguf", "pytorch_model.bin", "README.md", ".gitattributes", "onnx.txt"):
        (single / name).write_text("x")
    (single / ".cache").mkdir()
    (single / ".cache" / "hidden").write_text("x")
    opened = Checkpoint.open(single)
    assert opened.other_weights == ("model.gguf", "pytorch_model.bin")
    assert set(opened.sidecars) == {
        "README.md",
        "extra/template.jinja",
        "generation_config.json",
        "onnx.txt",
        "tokenizer.json",
    }


def test_one_weight_file_of_another_name_is_taken(single: Path) -> None:
    tensors = Checkpoint.open(single).tensors.keys()
    (single / SINGLE).rename(single / "weights.safetensors")
    renamed = Checkpoint.open(single)
    assert renamed.tensors.keys() == tensors
    assert any("transformers finds them as model.safetensors alone" in note for note in renamed.notes)


def test_the_fingerprint_changes_with_any_sampled_byte_name_or_dtype(single: Path) -> None:
    state = load_file(single / SINGLE)
    found = {fingerprint(Checkpoint.open(single))}
    changed = {**state, NORM: state[NORM] + torch.eye(32)[31] * 1e-3}
    renamed = {("x" if name == NORM else name): value for name, value in state.items()}
    for values in (
        changed,
        renamed,
        {**state, NORM: state[NORM].half()},
        {**state, NORM: state[NORM].view(32, 1)},
    ):
        save_file(values, single / SINGLE)
        found.add(fingerprint(Checkpoint.open(single)))
    assert len(found) == 5


def test_a_tensor_that_is_not_there_or_is_packed_is_named(single: Path) -> None:
    opened = Checkpoint.open(single)
    with pytest.raises(CheckpointError, match="'nothing' is not in"):
        read_tensor(opened, "nothing")
    save_file({"packed": torch.zeros(4, dtype=torch.int8)}, single / SINGLE)
    with pytest.raises(CheckpointError, match="stored as I8"):
        read_tensor(Checkpoint.open(single), "packed")


# Missing pieces


@pytest.mark.unit
def test_no_folder_is_named(tmp_path: Path) -> None:
    refuse_to_open(tmp_path / "none", "does not exist")
    (tmp_path / "file").touch()
    refuse_to_open(tmp_path / "file", "is a file")


CONFIGS = {
    "text": (b"not json", "does not parse"),
    "half": (b'{"model_type": ', "does not parse"),
    "list": (b"[1]", "holds a list"),
    "null": (b"null", "holds a NoneType"),
    "latin-1": (b'{"name": "\xe9"}', "does not parse"),
    "deep": (b"[" * 100_000, "does not parse"),
    "huge-number": (b'{"vocab_size": ' + b"9" * 5000 + b"}", "does not parse"),
    "empty": (b"", "does not parse"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_no_json_object_is_named(single: Path, case: str) -> None:
    data, message = CONFIGS[case]
    (single / "config.json").write_bytes(data)
    refuse_to_open(single, f"config.json.*{message}")


@pytest.mark.parametrize("name", ["config.json", INDEX, SINGLE])
def test_a_folder_where_a_file_should_be_is_named(single: Path, name: str) -> None:
    (single / name).unlink(missing_ok=True)
    (single / name).mkdir()
    # The index is asked for where there is no single file.
    if name == INDEX:
        (single / SINGLE).unlink()
    refuse_to_open(single, name)


def test_of_a_single_file_and_an_index_the_single_file_counts_as_in_transformers(
    single: Path, sharded: Path
) -> None:
    for file in (*sharded.glob("*.safetensors"), sharded / INDEX):
        shutil.copy(file, single / file.name)
    opened = Checkpoint.open(single)
    assert {entry.shard for entry in opened.tensors.values()} == {SINGLE}
    assert set(opened.other_weights) == {file.name for file in sharded.glob("*.safetensors")}


def test_missing_config_and_missing_weights_are_named(single: Path) -> None:
    (single / SINGLE).unlink()
    refuse_to_open(single, "holds no weights")
    (single / "config.json").unlink()
    refuse_to_open(single, "config.json does not exist")


def test_shards_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refuse_to_open(sharded, f"no {INDEX}")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_only_is_unsafe(single: Path, name: str) -> None:
    (single / SINGLE).rename(single / name)
    refuse_to_open(single, f"pickle weights only.*{name}", UnsafeCheckpointError)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = list_shards(sharded)[2]
    gone.unlink()
    refuse_to_open(sharded, f"{gone.name} is missing")


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1, -40_000])
def test_a_truncated_file_is_named(single: Path, length: int) -> None:
    file = single / SINGLE
    file.write_bytes(file.read_bytes()[:length])
    refuse_to_open(single, f"{SINGLE}.*(truncated|not a whole safetensors)")


def test_bytes_behind_the_end_are_refused(single: Path) -> None:
    with (single / SINGLE).open("ab") as file:
        file.write(b"x")
    refuse_to_open(single, "truncated or damaged")


# An index that lies


OUTSIDE = [
    "../x.safetensors",
    "/etc/passwd",
    "sub/x.safetensors",
    "..",
    ".",
    "",
    "a\\b.safetensors",
    "x\0.safetensors",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_that_points_outside_is_unsafe(sharded: Path, name: str) -> None:
    save_file({"outside": torch.ones(2)}, sharded.parent / "x.safetensors")
    rewrite_index(sharded, lambda index: index["weight_map"].update({NORM: name}))
    refuse_to_open(sharded, "not a file name in its own folder", UnsafeCheckpointError)


@pytest.mark.parametrize(
    "name", ["extra", "x" * 300, "\ud800.safetensors", "none.safetensors", "config.json", INDEX]
)
def test_an_index_that_names_no_weight_file_is_refused(sharded: Path, name: str) -> None:
    rewrite_index(sharded, lambda index: index["weight_map"].update({NORM: name}))
    refuse_to_open(sharded, "shard")


def another_shard(index: dict) -> None:
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"][NORM] = next(name for name in names if name != index["weight_map"][NORM])


INDEXES: dict[str, tuple[Callable[[dict], object], str]] = {
    "wrong-shard": (another_shard, "but it is in"),
    "absent": (lambda i: i["weight_map"].update(ghost=i["weight_map"][NORM]), "does not hold it"),
    "no-map": (lambda i: i.pop("weight_map"), "no 'weight_map'"),
    "list-map": (lambda i: i.update(weight_map=["a"]), "no 'weight_map'"),
    "number": (lambda i: i["weight_map"].update({NORM: 3}), "no 'weight_map'"),
    "empty-map": (lambda i: i.update(weight_map={}), "hold no tensor"),
}


@pytest.mark.parametrize("case", INDEXES)
def test_an_index_that_disagrees_with_its_shards_is_refused(sharded: Path, case: str) -> None:
    change, message = INDEXES[case]
    rewrite_index(sharded, change)
    refuse_to_open(sharded, message)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    file = next(file for file in list_shards(sharded) if NORM not in split_shard(file)[0])
    save_file({**load_file(file), NORM: torch.ones(32)}, file)
    refuse_to_open(sharded, f"'{NORM}' is in both")


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_an_index_that_is_no_json_object_is_named(sharded: Path, data: bytes) -> None:
    (sharded / INDEX).write_bytes(data)
    refuse_to_open(sharded, INDEX)


def test_damaged_index_files_are_only_ever_checkpoint_errors(sharded: Path) -> None:
    data, draw, passed = (sharded / INDEX).read_bytes(), random.Random(3), 0
    before = file_hashes(sharded)
    for _ in range(300):
        (sharded / INDEX).write_bytes(damage(data, draw))
        passed += is_readable(sharded)
    (sharded / INDEX).write_bytes(data)
    assert file_hashes(sharded) == before
    assert passed < 150
    assert is_readable(sharded)
