"""Runs cases in forked children with bounded memory and time, and counts how they end."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hostile.chat_files import CHAT_KINDS
from hostile.gguf_cases import GGUF_KINDS
from hostile.kind import Kind, NotAllowedError, run_command
from hostile.page_cases import PAGE_KINDS
from hostile.prompt_cases import PROMPT_KINDS
from hostile.replies import REPLY_KINDS
from hostile.run_cases import RUN_KINDS
from hostile.weights import WEIGHT_KINDS
from vectomy.core.errors import VectomyError

__all__ = ["KINDS", "build", "kind_of", "main", "run", "snapshot"]

KINDS: tuple[Kind, ...] = (
    *WEIGHT_KINDS,
    *CHAT_KINDS,
    *PROMPT_KINDS,
    *RUN_KINDS,
    *GGUF_KINDS,
    *REPLY_KINDS,
    *PAGE_KINDS,
)
# Turns of a kind of which one case takes a millisecond or a few; each other kind has one.
TURNS = {"prompts": 6, "trait": 3, "journal": 4, "run folder": 3}
# Per case: seconds, and how much the process may grow.
SECONDS, GROWTH = 20, 300 << 20
LONGEST = 2000
BATCH = 50


def build(path: Path, kinds: Sequence[Kind] = KINDS) -> dict[str, list[Path]]:
    """The undamaged folders of each kind; those of one `build` are made once."""
    run_command("--version")
    made: dict[Any, list[Path]] = {}
    for kind in kinds:
        if kind.build not in made:
            folder = path / kind.name
            folder.mkdir(parents=True)
            kind.build(folder)
            made[kind.build] = sorted(each for each in folder.iterdir() if each.is_dir())
    return {kind.name: made[kind.build] for kind in kinds}


def kind_of(number: int, kinds: Sequence[Kind] = KINDS) -> Kind:
    """The kind of the case of this number."""
    turns = [kind for kind in kinds for _ in range(TURNS.get(kind.name, 1))]
    return turns[number % len(turns)]


# One case


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every name under a folder, with content, size and times."""
    result: dict[str, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            stat = path.lstat()
            whole = (
                path.is_file() and not path.is_symlink() and stat.st_size < 1 << 24 and stat.st_mode & 0o400
            )
            content = hash(path.read_bytes()) if whole else None
            result[str(path)] = (
                stat.st_mode,
                stat.st_size,
                None if path.is_dir() else stat.st_mtime_ns,
                content,
            )
    return result


def _where(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(place.filename).name}:{place.name}: {str(error)[:150]}"


def _end(kind: Kind, folder: Path, given: Any) -> str:
    """How a case ended, in one line. Raises NotAllowedError for what must not be."""
    out, before = folder / "out" / "deep", snapshot(folder.parent)
    out.mkdir(parents=True)
    memory, step = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, ""
    error: VectomyError | None = None
    try:
        for step in kind.steps(folder, out, given):  # noqa: B007 (looked at where it stopped)
            pass
    except VectomyError as refused:
        error = refused
    except NotAllowedError as wrong:
        raise NotAllowedError(f"{step}: {wrong}") from None
    except BaseException as wrong:  # noqa: BLE001 (that is what is looked for; Rust panics are no Exception)
        raise NotAllowedError(f"{step}: {_where(wrong)}") from None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) << 10
    if grown > GROWTH:
        raise NotAllowedError(f"{step}: the process grew by {grown >> 20} MiB")
    if step == "reopen" and error is not None:
        raise NotAllowedError(f"the output does not open: {error}")
    shutil.rmtree(folder / "out")
    after = snapshot(folder.parent)
    if before != after:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise NotAllowedError(f"{step}: {', '.join(changed)} changed")
    if error is None:
        return "success"
    message = str(error)
    if not message.isprintable() or not message or len(message) > LONGEST:
        raise NotAllowedError(
            f"{step}: a {type(error).__name__} of {len(message)} characters that is no one readable "
            f"line: {message[:150]!r}"
        )
    if message.startswith("unforeseen"):
        raise NotAllowedError(f"{step}: {message[:150]}")
    return f"{step}: {type(error).__name__}"


def _case(number: int, seed: int, kinds: Sequence[Kind], bases: Mapping[str, list[Path]], area: Path) -> str:
    rng = random.Random(f"{seed}/{number}")
    kind = kind_of(number, kinds)
    base = rng.choice(bases[kind.name])
    # Levels above the folder, so that names that climb out of it are seen.
    folder = area / "a" / "b"
    shutil.copytree(base, folder)
    try:
        return _end(kind, folder, kind.damage(rng, folder))
    except NotAllowedError as failure:
        return f"FAILED {base.name} {failure}"
    finally:
        shutil.rmtree(area)


# Many cases


def _work(
    numbers: range, seed: int, kinds: Sequence[Kind], bases: Mapping[str, list[Path]], area: Path, pipe: int
) -> None:
    """In a forked child: its memory and its time are bounded, and what it does to itself ends with
    it.
    """
    # The child's own size now, and as much as a case may take and a half.
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    limit = pages * resource.getpagesize() + GROWTH * 3 // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    imported = set(sys.modules)
    for number in numbers:
        os.write(pipe, f"{number}\t".encode())
        signal.alarm(SECONDS)
        text = _case(number, seed, kinds, bases, area)
        signal.alarm(0)
        os.write(pipe, text.encode("utf-8", "backslashreplace").replace(b"\n", b" ")[:600] + b"\n")
    for name in sorted(set(sys.modules) - imported):
        os.write(pipe, f"{name}\n".encode())


def run(
    total: int,
    seed: int,
    bases: Mapping[str, list[Path]],
    area: Path,
    first: int = 0,
    kinds: Sequence[Kind] = KINDS,
) -> dict[int, str]:
    """How the cases ended, by number. A child that dies is the fault of the case that it was at."""
    ends: dict[int, str] = {}
    start, last = first, first + total
    while start < last:
        numbers = range(start, min(start + BATCH, last))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                _work(numbers, seed, kinds, bases, area, writing)
                status = 0
            except BaseException:  # noqa: BLE001 (a forked child must not go on into the parent's code)
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answers:
            lines = answers.read().split("\n")
        _, status = os.waitpid(child, 0)
        for line in lines:
            number, tab, text = line.partition("\t")
            if tab:
                ends[int(number)] = (
                    text or f"FAILED the process ended with status {status} (14: after {SECONDS} s)"
                )
                start = int(number) + 1
        # What the child imported late, the next one finds imported.
        for name in (line for line in lines if line and "\t" not in line):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        shutil.rmtree(area, ignore_errors=True)
        if not any("\t" in line for line in lines):
            raise SystemExit(f"a child ended with status {status} before its first case")
    return ends


class _Record:
    """The file of results: counts by kind and end, and every failure by its number."""

    def __init__(self, path: Path, seed: int, kinds: Sequence[Kind]) -> None:
        self.path, self.seed, self.kinds = path, seed, kinds
        self.names = [kind.name for kind in kinds]
        self.cases, self.seconds = 0, 0.0
        self.ends = {name: Counter[str]() for name in self.names}
        self.failed: dict[str, str] = {}
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("seed") == seed and stored.get("kinds") == self.names:
                self.cases, self.seconds, self.failed = stored["cases"], stored["seconds"], stored["failed"]
                self.ends = {name: Counter(stored["ends"].get(name, {})) for name in self.names}

    def repeat(self, number: int, text: str) -> None:
        """How a case that failed before ends now."""
        name = kind_of(number, self.kinds).name
        if not text.startswith("FAILED"):
            del self.failed[str(number)]
            self.ends[name].subtract(["FAILED"])
            self.ends[name] += Counter([text])
            self.add({}, 0.0)

    def add(self, ends: Mapping[int, str], seconds: float) -> None:
        for number, text in ends.items():
            wrong = text.startswith("FAILED")
            self.ends[kind_of(number, self.kinds).name]["FAILED" if wrong else text] += 1
            if wrong:
                self.failed[str(number)] = text
        self.cases, self.seconds = self.cases + len(ends), self.seconds + seconds
        table = {
            "cases": self.cases,
            "seed": self.seed,
            "kinds": self.names,
            "unforeseen": sum("unforeseen" in text for text in self.failed.values()),
            "failed": self.failed,
            "seconds": round(self.seconds),
            "ends": self.ends,
        }
        beside = self.path.with_suffix(".partial")
        beside.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
        beside.replace(self.path)

    def print(self) -> None:
        for name in self.names:
            print(name)
            for text, count in self.ends[name].most_common():
                print(f"  {count:7d}  {text}")
        for number, text in list(self.failed.items())[:60]:
            print(f"case {number} ({kind_of(int(number), self.kinds).name}): {text}")
        print(f"{self.cases} cases, {len(self.failed)} failed, {self.seconds:.0f} s")


def main(results: Path) -> None:
    parser = argparse.ArgumentParser(description=sys.modules["hostile"].__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="How many, those done before included.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS])
    parser.add_argument("--case", type=int, help="Only the case of this number, and nothing is recorded.")
    parser.add_argument("--json", type=Path, default=results)
    args = parser.parse_args()
    kinds = [kind for kind in KINDS if not args.kinds or kind.name in args.kinds]
    torch.set_num_threads(1)
    record = _Record(args.json, args.seed, kinds)
    with tempfile.TemporaryDirectory() as folder:
        bases = build(Path(folder) / "bases", kinds)
        before = snapshot(Path(folder))
        if args.case is not None:
            print(run(1, args.seed, bases, Path(folder) / "area", args.case, kinds)[args.case])
            return
        for number in [int(number) for number in record.failed]:
            record.repeat(number, run(1, args.seed, bases, Path(folder) / "area", number, kinds)[number])
        while record.cases < args.cases:
            began = time.monotonic()
            count = min(500, args.cases - record.cases)
            ends = run(count, args.seed, bases, Path(folder) / "area", record.cases, kinds)
            assert snapshot(Path(folder)) == before, "a base was changed"
            record.add(ends, time.monotonic() - began)
    record.print()
    raise SystemExit(1 if record.failed else 0)
