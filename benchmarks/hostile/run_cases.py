"""Damaged journals and run folders: what was finished is as it was, or is made again."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finished_run import finished_run

from hostile.kind import Kind, allow, run_command
from hostile.mutations import damage_text, jumbled
from vectomy.core.run_folder import Journal, RunFolder, write_whole

__all__ = ["RUN_KINDS"]

KEYS = [f"prompt {number}" for number in range(12)]
INPUTS = {"seed": 1, "model": "tiny"}


def _value(key: str) -> Any:
    return {"answer": f"answer to {key}", "rate": len(key) / 7, "tokens": [1, 2, len(key)]}


def _content(name: str) -> bytes:
    return (f"what stage {name} makes\n" * 9).encode()


def _work(path: Path) -> list[str]:
    """Three stages that depend on each other; which of them ran."""
    ran: list[str] = []
    with RunFolder(path) as run:
        before = "start"
        for name in ("collect", "select", "apply"):

            def work(name: str = name) -> None:
                ran.append(name)
                journal = run.journal(name)
                for key in KEYS[:3]:
                    journal.get_or_compute(key, lambda key=key: _value(key))
                with write_whole(run.file(f"{name}.bin")) as beside:
                    beside.write_bytes(_content(name))

            before = run.stage(name, before, {"of": name}, [f"{name}.bin"], work)
    return ran


def _build_work(path: Path) -> None:
    (path / "work").mkdir()
    journal = Journal(path / "work" / "stage.journal", INPUTS)
    for key in KEYS:
        journal.get_or_compute(key, lambda key=key: _value(key))
    _work(path / "work" / "run")


def _damage_journal(rng: random.Random, folder: Path) -> Path:
    file = folder / "stage.journal"
    raw = file.read_bytes()
    lines = raw.split(b"\n")
    how = rng.random()
    if how < 0.5:
        file.write_bytes(jumbled(raw, rng))
    elif how < 0.6:
        damage_text(file, rng)
    else:
        index = rng.randrange(len(lines))
        spoilt = {
            "drop": lines[:index] + lines[index + 1 :],
            "twice": [*lines[: index + 1], lines[index], *lines[index + 1 :]],
            "swap": [*lines[:index], rng.choice(lines), *lines[index + 1 :]],
            "odd": [
                *lines[:index],
                rng.choice([b"{}", b"[]", b"null", b'{"key": 1}', b"\xff"]),
                *lines[index:],
            ],
            "cut": [*lines[:index], lines[index][: rng.randint(0, len(lines[index]))]],
        }[rng.choice(["drop", "twice", "swap", "odd", "cut"])]
        file.write_bytes(b"\n".join(spoilt))
    return file


def _journal_steps(folder: Path, out: Path, file: Path) -> Iterator[str]:
    yield "journal"
    work = out / "stage.journal"
    # A journal lies in a folder of the run; links and pipes in its place stay there.
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20:
        shutil.copyfile(file, work)
    journal = Journal(work, INPUTS)
    for key in KEYS:
        got = journal.get_or_compute(key, lambda key=key: _value(key))
        allow(got == _value(key), f"{key} is {json.dumps(got)[:100]}")
    yield "again"
    again = Journal(work, INPUTS)
    allow(all(key in again for key in KEYS), "a finished piece was lost")


def _damage_run(rng: random.Random, folder: Path) -> str:
    files = sorted(file for file in (folder / "run").rglob("*") if file.is_file())
    for _ in range(rng.choice([1, 1, 2])):
        file = rng.choice(files)
        if file.is_file() and not file.is_symlink():
            damage_text(file, rng)
    return "run"


def _run_steps(folder: Path, out: Path, given: str) -> Iterator[str]:
    yield "copy"
    shutil.copytree(folder / "run", out / "run", symlinks=True, ignore=_no_files)
    yield "stages"
    _work(out / "run")
    for name in ("collect", "select", "apply"):
        allow((out / "run" / f"{name}.bin").read_bytes() == _content(name), f"{name} is not what it makes")
    yield "again"
    allow(not _work(out / "run"), "a finished stage ran again")


def _no_files(folder: str, names: list[str]) -> set[str]:
    """Pipes and devices, which cannot be copied."""
    paths = {name: Path(folder, name) for name in names}
    return {
        name
        for name, path in paths.items()
        if not path.is_symlink() and not (path.is_file() or path.is_dir())
    }


def _build_finished(path: Path) -> None:
    run = finished_run(behaviour_tokens=("I",), n_search=4, n_test=4, bake=False)
    shutil.copytree(run, path / "finished" / "run")


def _damage_finished(rng: random.Random, folder: Path) -> str:
    names = ["summary.json"] * 4 + ["scores.json", "separation.json", "completions.jsonl", "edit.safetensors"]
    files = [file for file in (folder / "run" / name for name in names) if file.is_file()]
    damage_text(rng.choice(files), rng)
    return rng.choice(["report", "report", "report --json", "show"])


def _finished_steps(folder: Path, out: Path, command: str) -> Iterator[str]:
    run = folder / "run"
    yield command
    name, *options = command.split()
    status, _ = run_command(name, str(run), *options)
    allow(status in (0, 1, 2), f"status {status}")


RUN_KINDS = (
    Kind("journal", _build_work, _damage_journal, _journal_steps),
    Kind("run folder", _build_work, _damage_run, _run_steps),
    Kind("finished run", _build_finished, _damage_finished, _finished_steps),
)
