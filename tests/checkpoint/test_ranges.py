"""Ranges of a shard are copied whole whatever the kernel says, and a damaged copy is never taken
for a finished one.
"""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest
from tiny import file_hashes, unit

from vectomy.checkpoint import Checkpoint, ranges, shard, writer
from vectomy.checkpoint.ranges import Range, copy_range, join_ranges, read_at
from vectomy.core.errors import ArtifactError, CheckpointError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

TIER = "unit"

DATA = bytes(range(256)) * 40


@pytest.fixture
def files(tmp_path: Path):
    (tmp_path / "source").write_bytes(DATA)
    (tmp_path / "target").touch()
    with (
        (tmp_path / "source").open("rb", buffering=0) as source,
        (tmp_path / "target").open("r+b", buffering=0) as target,
    ):
        yield [source, target]


@pytest.mark.parametrize("number", sorted(ranges.NOT_HERE))
def test_what_the_kernel_refuses_to_copy_is_copied_by_hand(
    files: list[BinaryIO], monkeypatch, number: int
) -> None:
    def refused(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", refused, raising=False)
    copy_range(*files, Range("s", 100, 7, 5000))
    assert read_at(files[1], 9000, 7) == DATA[100:5100]


@pytest.mark.parametrize("moved", [0, 1, 4999])
def test_what_the_kernel_leaves_over_is_copied_by_hand(
    files: list[BinaryIO], monkeypatch, moved: int
) -> None:
    calls = []

    def short(source: int, target: int, count: int, start: int, at: int) -> int:
        calls.append(count)
        return os.pwrite(target, os.pread(source, moved, start), at) if len(calls) == 1 else 0

    monkeypatch.setattr(os, "copy_file_range", short, raising=False)
    copy_range(*files, Range("s", 100, 0, 5000))
    assert read_at(files[1], 9000, 0) == DATA[100:5100]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_other_failures_of_a_copy_are_not_hidden(files: list[BinaryIO], monkeypatch, number: int) -> None:
    def failed(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "copy_file_range", failed, raising=False)
    with pytest.raises(OSError, match=os.strerror(number)):
        copy_range(*files, Range("s", 0, 0, 10))


def test_a_source_that_became_shorter_is_named(files: list[BinaryIO]) -> None:
    with pytest.raises(CheckpointError, match=r"shard model-1\.safetensors became shorter"):
        copy_range(*files, Range("model-1.safetensors", len(DATA) - 10, 0, 11))


def test_joined_ranges_cover_the_same_bytes() -> None:
    pieces = [
        Range("a", 0, 0, 3),
        Range("a", 3, 3, 0),
        Range("a", 3, 3, 4),
        Range("a", 7, 9, 2),
        Range("b", 9, 11, 1),
        Range("b", 10, 12, 5),
        Range("b", 14, 17, 1),
    ]

    def covered(found: list[Range] | tuple[Range, ...]) -> list[tuple[str, int, int]]:
        return [(one.shard, one.start + step, one.at + step) for one in found for step in range(one.length)]

    found = join_ranges(pieces)
    assert covered(found) == covered(pieces)
    assert len(found) == 4
    assert join_ranges([]) == ()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 48])
def test_pieces_are_the_range(length: int) -> None:
    whole = Range("a", 5, 9, length)
    pieces = list(whole.pieces(16))
    assert join_ranges(pieces) == ((whole,) if length else ())
    assert [piece.length for piece in pieces] == [16] * (length // 16) + [length % 16] * (length % 16 > 0)


# A finished shard that was damaged


class Stopped:
    """Lets shards be finished and stops before the folder takes its name."""

    def __call__(self, *_: object) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def half(tiny_of, tmp_path: Path, monkeypatch) -> tuple[Edit, Path, Path]:
    """An edit without the embedding (so that there are copied and made ranges), its base, and a
    bake cut off at its end.
    """
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit(), embeddings=False)
    bake(edit, tiny.folder, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_index", Stopped())
        with pytest.raises(KeyboardInterrupt):
            bake(edit, tiny.folder, tmp_path / "out")
    return edit, tiny.folder, tmp_path / ".out.baking"


@pytest.mark.tiny
@pytest.mark.parametrize("what", ["copied", "made", "header", "shorter", "longer"])
def test_a_damaged_finished_shard_is_written_again(
    half: tuple[Edit, Path, Path], tmp_path: Path, what: str
) -> None:
    edit, base, beside = half
    edited = {
        name for name in Checkpoint.open(base).tensors if name.endswith(("o_proj.weight", "down_proj.weight"))
    }
    source = Checkpoint.open(base)
    mixed = next(
        one for one in source.shards if 0 < len({t.name for t in one.tensors} & edited) < len(one.tensors)
    )
    path = beside / mixed.name
    place = {
        "copied": next(t.start + 5 for t in mixed.tensors if t.name not in edited),
        "made": next(t.start + 5 for t in mixed.tensors if t.name in edited),
        "header": 20,
    }.get(what)
    with path.open("r+b") as file:
        if what == "shorter":
            file.truncate(mixed.size - 1)
        elif what == "longer":
            file.truncate(mixed.size + 1)
        else:
            assert place is not None
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 4]))
    others = {other.name: other.stat().st_ino for other in beside.glob("*.safetensors") if other != path}
    inode = path.stat().st_ino
    keep = path.open("rb")  # An inode in use is not given out again.
    bake(edit, base, tmp_path / "out")
    keep.close()
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole")
    assert (tmp_path / "out" / mixed.name).stat().st_ino != inode
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in others} == others


@pytest.mark.tiny
def test_links_that_cannot_be_made_become_copies_and_a_note(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit(), embeddings=False).only(layers=[0])

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "other device")

    linked = bake(edit, tiny.folder, tmp_path / "linked", link_untouched=True)
    monkeypatch.setattr(os, "link", elsewhere)
    copied = bake(edit, tiny.folder, tmp_path / "copied", link_untouched=True)
    assert any("is a hard link" in note for note in linked.notes)
    notes = [note for note in copied.notes if "could not be linked" in note and "it is a copy" in note]
    assert len(notes) == sum("is a hard link" in note for note in linked.notes)
    assert file_hashes(tmp_path / "copied") == file_hashes(tmp_path / "linked")
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "copied").glob("*.safetensors"))


@pytest.mark.tiny
def test_a_shard_is_the_same_through_the_kernel_and_by_hand(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit())
    bake(edit, tiny.folder, tmp_path / "kernel")
    monkeypatch.setattr(
        shard,
        "copy_range",
        lambda s, t, piece: shard.write_all(t, read_at(s, piece.length, piece.start), piece.at),
    )
    bake(edit, tiny.folder, tmp_path / "hand")
    assert file_hashes(tmp_path / "kernel") == file_hashes(tmp_path / "hand")


@pytest.mark.tiny
def test_a_resumed_bake_still_says_which_shards_are_links(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit = Edit.ablation(tiny.folder, unit(), embeddings=False).only(layers=[0])
    whole = bake(edit, tiny.folder, tmp_path / "whole", link_untouched=True)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_index", Stopped())
        with pytest.raises(KeyboardInterrupt):
            bake(edit, tiny.folder, tmp_path / "out", link_untouched=True)
    resumed = bake(edit, tiny.folder, tmp_path / "out", link_untouched=True)
    assert any("is a hard link" in note for note in whole.notes)
    assert resumed.notes == whole.notes


@pytest.mark.tiny
def test_two_bakes_do_not_write_the_same_folder_at_once(tiny_of, tmp_path: Path, monkeypatch) -> None:
    tiny = tiny_of("mistral", tied=True, sharded=True)
    edit, inside = Edit.ablation(tiny.folder, unit()), []
    write_index = writer._write_index

    def second_meanwhile(*args: object) -> None:
        inside.append(True)
        before = file_hashes(tmp_path / ".out.baking")
        with pytest.raises(ArtifactError, match="another process is writing"):
            bake(edit * 0.5, tiny.folder, tmp_path / "out")
        assert file_hashes(tmp_path / ".out.baking") == before
        write_index(*args)

    monkeypatch.setattr(writer, "_write_index", second_meanwhile)
    bake(edit, tiny.folder, tmp_path / "out")
    monkeypatch.undo()
    bake(edit, tiny.folder, tmp_path / "whole")
    assert inside
    assert file_hashes(tmp_path / "out") == file_hashes(tmp_path / "whole")
