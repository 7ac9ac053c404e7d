"""A folder is believed only as far as it checks out: every lie is a CheckpointError that names it,
and nothing is written.
"""

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build, file_hashes

from vectomy.checkpoint import Checkpoint, fingerprint, read_tensor
from vectomy.core.errors import CheckpointError, UnsafeCheckpointError

TIER = "tiny"

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return build(tmp_path / "single", "llama").folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return build(tmp_path / "sharded", "llama", sharded=True).folder


def refused(folder: Path, message: str, kind: type[CheckpointError] = CheckpointError) -> None:
    before = file_hashes(folder) if folder.is_dir() else {}
    with pytest.raises(kind, match=message):
        Checkpoint.open(folder)
    assert (file_hashes(folder) if folder.is_dir() else {}) == before


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def split(file: Path) -> tuple[dict, bytes]:
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite_header(file: Path, change: Callable[[dict], object]) -> None:
    header, data = split(file)
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rewrite_index(folder: Path, change: Callable[[dict], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


# What is right


@pytest.mark.parametrize("kind", ["single", "sharded"])
def test_every_tensor_is_read_as_safetensors_reads_it(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    opened = Checkpoint.open(folder)
    expected = {name: value for file in shards(folder) for name, value in load_file(file).items()}
    assert opened.tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(read_tensor(opened, name), value)
        assert opened.tensors[name].shape == tuple(value.shape)
    assert opened.bytes == sum(file.stat().st_size for file in shards(folder))
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
    assert Checkpoint.open(single).tensors.keys() == tensors


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
    refused(tmp_path / "none", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is a file")


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
    refused(single, f"config.json.*{message}")


@pytest.mark.parametrize("name", ["config.json", INDEX, SINGLE])
def test_a_folder_where_a_file_should_be_is_named(single: Path, name: str) -> None:
    (single / name).unlink(missing_ok=True)
    (single / name).mkdir()
    # The index is asked for where there is no single file.
    if name == INDEX:
        (single / SINGLE).unlink()
    refused(single, name)


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
    refused(single, "holds no weights")
    (single / "config.json").unlink()
    refused(single, "config.json does not exist")


def test_shards_without_an_index_are_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    refused(sharded, f"no {INDEX}")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickle_only_is_unsafe(single: Path, name: str) -> None:
    (single / SINGLE).rename(single / name)
    refused(single, f"pickle weights only.*{name}", UnsafeCheckpointError)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    gone = shards(sharded)[2]
    gone.unlink()
    refused(sharded, f"{gone.name} is missing")


@pytest.mark.parametrize("length", [0, 3, 8, 100, -1, -40_000])
def test_a_truncated_file_is_named(single: Path, length: int) -> None:
    file = single / SINGLE
    file.write_bytes(file.read_bytes()[:length])
    refused(single, f"{SINGLE}.*(truncated|not a whole safetensors)")


def test_bytes_behind_the_end_are_refused(single: Path) -> None:
    with (single / SINGLE).open("ab") as file:
        file.write(b"x")
    refused(single, "truncated or damaged")


# A header that lies


@pytest.mark.parametrize("length", [0, 1, 2**20, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused_without_reading_it(single: Path, length: int) -> None:
    file = single / SINGLE
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refused(single, "not a whole safetensors file")


def moved(by: int) -> Callable[[dict], None]:
    def change(header: dict) -> None:
        header[NORM]["data_offsets"] = [at + by for at in header[NORM]["data_offsets"]]

    return change


def field(key: str, value: object) -> Callable[[dict], None]:
    return lambda header: header[NORM].update({key: value})


HEADERS: dict[str, tuple[Callable[[dict], object], str]] = {
    "overlap": (moved(-4), "overlaps another or leaves a gap"),
    "gap": (moved(4), "overlaps another or leaves a gap"),
    "outside": (moved(1 << 40), "overlaps another or leaves a gap"),
    "removed": (lambda h: h.pop("model.layers.1.mlp.up_proj.weight"), "overlaps another or leaves a gap"),
    "negative": (moved(-(1 << 40)), "wrongly"),
    "shorter": (
        lambda h: field("data_offsets", [h[NORM]["data_offsets"][0], h[NORM]["data_offsets"][1] - 4])(h),
        "bytes, which",
    ),
    "reversed": (lambda h: h[NORM]["data_offsets"].reverse(), "bytes, which"),
    "dtype": (field("dtype", "F16"), "which is not F16"),
    "unknown-dtype": (field("dtype", "Q4"), "wrongly"),
    "dtype-list": (field("dtype", ["F32"]), "wrongly"),
    "shape": (field("shape", [33]), "which is not F32"),
    "huge-shape": (field("shape", [2**63, 2**63]), "which is not F32"),
    "negative-shape": (field("shape", [-4, -8]), "wrongly"),
    "float-shape": (field("shape", [32.0]), "wrongly"),
    "true-shape": (field("shape", [True]), "wrongly"),
    "no-shape": (field("shape", None), "wrongly"),
    "one-offset": (field("data_offsets", [0]), "wrongly"),
    "text-offsets": (field("data_offsets", "01"), "wrongly"),
    "no-row": (lambda h: h.update({NORM: None}), "wrongly"),
    "extra": (lambda h: h.update({"extra": dict(h[NORM])}), "overlaps another"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies_about_a_tensor_is_refused(single: Path, case: str) -> None:
    change, message = HEADERS[case]
    rewrite_header(single / SINGLE, change)
    refused(single, message)


@pytest.mark.parametrize(
    "text", [b"[1, 2]", b'"header"', b"{]", b"\xff\xfe{}", b"[" * 50_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_header_that_is_no_object_is_refused(single: Path, text: bytes) -> None:
    (single / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text)
    refused(single, f"header of shard .*{SINGLE}")


def test_weights_without_a_tensor_are_refused(single: Path) -> None:
    (single / SINGLE).write_bytes(struct.pack("<Q", 2) + b"{}")
    refused(single, "hold no tensor")


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
    refused(sharded, "not a file name in its own folder", UnsafeCheckpointError)


@pytest.mark.parametrize(
    "name", ["extra", "x" * 300, "\ud800.safetensors", "none.safetensors", "config.json", INDEX]
)
def test_an_index_that_names_no_weight_file_is_refused(sharded: Path, name: str) -> None:
    rewrite_index(sharded, lambda index: index["weight_map"].update({NORM: name}))
    refused(sharded, "shard")


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
    refused(sharded, message)


def test_a_tensor_in_two_shards_is_named(sharded: Path) -> None:
    file = next(file for file in shards(sharded) if NORM not in split(file)[0])
    save_file({**load_file(file), NORM: torch.ones(32)}, file)
    refused(sharded, f"'{NORM}' is in both")


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_an_index_that_is_no_json_object_is_named(sharded: Path, data: bytes) -> None:
    (sharded / INDEX).write_bytes(data)
    refused(sharded, INDEX)


# Random damage


def opens(folder: Path) -> bool:
    """False if refused; any other exception than CheckpointError fails the test."""
    try:
        opened = Checkpoint.open(folder)
        for name in opened.tensors:
            if opened.tensors[name].dtype == "F32":
                read_tensor(opened, name)
    except CheckpointError:
        return False
    return True


def damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 50])):
        at = draw.randrange(len(changed))
        kind = draw.random()
        if kind < 0.6:
            changed[at] = draw.choice(
                b'0123456789{}[],:"\\nulltrue-.eE ' if kind < 0.4 else bytes(range(256))
            )
        elif kind < 0.8:
            del changed[at : at + draw.choice([1, 3, 40])]
        else:
            changed[at:at] = draw.choice([b"9" * 20, b"[", b"null", b"1e999", b"\\ud800", b"NaN", b"-"])
        if not changed:
            return b""
    return bytes(changed)


def test_damaged_index_files_are_only_ever_checkpoint_errors(sharded: Path) -> None:
    data, draw, passed = (sharded / INDEX).read_bytes(), random.Random(3), 0
    before = file_hashes(sharded)
    for _ in range(300):
        (sharded / INDEX).write_bytes(damaged(data, draw))
        passed += opens(sharded)
    (sharded / INDEX).write_bytes(data)
    assert file_hashes(sharded) == before
    assert passed < 150
    assert opens(sharded)


def test_damaged_headers_are_only_ever_checkpoint_errors(single: Path) -> None:
    file, draw, passed = single / SINGLE, random.Random(4), 0
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = whole[8 : 8 + length], whole[8 + length :]
    for _ in range(400):
        text = damaged(header, draw)
        said = len(text) if draw.random() < 0.9 else draw.getrandbits(64)
        file.write_bytes(struct.pack("<Q", said) + text + data)
        passed += opens(single)
    assert passed < 200
    file.write_bytes(whole)
    assert opens(single)


VALUES = [
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    float("inf"),
    "",
    "F32",
    "x",
    [],
    [0],
    [0, 4],
    [[0]],
    {},
    {"dtype": "F32"},
]


def test_wrong_values_anywhere_in_a_header_are_only_ever_checkpoint_errors(single: Path) -> None:
    file, draw = single / SINGLE, random.Random(5)
    whole = file.read_bytes()
    for _ in range(300):
        file.write_bytes(whole)
        key, value = draw.choice(["dtype", "shape", "data_offsets", None]), draw.choice(VALUES)

        def change(header: dict, key: str | None = key, value: object = value) -> None:
            name = draw.choice(sorted(header))
            header.update({name: value}) if key is None or name == "__metadata__" else header[name].update(
                {key: value}
            )

        rewrite_header(file, change)
        opens(single)
