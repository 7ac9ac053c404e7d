"""The file of an Edit: it saves and loads as itself, and is refused where it is damaged."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hand_made_edit import BASE, operation, same
from tiny import WIDTH, unit

from vectomy.core.errors import EditError
from vectomy.edits.edit import Edit, Operation

TIER = "unit"


# The file


def rich_edit() -> Edit:
    return Edit(
        BASE,
        (
            operation("embedding", None, norm="column"),
            operation("attention", 2, k=3, strengths=torch.tensor([0.1, -1.0, 2.0]), norm="row"),
            operation("mlp", 2, addition=torch.randn(WIDTH)),
        ),
        {"behaviour": "style é\ud800", "numbers": [1, 0.1, None, True]},
    )


def test_an_edit_file_holds_all_of_the_edit(tmp_path: Path) -> None:
    edit = rich_edit()
    edit.save(tmp_path / "e.safetensors")
    read = Edit.load(tmp_path / "e.safetensors")
    assert read.base == edit.base
    assert read.about == edit.about
    for one, other in zip(read.operations, edit.operations, strict=True):
        for field in dataclasses.fields(Operation):
            a, b = getattr(one, field.name), getattr(other, field.name)
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name
    assert read.sha256 == edit.sha256


@pytest.mark.tiny
def test_equal_bases_are_stored_once(tiny_of) -> None:
    data = Edit.ablation(tiny_of().folder, unit()).to_bytes()
    assert len(safetensors.torch.load(data)) == 1


def test_the_order_of_operations_and_keys_does_not_change_the_bytes() -> None:
    edit = rich_edit()
    turned = Edit(BASE, edit.operations[::-1], dict(reversed(edit.about.items())))
    assert same(edit, turned)


PROGRAM = """
import sys, torch
from vectomy.edits.edit import Edit
direction = torch.arange(32.0) - 7
directions, about = torch.stack([direction, direction.square()]), {"b": 1, "a": {"d": 2, "c": 3}}
print(Edit.ablation(sys.argv[1], directions, 0.3, about=about).sha256)
"""


@pytest.mark.tiny
def test_the_bytes_are_the_same_in_every_process(tiny_of) -> None:
    hashes = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tiny_of().folder)],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Edit file"),
        (b"not safetensors", "no Edit file"),
        (safetensors.torch.save({"a": torch.ones(2)}), "not an Edit"),
        (safetensors.torch.save({}, metadata={"vectomy": "[1"}), "no Edit file"),
        (
            safetensors.torch.save({}, metadata={"vectomy": '{"format": "vectomy-edit", "version": 2}'}),
            "version 2",
        ),
        (
            safetensors.torch.save({}, metadata={"vectomy": '{"format": "vectomy-edit", "version": 1}'}),
            "damaged",
        ),
        (safetensors.torch.save({}, metadata={"vectomy": "9" * 5000}), "no Edit"),
        (safetensors.torch.save({}, metadata={"vectomy": "[" * 100_000}), "no Edit"),
    ],
    ids=["empty", "text", "foreign", "half-json", "version", "no-operations", "huge-number", "deep"],
)
def test_a_file_that_is_no_edit_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(data)
    with pytest.raises(EditError, match=message):
        Edit.load(path)


def test_a_missing_file_and_a_folder_are_edit_errors(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no Edit")):
        with pytest.raises(EditError, match=message):
            Edit.load(path)


def with_header(change) -> bytes:
    data = rich_edit().to_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["vectomy"])
    change(header)
    return safetensors.torch.save(safetensors.torch.load(data), metadata={"vectomy": json.dumps(header)})


ROW_VALUES = [None, "x", -(10**400), 1e300, 1.5, -1, True, [], [[1], 2], {}, [10**400], ["a"], [None]]


@pytest.mark.parametrize("value", ROW_VALUES, ids=lambda value: str(value)[:10])
@pytest.mark.parametrize("key", ["component", "layer", "expert", "norm", "basis", "strengths", "addition"])
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_value_in_an_operation_is_an_edit_error_or_a_valid_edit(
    tmp_path: Path, key: str, value: object
) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(with_header(lambda header: header["operations"][1].update({key: value})))
    if key in ("expert", "addition") and value is None:
        Edit.load(path)
    else:
        with pytest.raises(EditError, match="damaged"):
            Edit.load(path)


@pytest.mark.parametrize("value", [None, "x", 1.5, -1, [], {}], ids=str)
@pytest.mark.parametrize("key", ["model_type", "d_model", "n_layers", "vocab", "fingerprint", "name"])
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_value_in_the_base_is_an_edit_error_or_text(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(with_header(lambda header: header["base"].update({key: value})))
    if isinstance(value, str) and key in ("model_type", "fingerprint", "name"):
        assert getattr(Edit.load(path).base, key) == value
    else:
        with pytest.raises(EditError, match="damaged"):
            Edit.load(path)


@pytest.mark.parametrize(
    "change", [lambda h: h.update(operations=3), lambda h: h.update(about=[1]), lambda h: h.pop("base")]
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_shape_of_the_header_is_an_edit_error(tmp_path: Path, change) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(with_header(change))
    with pytest.raises(EditError, match="damaged"):
        Edit.load(path)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.bool, torch.complex64], ids=str)
@pytest.mark.usefixtures("unchecked")
def test_a_basis_of_another_dtype_is_an_edit_error(tmp_path: Path, dtype: torch.dtype) -> None:
    data = rich_edit().to_bytes()
    length = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + length])["__metadata__"]["vectomy"]
    cast = {name: value.to(dtype) for name, value in safetensors.torch.load(data).items()}
    path = tmp_path / "e.safetensors"
    path.write_bytes(safetensors.torch.save(cast, metadata={"vectomy": text}))
    with pytest.raises(EditError, match="damaged"):
        Edit.load(path)


@pytest.mark.usefixtures("unchecked")
def test_damage_of_any_byte_gives_an_edit_error_or_an_edit(tmp_path: Path) -> None:
    data, path = rich_edit().to_bytes(), tmp_path / "e.safetensors"
    draw = torch.Generator().manual_seed(5)
    header = 8 + int.from_bytes(data[:8], "little")
    refused = 0
    for round_ in range(600):
        damaged = bytearray(data)
        reach = len(data) if round_ % 3 == 0 else header
        for at in torch.randint(reach, (300 if round_ % 9 == 0 else 1,), generator=draw).tolist():
            damaged[at] = int(torch.randint(256, (1,), generator=draw))
        path.write_bytes(damaged)
        try:
            Edit.load(path).to_bytes()
        except EditError as error:
            refused += str(path) in str(error)
    assert refused > 300


@pytest.mark.usefixtures("unchecked")
def test_a_truncated_file_is_an_edit_error(tmp_path: Path) -> None:
    data, path = rich_edit().to_bytes(), tmp_path / "e.safetensors"
    for length in range(0, len(data), 17):
        path.write_bytes(data[:length])
        with pytest.raises(EditError, match="no Edit file"):
            Edit.load(path)
