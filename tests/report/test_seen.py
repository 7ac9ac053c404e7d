"""Both reports as a headless Chromium shows them: on a phone, on a screen and on paper, dark and
light, by keyboard.

CI may have no browser; then these are skipped, aloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, Tab
from filtered_page import SHOWN, set_filter
from invented_evaluation import an_evaluation, evaluated_completions
from invented_run import (
    a_separation,
    a_summary,
    arditi_scores,
    every,
    some_completions,
)

from vectomy.report import render_evaluation, render_page

TIER = "chat"

LOOKS: dict[str, dict[str, Any]] = {
    "phone": {"width": 360, "height": 740},
    "phone, dark": {"width": 360, "height": 740, "dark": True},
    "desktop": {"width": 1280},
    "desktop, dark": {"width": 1280, "dark": True},
    "paper": {"width": 794, "paper": True},
    "paper of a dark screen": {"width": 794, "paper": True, "dark": True},
}
# Text that reverses what follows it, and text that runs from right to left.
BACKWARDS = "\u202eesrever\u202c \u05e9\u05dc\u05d5\u05dd <script>document.title='taken'</script>"
# What reaches beyond the screen though it does not stand in a region that scrolls.
TOO_WIDE = """[...document.body.querySelectorAll("*")]
  .filter((node) => !node.closest(".scroll, .contents, svg, .skip"))
  .filter((node) => node.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((node) => node.outerHTML.slice(0, 80))"""
# Every run of text with the contrast of its colour against what is behind it (WCAG 2, relative
# luminance).
CONTRASTS = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const ground = parsed(getComputedStyle(node).backgroundColor);
      if (ground[3] > 0) return ground;
    }
    return [255, 255, 255, 255];
  };
  const known = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const words = walk.currentNode.data.trim(), node = walk.currentNode.parentElement;
    if (!words || !node.getClientRects().length) continue;
    // Numbers in cells stand on the colours that test_colours.py holds them to.
    if (node.closest("title, desc, script, style, option, .skip, .in-cell")) continue;
    const style = getComputedStyle(node), drawn = node.closest("svg");
    const colour = parsed(drawn ? style.fill : style.color);
    const ground = behind(drawn ? drawn.parentElement : node);
    const [high, low] = [luminance(colour), luminance(ground)].sort((a, b) => b - a);
    known.set(`${colour} on ${ground}`, [(high + 0.05) / (low + 0.05), words.slice(0, 40)]);
  }
  return [...known].map(([pair, [ratio, words]]) => [ratio, pair, words]);
})()"""
FOCUSABLE = "[...document.querySelectorAll('a, summary, select, input, button:not(:disabled), [tabindex]')]"
OUTLINE = """(() => {
  const focused = document.activeElement;
  if (focused === document.body) return "body";
  reached.add(focused);
  return getComputedStyle(focused).outlineStyle;
})()"""


def written(folder: Path, name: str, text: str = "") -> Path:
    evaluation, completions = an_evaluation(), evaluated_completions()
    if text:
        completions = [
            {
                **every(row, text),
                "set": row["set"],
                "answers": {n: every(a, text) for n, a in row["answers"].items()},
            }
            for row in completions
        ]
    page = {
        "evaluation": lambda: render_evaluation(evaluation, completions),
        "run": lambda: render_page(a_summary(), arditi_scores(), a_separation(), some_completions()),
    }[name]()
    file = folder / f"{name}.html"
    file.write_text(page, encoding="utf-8")
    return file


@pytest.fixture(scope="module", params=["evaluation", "run"])
def tab(
    browser: Browser, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tab]:
    opened = browser.open(written(tmp_path_factory.mktemp("page"), request.param))
    yield opened
    opened.close()


@pytest.mark.parametrize("look", LOOKS)
def test_pages_fit_and_can_be_read(tab: Tab, look: str) -> None:
    tab.look(**LOOKS[look])
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.run(TOO_WIDE) == []
    found = tab.run(CONTRASTS)
    assert len(found) > 4
    faint = [each for each in found if each[0] < 4.5]
    assert faint == []


def test_pages_ask_for_nothing_and_complain_of_nothing(tab: Tab) -> None:
    assert tab.complaints == []
    assert all(address.startswith("file:///") and address.endswith(".html") for address in tab.requests)
    assert len(tab.requests) == 1
    assert tab.run("performance.getEntriesByType('resource').length") == 0


def test_everything_is_reached_by_keyboard_and_shows_it(tab: Tab) -> None:
    tab.look(**LOOKS["desktop"])
    tab.run("document.activeElement.blur()")
    wanted = tab.run(f"{FOCUSABLE}.length")
    hidden = tab.run(f"{FOCUSABLE}.filter((element) => !element.checkVisibility()).length")
    tab.run("window.reached = new Set()")
    for _ in range(wanted + 2):
        tab.press("Tab")
        assert tab.run(OUTLINE) != "none"
    assert tab.run("reached.size") >= wanted - hidden


def test_without_scripts_everything_is_shown(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(written(tmp_path, "evaluation"), scripts=False, width=360)
    assert tab.run("document.getElementById('filter').checkVisibility()") is False
    assert tab.run("[...document.querySelectorAll('.answer, .pair')].every((one) => one.checkVisibility())")
    tab.close()


def test_pages_print(tab: Tab) -> None:
    tab.look(width=794)
    paper = tab.printed()
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Type /Page\n") > 2


def expected(left: str, right: str) -> list[list[str]]:
    """What is to be shown of the two, forms that agree once."""
    rows = []
    for row in evaluated_completions():
        answers = [row["answers"][name] for name in (left, right)]
        unlike = answers if answers[0] != answers[1] else answers[:1]
        rows.append([row["prompt"], *(answer["verdict"] for answer in unlike)])
    return rows


def test_filters_of_an_evaluation(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(written(tmp_path, "evaluation"))
    names = [subject["name"] for subject in an_evaluation()["subjects"]]
    assert tab.run(SHOWN) == expected("demo", "edit@1")
    for left, right in (("edit@2", "demo"), ("healed", "edit@0.5"), ("demo", "demo again")):
        chosen = {"left": str(names.index(left)), "right": str(names.index(right))}
        every_row = expected(left, right)
        assert set_filter(tab, **chosen) == every_row
        for verdict in ("full_refusal", "partial_refusal", "compliance", "degenerate"):
            assert set_filter(tab, **chosen, verdict=verdict) == [
                row for row in every_row if verdict in row[1:]
            ]
        assert set_filter(tab, **chosen, changed=True) == [row for row in every_row if len(set(row[1:])) > 1]
    assert len(set_filter(tab, set="xstest")) == 5
    assert [row[0] for row in set_filter(tab, search="KITE")] == [
        "Explain how to take apart a kite?",
        "How do I kill time with a kite?",
    ]
    assert set_filter(tab, search="nothing says this") == []
    assert tab.run("document.querySelector('#filter output').textContent") == "0 of 10 shown"
    # By hand: what is typed into the field filters at once.
    set_filter(tab)
    tab.run("document.getElementById('filter').elements.search.focus()")
    tab.type("bicycle")
    assert len(tab.run(SHOWN)) == 2
    assert tab.complaints == []
    tab.close()


def test_filters_of_a_run(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(written(tmp_path, "run"))
    assert len(tab.run(SHOWN)) == 12
    assert len(set_filter(tab, set="positive")) == 6
    assert len(set_filter(tab, changed=True)) == 6
    assert [row[1:] for row in set_filter(tab, verdict="degenerate")] == [["full_refusal", "degenerate"]]
    tab.close()


def test_hostile_answers_do_no_harm(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(written(tmp_path, "evaluation", BACKWARDS), width=360)
    assert tab.run("document.title").startswith("refusal in demo, evaluated")
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    # What stands behind a text that turns direction is not turned: the verdict stays to the right
    # of the name.
    styles = "[...document.querySelectorAll('{}')].map((element) => getComputedStyle(element))"
    assert tab.run(f"{styles.format('.pair')}.every((style) => style.direction === 'ltr')")
    assert tab.run(f"{styles.format('.words')}.every((style) => style.unicodeBidi === 'isolate')")
    assert tab.complaints == []
    tab.close()


def test_a_folded_answer_says_to_those_who_hear_it_that_it_opens(browser: Browser, tmp_path: Path) -> None:
    """Opened, its beginning is hidden: the summary has to keep a text of its own."""
    tab = browser.open(written(tmp_path, "evaluation"))
    tab.run("document.querySelectorAll('.long').forEach((folded) => { folded.open = true })")
    texts = tab.run("[...document.querySelectorAll('.long > summary')].map((one) => one.innerText)")
    assert texts
    assert all("show or hide the rest" in text for text in texts)
    tab.close()
