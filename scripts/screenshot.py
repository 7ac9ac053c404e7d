"""A picture of a report, made by an installed Chromium.

    python scripts/screenshot.py evaluation/report.html docs/evaluation.png \\
        --width 1180 --height 900

Without --height the whole page. --dark, --width 360 for a phone, --scale 2 for a sharp one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from chromium import Browser, installed


def main() -> None:
    parser = argparse.ArgumentParser(description="A picture of a report, made by an installed Chromium.")
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1180, help="of the screen, in CSS pixels")
    parser.add_argument("--height", type=int, help="of the picture; without it the whole page")
    parser.add_argument("--scale", type=float, default=1.0, help="device pixels to a CSS pixel")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--paper", action="store_true", help="as it is printed")
    given = parser.parse_args()
    path = installed()
    if path is None:
        parser.exit(1, "there is no Chromium on PATH; install one or name it in VECTOMY_CHROMIUM\n")
    look = {"width": given.width, "height": given.height or 800, "dark": given.dark, "paper": given.paper}
    with Browser(path) as browser:
        tab = browser.open(given.page, scale=given.scale, **look)
        given.out.write_bytes(tab.picture(whole=given.height is None))


if __name__ == "__main__":
    main()
