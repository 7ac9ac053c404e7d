"""Colours of the pages: text has at least 4.5 : 1 against what it stands on, signs in pictures 3 :
1 (WCAG 2.2, AA).
"""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest

from vectomy.report.charts.strengths_map import FAINT, FULL

TIER = "unit"

SCHEMES = {"light": "", "dark": "(prefers-color-scheme: dark)", "print": "print"}
TEXT = ("ink", "muted", "link", "positive", "negative", "odd")
LOW, HIGH = range(5), range(5, 9)


def css() -> str:
    return (resources.files("vectomy.report.pages") / "page.css").read_text(encoding="utf-8")


def palette(scheme: str) -> dict[str, str]:
    """The colours of a scheme; what it does not set is as on a light screen."""
    source = css()
    start = 0 if not SCHEMES[scheme] else source.index(f"@media {SCHEMES[scheme]}")
    block = source[start:].split(":root {")[1].split("}")[0]
    found = dict(re.findall(r"--([\w-]+): (#\w+)", block))
    return {**(palette("light") if start else {}), **found}


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_is_readable(scheme: str) -> None:
    colours = palette(scheme)
    for text, ground in itertools.product(TEXT, ("paper", "soft")):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for steps, text in ((LOW, "on-low"), (HIGH, "on-high")):
        for step in steps:
            assert contrast(colours[text], colours[f"q{step}"]) >= 4.5, (text, step)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_stronger_step_stands_out_more(scheme: str) -> None:
    colours = palette(scheme)
    away = [contrast(colours[f"q{step}"], colours["paper"]) for step in range(9)]
    assert away == sorted(away)
    assert away[-1] > 10


def test_the_styles_name_no_colour_of_their_own() -> None:
    """All else takes its colours from the palette, so that every scheme has them."""
    outside = re.sub(r":root \{.*?\}", "", css(), flags=re.S)
    assert re.findall(r"#[0-9a-f]{3,8}\b(?=[;\s])", outside) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_of_amplified_writers_are_readable(scheme: str) -> None:
    """Ink on the positive colour at the opacities of the strengths map."""
    colours = palette(scheme)
    over, under = (
        [int(colours[name][at : at + 2], 16) for at in (1, 3, 5)] if len(colours[name]) == 7 else [255] * 3
        for name in ("positive", "paper")
    )
    for opacity in (FAINT, FULL):
        mixed = (round(opacity * a + (1 - opacity) * b) for a, b in zip(over, under, strict=True))
        ground = "#" + "".join(f"{part:02x}" for part in mixed)
        assert contrast(colours["ink"], ground) >= 4.5, opacity
