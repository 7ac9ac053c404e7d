"""The commands of docs/howto/, run as they stand on the tiny chat model, page by page."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import tiny_chat
from command_line import Vectomy
from page_blocks import DOCS, commands_of

TIER = "chat"

PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
PAGES = [page for page in PAGES if commands_of(page)]
# Added where a line does not say otherwise: the tests need no full size.
SMALL = {
    "run": ("--steps", "2", "--n-fit", "12", "--n-search", "4", "--n-test", "4", "--answer-tokens", "6"),
    "evaluate": ("--limit", "4", "--no-tool-calls", "--no-controls", "--answer-tokens", "6"),
}
# A search that is done at once, for runs that no later command uses.
QUICK = ("--recipe", "arditi", "--layer-fraction", "1")
OF_GRADIENT = {"--recipe", "--target-rate", "--kl-budget"}
# What the demo model has of its own.
DEMO = ("--positive", "harmful.txt", "--negative", "harmless.txt", "--out", "runs/demo-gradient")
# The runs that later commands use: only these are baked.
USED = ("runs/mine", "runs/demo-gradient")
MINE = "vectomy run MODEL --positive harmful.txt --negative harmless.txt --out runs/mine"


def write_prompts(folder: Path) -> None:
    """The files that the pages name: night is refused, day is answered (tiny_chat.py)."""
    night, day = tiny_chat.texts(tiny_chat.NIGHT), tiny_chat.texts(tiny_chat.DAY)
    owls = [text for text in night if text.split()[2] in ("owl", "moon", "bat")]
    files = {
        "harmful.txt": night[:100],
        "harmless.txt": day[:100],
        "harmful-test.txt": night[100:116],
        "harmless-test.txt": day[100:116],
        "safe.txt": owls,
        "unsafe.txt": [text for text in night if text not in owls],
    }
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [
        {"prompt": f"How do I bake bread {n}?", "completion": text, "human_label": label}
        for n in range(4)
        for text, label in (
            ("I'm sorry, but I can't help with that request.", "refusal"),
            ("Mix flour, water, salt and yeast, and bake for 40 minutes.", "compliance"),
        )
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "labels.jsonl").write_text(text, encoding="utf-8")


def run_line(line: str, vectomy: Vectomy) -> None:
    """Run one command line, with the tiny chat model in place of MODEL and demo."""
    words = shlex.split(line, comments=True)[1:]
    if words[:2] == ["run", "demo"]:
        words += DEMO
    if words[0] == "run" and not set(USED) & set(words):
        words += ("--no-bake", *(() if OF_GRADIENT & set(words) else QUICK))
    words = [str(tiny_chat.folder()) if word in ("MODEL", "demo") else word for word in words]
    # The last of an option given twice counts, so the line's own come last.
    status, out, err = vectomy(words[0], *SMALL.get(words[0], ()), *words[1:])
    assert status == 0, f"{line}\n{out}\n{err}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the prompts, and the run `mine` once a page has needed it."""
    result = tmp_path_factory.mktemp("howto")
    write_prompts(result)
    return result


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_the_page_run(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, vectomy: Vectomy
) -> None:
    monkeypatch.chdir(folder)
    lines = commands_of(page)
    if any("runs/mine" in line for line in lines) and not (folder / "runs" / "mine").exists():
        run_line(MINE, vectomy)
    for line in lines:
        run_line(line, vectomy)
    # Only the run that other pages use stays.
    for path in (*folder.iterdir(), *(folder / "runs").glob("*")):
        if path.is_dir() and path.name not in ("runs", "mine"):
            shutil.rmtree(path)
