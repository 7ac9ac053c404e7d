"""Hooks of mkdocs (mkdocs.yml): the pages of docs/ lie in the repository, where GitHub shows them,
and in the site. Nothing here loads vectomy.

- README, CONTRIBUTING and CHANGELOG become pages of the site; linked raw numbers become files.
- Links that leave docs/ lead to those; of a link to a folder the words stay.
- Equations become MathML when the site is built, so that no script and no font is fetched.
- Why a block is not run in a test stands below it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
PROJECT = {"README.md": "overview", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
NOT_RUN = re.compile(r"^<!-- not run: (.+?) -->\n(```.*?^```$)", re.M | re.S)
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.S)
PRIME = re.compile(r"<msup>(<mi>.</mi>)<m[io]>(?:&#x0?2032;|′)</m[io]></msup>")
# Folders whose pages are listed by their names.
LISTED = {"Log": "log", "Design decisions": "decisions"}


def on_config(config: Any) -> Any:
    """Fill in the pages of the listed folders."""
    _list_pages(config.nav)
    return config


def _list_pages(nav: list[Any]) -> None:
    for item in nav:
        for title, value in item.items() if isinstance(item, dict) else ():
            if title in LISTED:
                folder = ROOT / "docs" / LISTED[title]
                names = sorted(path.name for path in folder.glob("*.md"))
                names.sort(key=lambda name: name != "README.md")
                item[title] = [f"{LISTED[title]}/{name}" for name in names]
            elif isinstance(value, list):
                _list_pages(value)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and files outside docs/ that pages link to."""
    for name, page in PROJECT.items():
        files.append(File.generated(config, f"project/{page}.md", abs_src_path=str(ROOT / name)))
    sources = [ROOT / name for name in PROJECT] + sorted((ROOT / "docs").rglob("*.md"))
    linked = {target for path in sources for target in _linked(path)}
    for target in sorted(linked):
        if (ROOT / target).is_file() and not target.startswith("docs/") and target not in PROJECT:
            files.append(File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target)))
    return files


def _linked(page: Path) -> set[str]:
    """The files of the repository that a page links to, as paths from its root."""
    text = page.read_text(encoding="utf-8")
    return {
        path
        for _, _, target in LINK.findall(text)
        if (path := _resolve(target, page.parent.relative_to(ROOT))) is not None
    }


def _resolve(target: str, folder: Path) -> str | None:
    """The path from the root of the repository; None for an address or an anchor."""
    name = target.partition("#")[0]
    if not name or re.match(r"[a-z]+:", target):
        return None
    return os.path.normpath(folder / name).replace(os.sep, "/")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links that leave docs/ to their place in the site; say why blocks are not run."""
    source = Path(page.file.abs_src_path)
    own = PurePosixPath(page.file.src_uri).parent

    def moved(match: re.Match[str]) -> str:
        image, words, target = match.groups()
        path = _resolve(target, source.parent.relative_to(ROOT))
        if path is None:
            return match[0]
        if (ROOT / path).is_dir():
            return words
        if path.startswith("docs/"):
            place = path.removeprefix("docs/")
        elif path in PROJECT:
            place = f"project/{PROJECT[path]}.md"
        else:
            place = f"files/{path}"
        anchor = f"#{target.partition('#')[2]}" if "#" in target else ""
        return f"{image}[{words}]({os.path.relpath(place, own)}{anchor})"

    markdown = NOT_RUN.sub(r"\2\n\nNot run in a test: \1.\n{ .not-run }", markdown)
    return LINK.sub(moved, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Equations as MathML."""

    def equation(match: re.Match[str]) -> str:
        text = match[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        mathml = convert(text, display="block" if match[1] == "div" else "inline")
        # The sign is raised by itself: as a superscript it is a dot.
        return PRIME.sub(r"<mrow>\1<mo>′</mo></mrow>", mathml)

    return MATH.sub(equation, html)
