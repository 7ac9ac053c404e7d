"""The two searches as processes: the prompts both read, how each is started, what each wrote. Used
by search.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectomy.core.jsonl import read_jsonl, write_jsonl

HERE = Path(__file__).resolve().parent
SIDES = {"positive": "harmful", "negative": "harmless"}
SETS = {
    "fit": "first 199 of train",
    "search": "the other 61 of harmful train and all of harmful val; first 100 of harmless val",
    "test": "first 100 of test, without those that are in another set",
}


def write_prompts(data: Path, folder: Path, few: int | None) -> dict[str, int]:
    """Write the six sets that both tools read, as {fit,search,test}-{positive,negative}.jsonl; give
    their sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes: dict[str, int] = {}
    for side, name in SIDES.items():
        train, val, test = (read_texts(data / f"{name}_{part}.jsonl") for part in ("train", "val", "test"))
        search = train[199:] + val if side == "positive" else val[:100]
        seen = {plain(text) for text in train[:199] + search}
        splits = {
            "fit": train[:199],
            "search": search,
            "test": [t for t in test[:100] if plain(t) not in seen],
        }
        for split, texts in splits.items():
            file = folder / f"{split}-{side}.jsonl"
            rows = [{"text": text} for text in texts[:few]]
            if not file.exists() or read_jsonl(file) != rows:
                write_jsonl(file, rows)
                shutil.rmtree(
                    file.with_suffix(".dataset"), ignore_errors=True
                )  # Heretic's copy of another set
            sizes[file.stem] = len(texts[:few])
    return sizes


def read_texts(file: Path) -> list[str]:
    if not file.is_file():
        raise SystemExit(
            f"{file} does not exist; --data names the folder with harmful_ and harmless_ *.jsonl"
        )
    return [row["text"] for row in read_jsonl(file, remedy="mend it")]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip().casefold()


class Searches:
    """Starts both tools as processes, under the same environment, and reads what they write."""

    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        self.args, self.model, self.work = args, model, args.work
        self.prompts = args.work / "prompts"
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(args.threads),
            # glibc gives freed memory back at once by default, which costs either tool time.
            "MALLOC_MMAP_THRESHOLD_": str(2**32),
            "MALLOC_TRIM_THRESHOLD_": str(2**33),
        }

    def heretic(self, what: str, seed: int, work: Path, *options: str) -> None:
        command = [str(self.args.heretic), str(HERE / "heretic_worker.py"), what, str(self.model)]
        command += ["--prompts", str(self.prompts), "--work", str(work), "--seed", str(seed)]
        command += ["--length", str(self.args.length), "--startup", str(self.args.startup)]
        command += ["--dtype", self.args.dtype, *options]
        self._run(command, work / f"heretic-{seed}.log")

    def about_heretic(self) -> dict[str, Any]:
        """Its version, markers and defaults; kept, so that --ours-only can do without it."""
        file = self.work / "about.json"
        if not file.exists():
            command = [str(self.args.heretic), str(HERE / "heretic_worker.py"), "about"]
            file.write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        return dict(json.loads(file.read_text()))

    def time_heretic(self, seed: int) -> None:
        """A fresh session of a few trials."""
        work = self.work / "timed"
        shutil.rmtree(work / f"seed-{seed}", ignore_errors=True)
        self.heretic("trials", seed, work, "--count", str(self.args.timed_trials))

    def more_trials(self, seed: int) -> None:
        """Go on with the seed's study until it has as many trials as asked for."""
        done = len(trials(self.work, seed))
        if done < self.args.trials:
            self.heretic("trials", seed, self.work, "--count", str(self.args.trials - done))

    def ours(self, seed: int, bundled: bool = False) -> dict[str, Any]:
        """Our search from nothing to the chosen edit, on the bundled prompts instead of the shared
        ones if asked for; what it took is written beside its run folder.
        """
        out, took = self.work / "ours" / f"seed-{seed}", self.work / "ours" / f"seed-{seed}.json"
        if not (self.args.reuse and took.exists() and (out / "edit.safetensors").exists()):
            shutil.rmtree(out, ignore_errors=True)
            counts = self.work / "ours" / f"counts-{seed}.json"
            command = [sys.executable, str(HERE / "counted.py"), str(counts), "vectomy.cli:main", "select"]
            command += [
                str(self.model),
                "--recipe",
                self.args.recipe,
                "--seed",
                str(seed),
                "--out",
                str(out),
                "--yes",
            ]
            command += ["--dtype", self.args.dtype, *self.args.ours_options]
            if bundled:
                for side, name in (("positive", "refused"), ("negative", "harmless")):
                    command += [f"--{side}", f"bundled:{name}"]
            for split, option in () if bundled else (("fit", ""), ("search", "-search"), ("test", "-test")):
                files = {side: str(self.prompts / f"{split}-{side}.jsonl") for side in SIDES}
                command += [
                    f"--positive{option}",
                    files["positive"],
                    f"--negative{option}",
                    files["negative"],
                ]
                command += [f"--n-{split}", "199" if split == "fit" else "100"]
            seconds = self._run(command, self.work / "ours" / f"seed-{seed}.log")
            took.write_text(json.dumps({**json.loads(counts.read_text()), "seconds": seconds}))
        return dict(json.loads(took.read_text()))

    def _run(self, command: Sequence[str], log: Path) -> float:
        log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with log.open("a", encoding="utf-8") as out:
            status = subprocess.run(
                command, env=self.environment, stdout=out, stderr=subprocess.STDOUT
            ).returncode
        if status:
            raise SystemExit(f"a search failed with status {status}; see {log}")
        return time.monotonic() - began


def sessions(work: Path, seed: int) -> list[dict[str, Any]]:
    files = sorted((work / f"seed-{seed}").glob("session-*.json"), key=lambda f: int(f.stem.split("-")[1]))
    return [json.loads(file.read_text()) for file in files]


def trials(work: Path, seed: int) -> list[dict[str, Any]]:
    return [trial for session in sessions(work, seed) for trial in session["trials"]]


def cost_of_trials(session: dict[str, Any], count: int) -> dict[str, Any]:
    """Cost of `count` trials: the measured set-up plus `count` times the median trial."""
    cost: dict[str, Any] = {"trials": count, "trials_measured": len(session["trials"])}
    for key in ("seconds", "forward_tokens", "generated_tokens"):
        setup = session["setup_seconds"] if key == "seconds" else session["setup_counts"][key]
        cost[key] = setup + count * statistics.median(trial[key] for trial in session["trials"])
    return {**cost, "forward_tokens_with_gradients": 0, "peak_bytes": session["peak_bytes"]}
