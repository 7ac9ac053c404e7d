"""A card's metadata, whatever somebody wrote there."""

from pathlib import Path

import pytest

from vectomy.hub import frontmatter, licence_in

TIER = "unit"

BROKEN = {
    "no yaml": "license: [",
    "an index error of PyYAML's": 'license: !!int ""',
    "nested too deep": "license: " + "[" * 1000,
    "a list": "- license",
    "bytes": "license: \udcff",
}


def card(folder: Path, head: str) -> Path:
    file = folder / "README.md"
    file.write_bytes(f"---\n{head}\n---\n# A model\n".encode("utf-8", "surrogateescape"))
    return file


def test_what_stands_between_the_dashes_is_read(tmp_path: Path) -> None:
    file = card(tmp_path, "license: [mit]\nvectomy:\n  repository: a/b")
    assert frontmatter(file) == {"license": ["mit"], "vectomy": {"repository": "a/b"}}
    assert licence_in(tmp_path) == {"license": "mit"}


@pytest.mark.parametrize("head", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_says_nothing(tmp_path: Path, head: str) -> None:
    assert frontmatter(card(tmp_path, head)) == {}
    assert licence_in(tmp_path) is None


def test_no_card_says_nothing(tmp_path: Path) -> None:
    assert frontmatter(tmp_path / "README.md") == {}
    assert licence_in(tmp_path) is None
