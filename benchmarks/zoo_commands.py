"""Every model type of the zoo through the commands plan, edit new, apply and verify: how they end.

    python benchmarks/zoo_commands.py [--labels NAME,...] [--json FILE]

A command may succeed, or end in one sentence; "unforeseen", the word for an error that nobody
expected, and any other exception are faults. The models are tiny and random, without a tokenizer.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))

from zoo import ZOO, zoo_folder

from vectomy.cli import main as run_command_line

COMMANDS = ("plan", "edit new", "apply", "verify")


def run_command(words: list[str]) -> tuple[int, str]:
    """The exit status of a command in this process, and the last line of its stderr."""
    sys.argv = ["vectomy", *words]
    errors = io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            run_command_line()
        except SystemExit as stop:
            status = stop.code or 0
    lines = errors.getvalue().strip().splitlines()
    return int(status) if isinstance(status, int) else 1, lines[-1] if lines else ""


def run_all(folder: Path, work: Path) -> dict[str, tuple[int, str]]:
    """The ends of the commands on one model; those behind a failure are not run."""
    edit, out = str(work / "edit.safetensors"), str(work / "out")
    words = {
        "plan": ["plan", str(folder)],
        "edit new": ["edit", "new", str(folder), "--direction", "random:0", "--out", edit],
        "apply": ["apply", edit, str(folder), "--out", out, "--no-verify"],
        "verify": ["verify", out, "--edit", edit, "--no-run"],
    }
    ends: dict[str, tuple[int, str]] = {}
    for command in COMMANDS:
        ends[command] = run_command(words[command])
        if command in ("edit new", "apply") and ends[command][0]:
            break
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", default="", help="model types of the zoo, with commas; all unless given")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    counts = {command: Counter[str]() for command in COMMANDS}
    faults: dict[str, str] = {}
    labels = [name for name in args.labels.split(",") if name] or list(ZOO)
    for label in labels:
        with tempfile.TemporaryDirectory() as folder:
            model, work = Path(folder) / "model", Path(folder) / "work"
            work.mkdir()
            zoo_folder(label, model)
            for command, (status, line) in run_all(model, work).items():
                counts[command][f"exit {status}"] += 1
                if "unforeseen" in line or "Traceback" in line:
                    faults[f"{label}: {command}"] = line[:300]
    result = {"types": len(labels), "ends": {name: dict(ends) for name, ends in counts.items()}}
    args.json.write_text(json.dumps({**result, "unforeseen": faults}, indent=1) + "\n")
    for command, ends in counts.items():
        print(f"{command:10s} {', '.join(f'{end}: {count}' for end, count in sorted(ends.items()))}")
    print(f"{len(labels)} model types, {len(faults)} unforeseen")
    for place, line in faults.items():
        print(f"  {place}: {line}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
