"""The picture under the README's table, and the numbers of the table, from one finished run.

    vectomy run demo --yes --out RUN
    python scripts/readme_picture.py RUN

Writes docs/report.png (the head of the run's page), docs/report.json (the numbers that the page
shows, and the picture's sha256) and the tables of README.md and docs/results.md, whose sentences it
compares with them (results_tables.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from chromium import Browser, installed
from results_tables import list_differences, write_tables

DOCS = Path(__file__).parents[1] / "docs"
MEASURES = (
    "refusal_count",
    "refusal_total",
    "refusal_ci",
    "harmless_refusal_count",
    "harmless_refusal_total",
    "harmless_refusal_ci",
    "degenerate_rate",
    "evasion_rate",
    "kl_first_token",
    "kl_per_token",
    "ce_own_answers",
    "max_projection",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="The README's picture and numbers, from a finished run.")
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    path = installed()
    if path is None:
        parser.exit(1, "there is no Chromium on PATH; install one or name it in VECTOMY_CHROMIUM\n")
    with Browser(path) as browser:
        picture = browser.open(run / "report.html", width=1180, height=1130).picture(whole=False)
    (DOCS / "report.png").write_bytes(picture)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    forms = {"base": summary["base"], **summary["forms"]}
    data = {
        "model": summary["model"],
        "recipe": summary["recipe"],
        "seed": summary["seed"],
        "judge": summary["judge"]["name"],
        "settings": summary["settings"],
        "versions": summary["versions"],
        "forms": {form: {name: forms[form].get(name) for name in MEASURES} for form in forms},
        "sets": summary["outcome"]["sets"],
        "picture_sha256": hashlib.sha256(picture).hexdigest(),
    }
    (DOCS / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    write_tables()
    print("\n".join(list_differences()) or "every number is that of its JSON")


if __name__ == "__main__":
    main()
