"""Of the cache folder, only what this project made is listed, and only that is removed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vectomy.core.cache_entries import list_cache, remove_entry
from vectomy.core.file_lock import wait_for_lock

TIER = "unit"

OWN = {
    "demo-0123456789ab": 300,
    "demo-base-0123456789ab.partial": 200,
    "gguf-0123456789abcdef-2": 100,
    "demo-weights.k3_x9a0z": 70,
    "edits": 60,
}
FOREIGN = ("demo", "demo-mine", "gguf-notes", "models", "demo-0123456789ab-copy")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    for name, size in {**OWN, **dict.fromkeys(FOREIGN, 50)}.items():
        (folder / name / "sub").mkdir(parents=True)
        (folder / name / "sub" / "weights").write_bytes(bytes(size))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "thing").write_bytes(bytes(9))
    (folder / "gguf-ffffffffffffffff-2").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "demo.lock").touch()
    return folder


def test_own_folders_are_listed_with_their_size_largest_first(cache: Path) -> None:
    assert {entry.path.name: entry.bytes for entry in list_cache(cache)} == OWN
    assert [entry.bytes for entry in list_cache(cache)] == [300, 200, 100, 70, 60]
    assert list_cache(cache / "none") == []


def test_removing_touches_nothing_else(cache: Path) -> None:
    inside = cache / "demo-0123456789ab" / "link"
    inside.symlink_to(cache.parent / "elsewhere", target_is_directory=True)
    assert all(remove_entry(entry) for entry in list_cache(cache))
    left = {path.name for path in cache.iterdir() if path.is_dir()}
    assert left == {*FOREIGN, "gguf-ffffffffffffffff-2"}
    assert (cache.parent / "elsewhere" / "thing").stat().st_size == 9


def test_what_a_process_is_making_stays(cache: Path) -> None:
    with wait_for_lock(cache / "gguf-0123456789abcdef-2.lock"):
        entry = next(entry for entry in list_cache(cache) if entry.bytes == 100)
        assert not remove_entry(entry)
    assert entry.path.is_dir()
    assert remove_entry(entry)


def test_two_cleans_at_once_remove_everything_once(cache: Path) -> None:
    first, second = list_cache(cache), list_cache(cache)
    assert all(remove_entry(entry) for entry in first)
    assert all(remove_entry(entry) for entry in second)
    assert list_cache(cache) == []
    with wait_for_lock(cache / "demo.lock"):
        (cache / "demo-weights.busy0000").mkdir()
        assert not remove_entry(list_cache(cache)[0])


def test_every_name_that_the_source_gives_to_a_cached_folder_is_known(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "src" / "vectomy"
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    names = [name for text in texts for name in re.findall(r'cache_folder\(\) / f?"([^"]*)"', text)]
    # No folder of the cache is named in another way.
    assert len(names) == sum(text.count("cache_folder() /") for text in texts) == 4
    for name in names:
        filled = re.sub(r"\{[^{}]*\[:(\d+)\]\}", lambda match: "a" * int(match[1]), name)
        (tmp_path / re.sub(r"\{\w+\}", "2", filled)).mkdir()
    assert len(list_cache(tmp_path)) == len(names)
