"""Kill a run at random moments, resume it with the same command, and compare with an undisturbed
run.

    python benchmarks/kill_resume.py [--kills 20] [--model demo] [--json FILE]

One run is started in one folder as often as it takes; each of the first `kills` starts is ended by
SIGKILL after a random delay. Prints a table of where each kill hit, and whether Edit, scores and
checkpoint are the same bytes in the end.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vectomy.core.run_folder import sha256_file

COMPARED = ("edit.safetensors", "scores.json", "checkpoint/model.safetensors", "checkpoint/config.json")


def command(model: str, out: Path) -> list[str]:
    tokens = ["--answer-tokens", "16", "--n-test", "8"]
    return [sys.executable, "-m", "vectomy.cli", "run", model, "--out", str(out), "--yes", "--json", *tokens]


def stage_of(out: Path) -> str:
    done = sorted((path.stat().st_mtime, path.stem) for path in (out / "stages").glob("*.json"))
    journal = next((path.stem for path in (out / "stages").glob("*.journal")), None)
    within = f", in {journal}" if journal else ""
    return f"behind {done[-1][1]}{within}" if done else "before the first stage ended"


def digests(out: Path) -> dict[str, str]:
    return {name: sha256_file(out / name) for name in COMPARED}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        calm, killed = Path(folder) / "calm", Path(folder) / "killed"
        began = time.monotonic()
        subprocess.run(command(args.model, calm), check=True, capture_output=True)
        whole = time.monotonic() - began
        print(f"undisturbed: {whole:.0f} s")
        hits = []
        while len(hits) < args.kills:
            child = subprocess.Popen(
                command(args.model, killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            delay = rng.uniform(2.0, max(4.0, 1.5 * whole / args.kills + 8.0))
            try:
                child.wait(timeout=delay)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
                child.wait()
                hits.append({"after_s": round(delay, 2), "where": stage_of(killed)})
                print(f"kill {len(hits):2d}  after {delay:5.1f} s  {hits[-1]['where']}", flush=True)
            else:
                if child.returncode:
                    raise SystemExit(f"the resumed run failed with status {child.returncode}")
                # It came to its end between kills: begin anew, with what is left of the kills.
                (
                    killed / "stages" / f"{rng.choice(['select', 'collect', 'apply', 'evaluate'])}.json"
                ).unlink()
        subprocess.run(command(args.model, killed), check=True, capture_output=True)
        same = {name: digest == digests(killed)[name] for name, digest in digests(calm).items()}
    for name, equal in same.items():
        print(f"{name:32s} {'the same bytes' if equal else 'DIFFERS'}")
    if args.json:
        args.json.write_text(
            json.dumps({"undisturbed_s": whole, "kills": hits, "same": same}, indent=2) + "\n"
        )
    raise SystemExit(0 if all(same.values()) else 1)


if __name__ == "__main__":
    main()
