"""Publish a run or an edited checkpoint to a stand-in for the Hub, killed in the middle of a large
file, and rebuild it from there.

    python benchmarks/hub_round_trip.py RUN|CHECKPOINT [--base demo] [--from-scratch] [--json FILE]

Each step is a process of its own, as a person would run it, with an invented token in HF_TOKEN.
Prints what each took, and whether the repository holds the very bytes, the token turned up
anywhere, and a rebuilt model matches; then with one byte flipped there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from hub_server import TOKEN, Hub, running

REPO = "me/edited"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", type=Path)
    parser.add_argument("--base", default="demo")
    parser.add_argument("--from-scratch", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with running() as hub, tempfile.TemporaryDirectory() as home:
        found = round_trip(hub, Path(home), given)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def round_trip(hub: Hub, home: Path, given: argparse.Namespace) -> dict[str, object]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    said: list[str] = []

    def vectomy(*words: str) -> tuple[int, float]:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "vectomy.cli", *words],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        said.extend((done.stdout, done.stderr))
        print(done.stdout[:600], done.stderr[-300:], sep="\n", file=sys.stderr)
        return done.returncode, round(time.monotonic() - began, 1)

    push = ("push", str(given.what.resolve()), REPO, "--yes")
    weights = given.what / "checkpoint" if (given.what / "checkpoint").is_dir() else given.what
    large = max(file.stat().st_size for file in weights.iterdir())
    found: dict[str, object] = {"large_file_bytes": large}
    hub.slow = 0.05
    cut = subprocess.Popen(
        [sys.executable, "-m", "vectomy.cli", *push], env=environment, cwd=home, stderr=subprocess.DEVNULL
    )
    while hub.arrived < large // 2 and cut.poll() is None:
        time.sleep(0.01)
    cut.send_signal(signal.SIGKILL)
    cut.wait()
    found["killed_after_bytes"], found["visible_then"] = hub.arrived, sorted(hub.files(REPO))
    hub.slow = 0.0
    found["push"] = vectomy(*push)
    found["times_each_large_file_arrived"] = sorted(hub.puts.values())
    found["same_bytes"] = all(
        hub.files(REPO)[name] == (weights / name).read_bytes()
        for name in hub.files(REPO)
        if not name.startswith("README") and name != "vectomy/run.json"
    )
    found["push_again"] = vectomy(*push)
    reproduce = ("reproduce", REPO, "--base", given.base)
    found["reproduce"] = vectomy(*reproduce)
    if given.from_scratch:
        found["from_scratch"] = vectomy(*reproduce, "--from-scratch")
    data = bytearray(hub.files(REPO)["model.safetensors"])
    data[len(data) // 2] ^= 1
    hub.repos[REPO].branches["main"]["model.safetensors"] = bytes(data)
    hub.repos[REPO].commits += 1
    found["with_a_bit_flipped"] = vectomy(*reproduce)
    found["said_of_it"] = next(
        (line.strip() for line in said[-2].splitlines() if line.startswith("  tensor")), None
    )
    files = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    found["token_anywhere"] = TOKEN in "".join(said) or TOKEN.encode() in files + hub.everything()
    return found


if __name__ == "__main__":
    main()
