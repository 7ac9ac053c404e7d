"""A rewrite changes groups of tensors, adds tensors, and leaves every other byte where and what it
was.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import file_hashes
from torch import Tensor

from vectomy.checkpoint import Added, Change, Checkpoint, rewrite, shard
from vectomy.core.errors import CheckpointError

TIER = "unit"

INDEX = "model.safetensors.index.json"
A, B = "model-1.safetensors", "model-2.safetensors"
STORED: dict[str, dict[str, Tensor]] = {
    A: {
        "head": torch.arange(12.0).reshape(6, 2).bfloat16(),
        "values": torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn),
        "near": torch.full((4, 1), 2.0),
        "packed": torch.arange(5, dtype=torch.uint8),
        "scalar": torch.tensor(3.0, dtype=torch.float64),
    },
    B: {"far": torch.full((4, 1), 0.5), "other": torch.randn(6, 2), "empty": torch.zeros(0, 3)},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    for name, tensors in STORED.items():
        save_file(tensors, path / name, metadata={"format": "pt"})
    sizes = [value.nbytes for tensors in STORED.values() for value in tensors.values()]
    counts = [value.numel() for tensors in STORED.values() for value in tensors.values()]
    weight_map = {tensor: name for name, tensors in STORED.items() for tensor in tensors}
    metadata = {"total_size": sum(sizes), "total_parameters": sum(counts)}
    (path / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    (path / "config.json").write_text("{}")
    return path


def tensors(folder: Path) -> dict[str, Tensor]:
    return {
        name: value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def same(a: Tensor, b: Tensor) -> bool:
    raw = [value.contiguous().reshape(-1).view(torch.uint8) for value in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def negative(values: Tensor) -> Tensor:
    return (-values.float()).to(torch.float8_e4m3fn)


@pytest.mark.parametrize(("scales", "calls"), [(("near",), 1), (("far",), 2), (("near", "far"), 2)], ids=str)
def test_a_group_is_made_once_for_each_shard_it_lies_in(
    folder: Path, tmp_path: Path, scales: tuple[str, ...], calls: int
) -> None:
    seen: list[set[str]] = []

    def make(old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(set(old))
        assert old["values"].dtype == torch.float8_e4m3fn
        return {"values": negative(old["values"])} | {name: 2 * old[name] for name in scales}

    rewrite(Checkpoint.open(folder), tmp_path / "out", [Change(("values", *scales), make, reads=("packed",))])
    before, after = tensors(folder), tensors(tmp_path / "out")
    assert seen == [{"values", "packed", *scales}] * calls
    assert same(after["values"], negative(before["values"]))
    for name in before.keys() - {"values"}:
        assert same(after[name], 2 * before[name] if name in scales else before[name]), name


def test_what_a_change_overwrites_is_its_own(folder: Path, tmp_path: Path) -> None:
    source = file_hashes(folder)

    def make(old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        old["near"].zero_()
        return {"scalar": old["scalar"].mul_(2)}

    rewrite(Checkpoint.open(folder), tmp_path / "out", [Change(("scalar",), make, reads=("near",))])
    after = tensors(tmp_path / "out")
    assert after["scalar"].item() == 6
    assert same(after["near"], STORED[A]["near"])
    assert file_hashes(folder) == source


@pytest.mark.parametrize("limit", [1, 9, 10**6])
def test_rows_are_changed_block_by_block_to_the_same_values(folder: Path, tmp_path: Path, limit: int) -> None:
    heights: list[int] = []

    def make(old: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heights.append(len(old["head"]))
        assert len(old["other"]) == len(old["head"])
        return {"head": (old["head"] + old["other"]).bfloat16()}

    change = Change(("head",), make, reads=("other",), rows=True, block_bytes=limit)
    rewrite(Checkpoint.open(folder), tmp_path / "out", [change])
    expected = (STORED[A]["head"] + STORED[B]["other"]).bfloat16()
    assert same(tensors(tmp_path / "out")["head"], expected)
    assert heights == {1: [1] * 6, 9: [1] * 6, 10**6: [6]}[limit]


def test_a_tensor_is_added_as_a_copy_or_made_and_the_index_counts_it(folder: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(folder)
    added = {
        "copied": Added.copy(opened.tensors["head"]),
        "bias": Added(B, "F16", (3,)),
        "elsewhere": Added(B, "BF16", (6, 2), copy_of="head"),
        "changed": Added(A, "BF16", (6, 2)),
    }
    changes = [
        Change(("bias",), lambda _: {"bias": torch.ones(3).half()}),
        Change(("head", "changed"), lambda old: {"changed": 2 * old["head"], "head": -old["head"]}),
    ]
    rewrite(opened, tmp_path / "out", changes, added=added)
    after, head = tensors(tmp_path / "out"), STORED[A]["head"]
    assert same(after["copied"], head)
    assert same(after["elsewhere"], head)
    assert same(after["changed"], 2 * head)
    assert same(after["head"], -head)
    assert same(after["bias"], torch.ones(3).half())
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert {name: index["weight_map"][name] for name in added} == {
        name: new.shard for name, new in added.items()
    }
    assert index["metadata"] == {
        "total_size": sum(value.nbytes for value in after.values()),
        "total_parameters": sum(value.numel() for value in after.values()),
    }
    Checkpoint.open(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F8_E4M3", "U8"])
def test_an_added_tensor_and_those_behind_it_stay_aligned(folder: Path, tmp_path: Path, dtype: str) -> None:
    """A shard of five odd bytes at its end: what is put behind them could not be read by
    safetensors.
    """
    opened = Checkpoint.open(folder)
    stored = shard.STORED_DTYPES[dtype]
    make = Change(("new",), lambda _: {"new": torch.ones(3).to(stored)})
    rewrite(opened, tmp_path / "out", [make], added={"new": Added(A, dtype, (3,))})
    written = Checkpoint.open(tmp_path / "out")
    for entry in written.tensors.values():
        assert entry.start % (shard.DTYPE_BITS[entry.dtype] // 8) == 0
    after = tensors(tmp_path / "out")
    assert same(after["new"], torch.ones(3).to(stored))
    assert all(same(after[name], value) for name, value in STORED[A].items())


def test_a_header_without_additions_is_kept_to_the_byte(folder: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(folder)
    rewrite(opened, tmp_path / "out", [Change.of("near", lambda old: old + 1)])
    assert [s.header for s in Checkpoint.open(tmp_path / "out").shards] == [s.header for s in opened.shards]
    assert file_hashes(tmp_path / "out")[B] == file_hashes(folder)[B]


def nothing(_: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {}


REFUSED: dict[str, tuple[list[Change], dict[str, Added], type[Exception], str]] = {
    "unknown": ([Change(("ghost",), nothing)], {}, CheckpointError, "'ghost' is not in"),
    "unknown-read": (
        [Change(("near",), nothing, reads=("ghost",))],
        {},
        CheckpointError,
        "'ghost' is not in",
    ),
    "there": ([], {"near": Added(A, "F32", (1,), "far")}, CheckpointError, "has one of that name"),
    "copy-of-nothing": ([], {"new": Added(A, "F32", (1,), "ghost")}, CheckpointError, "'ghost' is not in"),
    "no-shard": ([], {"new": Added("c", "F32", (1,), "near")}, ValueError, "is no shard"),
    "twice": (
        [Change(("near",), nothing), Change(("near", "far"), nothing)],
        {},
        ValueError,
        "two changes make",
    ),
    "unmade": ([], {"new": Added(A, "F32", (1,))}, ValueError, "made by one change"),
    "not-given": ([Change(("near",), nothing)], {}, ValueError, "did not make it"),
    "dtype": ([Change.of("near", lambda old: old.half())], {}, ValueError, r"torch.float16 \[4, 1\]"),
    "shape": ([Change.of("near", lambda old: old.T)], {}, ValueError, r"torch.float32 \[1, 4\]"),
    "rows": ([Change(("near", "head"), nothing, rows=True)], {}, ValueError, "do not share their rows"),
    "scalar-rows": ([Change(("scalar",), nothing, rows=True)], {}, ValueError, "do not share their rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused_by_name(folder: Path, tmp_path: Path, case: str) -> None:
    changes, added, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        rewrite(Checkpoint.open(folder), tmp_path / "out", changes, added=added)
    assert not (tmp_path / "out").exists()
