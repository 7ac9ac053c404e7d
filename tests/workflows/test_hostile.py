"""What is handed in may be damaged or made to do harm: it works, or is refused in one line, and
nothing else is touched.

The generator is that of benchmarks/hostile, which runs thousands of cases; below it a case by
name for each defect it found.
"""

import importlib
import json
import os
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import file_hashes, unit

from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.errors import ArchitectureError, CheckpointError, EditError, UnsafeCheckpointError
from vectomy.edits.edit import Edit

TIER = "tiny"

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@pytest.fixture(scope="module")
def runner() -> Iterator[ModuleType]:
    sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    yield importlib.import_module("hostile.runner")
    sys.path.pop()


@pytest.mark.usefixtures("unchecked")
def test_no_mutation_does_more_than_be_refused(runner: ModuleType, tmp_path: Path) -> None:
    bases = runner.build(tmp_path / "bases")
    before = file_hashes(tmp_path / "bases")
    ends = runner.run(420, 1, bases, tmp_path / "area")
    assert len(ends) == 420
    assert [f"{number}: {text}" for number, text in ends.items() if text.startswith("FAILED")] == []
    # Of each kind some are refused, and some are harmless: a generator that only breaks files tests
    # their parser alone. A journal and a finished run take any damage.
    names = [kind.name for kind in runner.KINDS]
    counts = Counter((runner.kind_of(number).name, text == "success") for number, text in ends.items())
    assert all(counts[name, True] for name in names)
    assert {name for name in names if not counts[name, False]} <= {"journal", "finished run"}
    assert file_hashes(tmp_path / "bases") == before


def test_a_run_that_was_cut_off_counts_on_from_where_it_ended(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In two parts or in one: the same ends."""

    def counts(name: str, *cases: int) -> Any:
        for count in cases:
            words = ["--cases", str(count), "--kinds", "journal", "trait", "--json", str(tmp_path / name)]
            monkeypatch.setattr(sys, "argv", ["hostile", *words])
            with pytest.raises(SystemExit):
                runner.main(tmp_path / "unused")
        return {**json.loads((tmp_path / name).read_text()), "seconds": 0}

    assert counts("parts", 7, 20) == counts("whole", 20)


# Defects that it found


@pytest.fixture
def folder(tiny_of, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_of().folder, tmp_path / "in"))


@pytest.fixture
def sharded(tiny_of, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_of(sharded=True).folder, tmp_path / "in"))


def with_header(file: Path, change: Callable[[str], str]) -> None:
    raw = file.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    text = change(raw[8 : 8 + length].decode()).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def one_line(error: BaseException, longest: int = 2000) -> bool:
    return str(error).isprintable() and len(str(error)) < longest


def test_a_tensor_named_twice_in_one_header_is_refused(folder: Path) -> None:
    """A reader that takes the first sees another model than one that takes the last."""
    row = json.dumps({"dtype": "F32", "shape": [32], "data_offsets": [0, 128]})
    with_header(folder / SINGLE, lambda text: text.replace("{", '{"model.norm.weight":' + row + ",", 1))
    with pytest.raises(CheckpointError, match=r"holds 'model\.norm\.weight' twice"):
        Checkpoint.open(folder)


def test_a_tensor_named_twice_in_the_index_is_refused(sharded: Path) -> None:
    text = (sharded / INDEX).read_text()
    (sharded / INDEX).write_text(
        text.replace('"weight_map": {', '"weight_map": {"model.norm.weight": "x",', 1)
    )
    with pytest.raises(CheckpointError, match=r"holds 'model\.norm\.weight' twice"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("name", ["n" * 70_000, "line\\nbreak", "nul\\u0000", "\\ud800", "turned\\u202e", ""])
def test_a_name_that_no_line_could_show_is_refused(folder: Path, name: str) -> None:
    with_header(folder / SINGLE, lambda text: text.replace("model.norm.weight", name))
    with pytest.raises(CheckpointError, match="names a tensor") as caught:
        Checkpoint.open(folder)
    assert one_line(caught.value, 700)


@pytest.mark.parametrize("name", ["n" * 70_000, "line\nbreak", "\ud800", "turned\u202e"])
@pytest.mark.parametrize("side", ["tensor", "file"])
def test_an_index_with_such_a_name_is_refused_in_one_line(sharded: Path, name: str, side: str) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] |= (
        {name: "model-00001-of-00002.safetensors"} if side == "tensor" else {"model.norm.weight": name}
    )
    (sharded / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(sharded)
    assert one_line(caught.value, 900)
    assert side == "tensor" or name == "\ud800" or isinstance(caught.value, UnsafeCheckpointError)


@pytest.mark.parametrize("metadata", ["[]", "7", '{"format": 1}', '{"a": {}}'])
def test_metadata_that_safetensors_would_not_read_is_refused(folder: Path, metadata: str) -> None:
    with_header(folder / SINGLE, lambda text: text.replace('{"format":"pt"}', metadata))
    with pytest.raises(CheckpointError, match="__metadata__"):
        Checkpoint.open(folder)


def test_half_a_character_in_config_json_is_refused_before_a_bake_would_have_to_write_it(
    folder: Path,
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"note": "\ud800"}))
    with pytest.raises(CheckpointError, match="does not parse"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("name", ["config.json", SINGLE])
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_file_without_an_end_is_not_waited_for(folder: Path, name: str, what: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name) if what == "pipe" else (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="it is not a regular file"):
        Checkpoint.open(folder)


def test_a_config_json_of_gigabytes_is_not_read(folder: Path) -> None:
    with (folder / "config.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(CheckpointError, match="more than 100000000 bytes"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "modelopt", "quant_algo": []},
        {"quant_method": "modelopt", "quantization": {"quant_algo": {}}},
        {
            "quant_method": "compressed-tensors",
            "config_groups": {"a": {"weights": {"type": "float", "num_bits": 8, "strategy": []}}},
        },
        {
            "quant_method": "compressed-tensors",
            "format": {},
            "config_groups": {"a": {"weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}}},
        },
        {"quant_method": "fp8", "weight_block_size": "9" * 5000 + "x1"},
        {"quant_method": "line\nbreak" * 1000},
    ],
)
def test_a_quantization_config_of_odd_types_is_refused_in_one_line(quantization: Any) -> None:
    with pytest.raises(ArchitectureError) as caught:
        check_supported({"quantization_config": quantization})
    assert one_line(caught.value, 700)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "model_type"])
def test_an_odd_config_value_is_named_in_one_line(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "a\nb" * 900}))
    with pytest.raises(ArchitectureError) as caught:
        architecture_in(Checkpoint.open(folder))
    assert str(caught.value).isprintable()


@pytest.fixture
def edit_file(folder: Path, tmp_path: Path) -> Path:
    Edit.ablation(folder, unit()).save(tmp_path / "edit")
    return tmp_path / "edit"


def change_edit(file: Path, change: Callable[[Any, dict[str, torch.Tensor]], object]) -> None:
    raw = file.read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    inner, tensors = json.loads(header["__metadata__"]["vectomy"]), load_file(file)
    change(inner, tensors)
    save_file(tensors, file, metadata={"vectomy": json.dumps(inner)})


@pytest.mark.usefixtures("unchecked")
def test_a_basis_of_very_many_rows_is_refused_before_their_products_fill_the_memory(edit_file: Path) -> None:
    many = 200_000

    def widen(inner: Any, tensors: dict[str, torch.Tensor]) -> None:
        tensors["many"] = torch.zeros(many, 32, dtype=torch.float16)
        inner["operations"][0] |= {"basis": "many", "strengths": [0.0] * many}

    change_edit(edit_file, widen)
    with pytest.raises(EditError, match=f"{many} rows of width 32 cannot be orthonormal"):
        Edit.load(edit_file)


def test_an_about_with_keys_that_are_no_texts_is_refused(edit_file: Path) -> None:
    """It loaded, and the bake then failed to write it in the order of its keys."""
    change_edit(edit_file, lambda inner, _: inner.update(about=[["a", 1], [2, 3]]))
    with pytest.raises(EditError, match="`about` is not an object"):
        Edit.load(edit_file)


@pytest.mark.parametrize(
    "change",
    [{"component": "n" * 70_000}, {"basis": "line\nbreak"}, {"norm": "\u202e"}, {"layer": "9" * 70_000}],
)
def test_an_edit_file_repeats_nothing_that_no_line_could_show(
    edit_file: Path, change: dict[str, str]
) -> None:
    change_edit(edit_file, lambda inner, _: inner["operations"][0].update(change))
    with pytest.raises(EditError) as caught:
        Edit.load(edit_file)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "base", [{"model_type": "line\nbreak"}, {"model_type": "n" * 70_000}, {"name": "n" * 70_000}, {"name": 5}]
)
def test_a_base_of_an_odd_name_is_told_in_one_line(
    edit_file: Path, folder: Path, base: dict[str, Any]
) -> None:
    change_edit(edit_file, lambda inner, _: inner["base"].update(base, fingerprint="another"))
    with pytest.raises(EditError) as caught:
        Edit.load(edit_file).check_base(Checkpoint.open(folder))
    assert one_line(caught.value)
