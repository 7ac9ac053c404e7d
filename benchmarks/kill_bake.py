"""Kill bakes and the resumes of them, and compare what comes of it with an undisturbed bake.

    python benchmarks/kill_bake.py [--kills 200] [--seed 0] [--json benchmarks/kill_bake.json]

Half of the kills come after a random time, half right before or after a random one of the calls
that write (a block, a copied range, a file forced to disk, a file that takes its name). A bake is
killed one to four times, its resumes included, and then left to end: the same bytes, nothing beside
them, the source as it was. Children are forked, so that a kill costs no import.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from deadly_calls import die_in
from hostile import build_bases, snapshot

from vectomy.core.run_folder import sha256_file
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake

CALLS = ("os.pwrite", "os.copy_file_range", "os.fsync", "Path.replace", "Path.unlink", "os.link")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def child(base: Path, out: Path, before: Callable[[], None] = lambda: None) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        before()
        bake(Edit.load(base / "edit.safetensors"), base / "in", out)
        status = 0
    except BaseException:  # noqa: BLE001 (a forked child must not go on into the parent's code)
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int) -> str:
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else "done" if status == 0 else f"status {status}"


def one_kill(base: Path, out: Path, seconds: float, rng: random.Random) -> tuple[str, str]:
    """How the child ended, and what was to kill it."""
    if rng.random() < 0.5:
        pid = child(base, out)
        time.sleep(rng.uniform(0, 1.2) * seconds)
        os.kill(pid, signal.SIGKILL)
        return ended(pid), "a random time"
    call, after = rng.choice(CALLS[:4] * 2 + CALLS[4:]), rng.random() < 0.5
    number = rng.randint(1, 4 if call == "Path.unlink" else 12)
    return ended(
        child(base, out, lambda: die_in(call, number, after))
    ), f"{'after' if after else 'before'} {call}"


def where(out: Path) -> str:
    beside = out.with_name(f".{out.name}.baking")
    if out.exists() and any(out.iterdir()):
        return "whole"
    finished = len(list(beside.glob("*.safetensors"))) if beside.exists() else 0
    return (
        f"{min(finished, 3)}{'+' if finished > 3 else ''} shards there" if beside.exists() else "nothing yet"
    )


def storm(bases: tuple[Path, ...], area: Path, kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """What the kills hit, and what was wrong in the end."""
    rng, hits, wrong = random.Random(seed), Counter[str](), list[str]()
    whole, seconds, source = {}, {}, {base: snapshot(base) for base in bases}
    for base in bases:
        began = time.monotonic()
        ended(child(base, area / "whole" / base.name))
        seconds[base], whole[base] = time.monotonic() - began, digests(area / "whole" / base.name)
    done = 0
    while done < kills:
        base = bases[done % len(bases)] if done < len(bases) else rng.choice(bases)
        folder = area / "killed"
        for _ in range(rng.randint(1, 4)):
            how, cause = one_kill(base, folder / "out", seconds[base], rng)
            if how == "killed":
                done += 1
                hits[f"{cause}, {where(folder / 'out')}"] += 1
            elif how != "done":
                wrong.append(f"{base.name}: a bake ended with {how} ({cause})")
            if (folder / "out").exists():
                break
        if not (folder / "out").exists() and (how := ended(child(base, folder / "out"))) != "done":
            wrong.append(f"{base.name}: the last resume ended with {how}")
        elif digests(folder / "out") != whole[base]:
            wrong.append(f"{base.name}: other bytes")
        elif [path.name for path in folder.iterdir()] != ["out"]:
            wrong.append(f"{base.name}: left beside: {sorted(path.name for path in folder.iterdir())}")
        if snapshot(base) != source[base]:
            wrong.append(f"{base.name}: the source was changed")
        shutil.rmtree(folder)
    return hits, wrong


def build(path: Path) -> tuple[Path, ...]:
    """Plain, experts, quantised, tied in one file, and tied in several."""
    bases = build_bases(path)
    from tiny import build, unit

    folder = build(path / "tied" / "in", "mistral", tied=True, sharded=True).folder
    Edit.ablation(folder, unit()).save(path / "tied" / "edit.safetensors")
    return (*bases, path / "tied")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        bases = build(Path(folder) / "bases")
        hits, wrong = storm(bases, Path(folder), args.kills, args.seed)
    for text, count in sorted(hits.items()):
        print(f"{count:5d}  {text}")
    print(
        f"{sum(hits.values())} kills, {len(wrong)} wrong, {time.monotonic() - began:.0f} s", *wrong, sep="\n"
    )
    record = {"kills": sum(hits.values()), "seed": args.seed, "hits": hits, "wrong": wrong}
    args.json.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
