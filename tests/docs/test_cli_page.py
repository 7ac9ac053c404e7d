"""docs/cli.md is what the commands say, and names every environment variable that is read."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from vectomy.cli.common_options import COMMON_NAMES

TIER = "unit"

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "cli_docs.py"))


def test_the_page_is_current() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == SCRIPT["page"](), "run python scripts/cli_docs.py and commit docs/cli.md"


def test_every_command_and_every_option_is_on_the_page() -> None:
    """Expert options too, each once in the part of its command or of the command it refers to."""
    page = SCRIPT["page"]()
    for name, command in SCRIPT["commands_of"](SCRIPT["typer"].main.get_command(SCRIPT["app"])):
        part = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        part += page.split("\n## run\n")[1].split("\n## ")[0] if "of [run](#run)" in part else ""
        options = [item for item in command.params if item.name not in ("help_all", *COMMON_NAMES)]
        flags = [flag for item in options for flag in item.opts if flag.startswith("--")]
        assert not [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", part)], name


def test_every_variable_that_is_read_is_on_the_page() -> None:
    read = {
        name
        for path in (ROOT / "src").rglob("*.py")
        for name in re.findall(r"\bVECTOMY_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert read == {name for name in SCRIPT["ENVIRONMENT"] if name.startswith("VECTOMY_")}
