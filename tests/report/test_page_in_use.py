"""What a reader does with the page of a run in Chromium: turn pages, follow links, choose an edit
and a layer, save tables and pictures.
"""

from __future__ import annotations

import csv
import json
import struct
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Browser, Tab
from filtered_page import set_filter
from invented_run import a_separation, gradient_scores, searched_summary, some_completions

from vectomy.report import render_page

TIER = "chat"


def searched(folder: Path, copies: int = 1) -> Path:
    """The page of a run of `gradient` with several planes, and each completion so many times."""
    scores, separation = gradient_scores(), a_separation()
    separation["planes"] = [{**separation["pca"], "layer": layer} for layer in (0, 9, 17, 29)]
    rows = [
        {**row, "prompt": f"{row['prompt']} ({copy})"} for copy in range(copies) for row in some_completions()
    ]
    file = folder / "searched.html"
    file.write_text(render_page(searched_summary(scores), scores, separation, rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run_tab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    opened = browser.open(searched(tmp_path_factory.mktemp("searched"), copies=3))
    yield opened
    assert opened.complaints == []
    opened.close()


BUTTONS = "[...document.querySelectorAll('.save button')]"
IN_SIGHT = """[...document.querySelectorAll(".pair")].filter((pair) => pair.checkVisibility())
  .map((pair) => Number(pair.id.split("-")[1]))"""


def go_to(tab: Tab, hash_: str) -> None:
    """Follow a link within the page, and wait until the page has."""
    tab.run(
        f"new Promise((done) => {{ addEventListener('hashchange', () => setTimeout(done)); "
        f"location.hash = {json.dumps(hash_)}; }})"
    )


def test_completions_come_in_pages_that_keep_the_filter(run_tab: Tab) -> None:
    run_tab.look(width=1180)
    set_filter(run_tab)
    assert run_tab.run(IN_SIGHT) == list(range(1, 11))
    turn = "document.querySelectorAll('.pager')[1].querySelectorAll('button')[{}].click()"
    told = "document.querySelector('.pager span').textContent"
    wanted = [
        int(row[0].split("-")[1])
        for row in run_tab.run(
            "[...document.querySelectorAll('.pair[data-set=negative]')].map((pair) => [pair.id])"
        )
    ]
    assert len(wanted) == 18
    set_filter(run_tab, set="negative")
    assert (run_tab.run(IN_SIGHT), run_tab.run(told)) == (wanted[:10], "page 1 of 2")
    run_tab.run(turn.format(1))
    assert (run_tab.run(IN_SIGHT), run_tab.run(told)) == (wanted[10:], "page 2 of 2")
    run_tab.run(turn.format(0))
    assert run_tab.run(IN_SIGHT) == wanted[:10]
    set_filter(run_tab, set="negative", size="0")
    assert run_tab.run(IN_SIGHT) == wanted
    assert run_tab.run("document.querySelector('.pager').checkVisibility()") is False
    set_filter(run_tab)


def test_a_link_to_a_prompt_turns_to_its_page_and_lifts_a_filter_that_hides_it(run_tab: Tab) -> None:
    set_filter(run_tab, search="nothing says this")
    assert run_tab.run(IN_SIGHT) == []
    go_to(run_tab, "#prompt-33")
    assert run_tab.run(IN_SIGHT) == list(range(31, 37))
    assert run_tab.run("document.getElementById('prompt-33').getBoundingClientRect().y < innerHeight")


def test_the_sections_stay_at_hand(run_tab: Tab) -> None:
    for name in ("coverage", "result"):
        go_to(run_tab, f"#{name}")
        bar = run_tab.run("document.querySelector('.contents').getBoundingClientRect().toJSON()")
        heading = run_tab.run(f"document.querySelector('#{name} > h2').getBoundingClientRect().toJSON()")
        assert bar["y"] == pytest.approx(0, abs=1) or name == "result"
        assert heading["y"] >= bar["bottom"]
        assert heading["bottom"] <= run_tab.run("innerHeight")


def test_the_plane_of_a_layer_is_chosen_by_keyboard(run_tab: Tab) -> None:
    shown = (
        "[...document.querySelectorAll('.plane')].filter((plane) => plane.checkVisibility())"
        ".map((plane) => plane.dataset.layer)"
    )
    assert run_tab.run(shown) == ["17"]
    run_tab.run("document.querySelector('.slider input').focus()")
    run_tab.press("ArrowRight")
    assert run_tab.run(shown) == ["29"]
    assert run_tab.run("document.querySelector('.slider input').getAttribute('aria-valuetext')") == "layer 29"
    assert run_tab.run("document.querySelector('.slider output').textContent") == "29"


def test_an_edit_of_the_frontier_is_chosen_and_shows_its_command(run_tab: Tab) -> None:
    shown = (
        "[...document.querySelectorAll('.chooser p, .chooser pre')]"
        ".map((part) => part.hidden ? '' : part.textContent)"
    )
    assert run_tab.run(shown) == ["step 24: 3.1% left; KL 0.0220", "vectomy pick RUN --take 24"]
    for row, command in ((3, "vectomy pick RUN --take 28"), (0, ""), (4, "")):
        run_tab.run(
            f"document.querySelector('.chooser select').value = '{row}', "
            "document.querySelector('.chooser').dispatchEvent(new Event('input'))"
        )
        told, take = run_tab.run(shown)
        assert told.startswith(f"step {16 + 4 * row}: ")
        assert take == command
        picked = "[...document.querySelectorAll('.picked')].map((mark) => mark.dataset.point)"
        assert run_tab.run(picked) == [str(row)]
    # By the pointer, near the mark.
    run_tab.run("document.querySelector('[data-point=\"3\"]').scrollIntoView({block: 'center'})")
    box = run_tab.run("document.querySelector('[data-point=\"3\"]').getBoundingClientRect().toJSON()")
    place = {"x": box["x"] + box["width"] / 2 + 4, "y": box["y"] + box["height"] / 2 - 4}
    run_tab.call("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert run_tab.run(shown)[1] == "vectomy pick RUN --take 28"


def test_tables_and_pictures_are_saved(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(searched(tmp_path))
    saved = tmp_path / "saved"
    tab.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(saved))

    def save(label: str) -> bytes:
        tab.run(f"{BUTTONS}.find((button) => button.ariaLabel === {json.dumps(label)}).click()")
        for _ in range(200):
            files = [file for file in saved.glob("*") if file.suffix in (".csv", ".svg", ".png")]
            if files and files[0].stat().st_size:
                content = files[0].read_bytes()
                files[0].unlink()
                return content
            time.sleep(0.02)
        raise AssertionError(label)

    labels = tab.run(f"{BUTTONS}.map((button) => button.ariaLabel)")
    assert len(labels) == len(set(labels))
    results = next(label for label in labels if label.endswith("as CSV"))
    rows = list(csv.reader(save(results).decode().splitlines()))
    assert rows[0] == [
        "Measure",
        "Measure, detail",
        *(f"{form}{more}" for form in ("base", "hooks", "baked") for more in ("", ", detail")),
    ]
    summary = searched_summary(gradient_scores())
    forms = [summary["base"], summary["forms"]["hooks"], summary["forms"]["baked"]]
    assert [float(cell) for cell in rows[1][2::2]] == [form["refusal_rate"] for form in forms]
    assert rows[1][3].startswith("81 of 100; ")
    drawn = xml.etree.ElementTree.fromstring(save("Save Strength of each writer as SVG"))
    rects = drawn.iter("{http://www.w3.org/2000/svg}rect")
    boxes = [rect for rect in rects if rect.get("fill", "").startswith("rgb")]
    assert len(boxes) > len(gradient_scores()["strengths"])
    picture = save("Save Behaviour left against damage as PNG")
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (3 * 340, 3 * 222)
    # An empty picture is a few kilobytes.
    assert len(picture) > 10_000
    assert tab.complaints == []
    assert len(tab.requests) == 1
    tab.close()
