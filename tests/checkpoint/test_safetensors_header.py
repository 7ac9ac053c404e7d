"""A header of a weight file that lies or is damaged at random is a CheckpointError."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged_folder import NORM, SINGLE, damage, is_readable, refuse_to_open, rewrite_header
from tiny import build

TIER = "tiny"


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return build(tmp_path / "single", "llama").folder


@pytest.mark.parametrize("length", [0, 1, 2**20, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused_without_reading_it(single: Path, length: int) -> None:
    file = single / SINGLE
    file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
    refuse_to_open(single, "not a whole safetensors file")


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
    refuse_to_open(single, message)


@pytest.mark.parametrize(
    "text", [b"[1, 2]", b'"header"', b"{]", b"\xff\xfe{}", b"[" * 50_000, b'{"a": ' + b"9" * 5000 + b"}"]
)
def test_a_header_that_is_no_object_is_refused(single: Path, text: bytes) -> None:
    (single / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text)
    refuse_to_open(single, f"header of shard .*{SINGLE}")


def test_weights_without_a_tensor_are_refused(single: Path) -> None:
    (single / SINGLE).write_bytes(struct.pack("<Q", 2) + b"{}")
    refuse_to_open(single, "hold no tensor")


def test_damaged_headers_are_only_ever_checkpoint_errors(single: Path) -> None:
    file, draw, passed = single / SINGLE, random.Random(4), 0
    whole = file.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = whole[8 : 8 + length], whole[8 + length :]
    for _ in range(400):
        text = damage(header, draw)
        said = len(text) if draw.random() < 0.9 else draw.getrandbits(64)
        file.write_bytes(struct.pack("<Q", said) + text + data)
        passed += is_readable(single)
    assert passed < 200
    file.write_bytes(whole)
    assert is_readable(single)


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
        is_readable(single)
