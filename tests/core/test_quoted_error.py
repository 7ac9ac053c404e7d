"""What a library says of its error ends where one of its sentences ends."""

import pytest

from vectomy.core.quoted_error import quote_error

TIER = "unit"

HUB = (
    "An error happened while trying to locate the file on the Hub and we cannot find the requested files in "
    "the local cache. Please check your connection and try again or make sure your Internet connection is on."
)


@pytest.mark.parametrize("width", range(120, len(HUB) + 10, 7))
def test_a_message_is_cut_behind_a_sentence(width: int) -> None:
    quoted = quote_error(HUB, width)
    assert len(quoted) <= width
    assert quoted in (HUB.rstrip("."), HUB.split(". ")[0])


def test_a_long_first_sentence_is_cut_behind_a_word_with_dots() -> None:
    for width in range(20, 110):
        quoted = quote_error(HUB, width)
        assert len(quoted) <= width + 1
        assert quoted.endswith(" …")
        beginning = quoted.removesuffix(" …")
        assert HUB.startswith(beginning)
        assert not HUB[len(beginning)].isalnum()


@pytest.mark.parametrize(
    ("message", "quoted"),
    [
        ("No module named 'a.b.c'", "No module named 'a.b.c'"),
        ("set it to 0.5. Then go on.\n\nTraceback: more", "set it to 0.5. Then go on"),
        ("broken over\n  two lines.", "broken over two lines"),
        ("", "no message"),
    ],
)
def test_line_breaks_and_numbers_end_no_sentence(message: str, quoted: str) -> None:
    assert quote_error(message) == quoted


def test_an_error_without_a_message_is_its_type() -> None:
    assert quote_error(KeyError()) == "KeyError"
