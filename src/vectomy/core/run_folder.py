"""The run folder: files that appear whole or not at all, and stages that are not run twice. Loads
no torch.

A stage's record (stages/NAME.json) holds the hash of what it read and the hashes of what it wrote.
It is valid while both hashes still match; resuming is nothing more than that. Long stages also keep
a journal, so that a killed run continues within the stage.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from vectomy.core.cost_meter import CostMeter
from vectomy.core.errors import ArtifactError
from vectomy.core.file_lock import hold_lock
from vectomy.core.file_moves import move_into_place, sync_file
from vectomy.core.freed_memory import trim_heap
from vectomy.core.json_value import JsonObject
from vectomy.core.output_path import check_replaceable_file, check_run_output
from vectomy.core.ranks import current_ranks
from vectomy.core.results.result_parts import StageCost
from vectomy.core.settings_change import RunSettings
from vectomy.core.text_file import read_text
from vectomy.core.write_errors import NO_RIGHT, name_full_disk, name_write_errors

__all__ = [
    "MARK",
    "Journal",
    "RunFolder",
    "cache_folder",
    "canonical_json",
    "clear_partials",
    "hash_of",
    "json_bytes",
    "read_json",
    "sha256_file",
    "write_json",
    "write_whole",
]

MARK, SETTINGS = "vectomy-run.json", "settings.json"
# Of every file with a `format` of ours.
VERSION = 1
Digests = dict[str, str | None]
"""Content hashes of a stage's outputs, by name; None for what is absent."""


def canonical_json(value: Any) -> str:
    """The same text for the same value, whatever the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def hash_of(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def cache_folder() -> Path:
    """The folder of things that can be remade: $VECTOMY_CACHE, else the user's cache folder."""
    given = os.environ.get("VECTOMY_CACHE")
    if given:
        return Path(given)
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise ArtifactError(
            "this user has no home folder to keep caches in; set VECTOMY_CACHE (and HF_HOME) to a folder "
            "that can be written to"
        ) from None
    return Path(home) / "vectomy"


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes its name only when the block ends well.

    The path lies in a folder of its own next to `path`. Some libraries (safetensors 0.8) write a
    temporary file next to their target and rename it; a kill leaves it in that folder, where it is
    recognised and removed.

    Raises:
        ArtifactError: `path` is a folder, a device, a link or anything else that is no regular
            file, or cannot be written.
        DiskFullError: no space is left.
    """
    check_replaceable_file(path)
    # The name does not grow with that of `path`, which may have the greatest length already.
    folder = path.with_name(f".{hash_of(path.name)[:12]}.{os.getpid()}.partial")
    beside = folder / path.name
    try:
        with name_write_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            yield beside
            sync_file(beside)
            move_into_place(beside, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_partials(folder: Path) -> None:
    """Remove half-written files of killed processes; nobody else may be writing in `folder`."""
    for leftover in list(folder.rglob(".*.partial")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with write_whole(path) as beside:
        beside.write_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """Raises ArtifactError when the file is absent, does not parse, or is of a newer version."""
    try:
        value = json.loads(read_text(path))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist; run the command that writes it") from None
    except PermissionError:
        raise ArtifactError(f"{path} cannot be read: {NO_RIGHT}") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} does not parse as JSON ({error}); delete it and run again") from None
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read ({error.strerror}); delete it and run again, or give another folder"
        ) from None
    check_version(value, path)
    return value


def check_version(value: Any, path: Path) -> None:
    """Raises ArtifactError if a newer vectomy wrote `value`: it may mean something else there."""
    version = value.get("version") if isinstance(value, dict) else None
    if type(version) is int and version > VERSION and str(value.get("format")).startswith("vectomy-"):
        raise ArtifactError(
            f"{path} has version {version} of its format, and this vectomy reads up to {VERSION}: a newer "
            "one wrote it; update vectomy, or choose another folder"
        )


class Journal:
    """The finished pieces of a long stage, one JSON line each, kept until the stage is done.

    A journal written for other inputs is dropped; a last line cut off by a kill is dropped too, and
    so is everything from the first line on whose checksum does not fit. Lines of earlier versions
    have no checksum.

    Attributes:
        inputs: the hash of what the pieces depend on.
    """

    def __init__(self, path: Path, inputs: Any) -> None:
        self.path, self.inputs = path, hash_of(inputs)
        self._done: JsonObject = current_ranks().on_first(self._open)

    def _open(self) -> JsonObject:
        """The finished pieces; everything else is cut off."""
        path, done = self.path, {}
        header = canonical_json({"inputs": self.inputs})
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        kept = lines[:-1] if lines and lines[0] == header else []
        for line in kept[1:]:
            try:
                row = json.loads(line)
                # Lines of earlier versions have no checksum, and nothing else besides.
                if len(row) != 2 and row["check"] != _checksum(row["key"], row["value"]):
                    break
                done[row["key"]] = row["value"]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
        rows = [header, *(_journal_line(key, value) for key, value in done.items())]
        with write_whole(path) as beside:
            beside.write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
        return done

    def get_or_compute(self, key: str, work: Callable[[], Any]) -> Any:
        """The recorded value of `key`, else that of `work()`, recorded now. Values must survive
        JSON. All ranks run `work`, and get the value of rank 0.
        """
        if key not in self._done:
            self._done[key] = current_ranks().on_first(partial(self._add, key, work()))
        return self._done[key]

    def _add(self, key: str, result: Any) -> Any:
        value = json.loads(canonical_json(result))
        with name_write_errors(self.path), self.path.open("ab") as file:
            file.write((_journal_line(key, value) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        return value

    def __contains__(self, key: str) -> bool:
        return key in self._done


def _checksum(key: str, value: Any) -> str:
    return f"{zlib.crc32(canonical_json([key, value]).encode()):08x}"


def _journal_line(key: str, value: Any) -> str:
    return canonical_json({"key": key, "value": value, "check": _checksum(key, value)})


class RunFolder:
    """A folder that holds one run. Within `with RunFolder(path)` no other run can use it.

    Of several ranks, rank 0 alone writes here; the others need to see its files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reused: list[str] = []
        self._release: Callable[[], None] | None = None
        self._at_work: dict[str, str] = {}

    def __enter__(self) -> RunFolder:
        """Raises ArtifactError: the folder holds something else, cannot be written to, or another
        run is at work in it, or another rank does not see it.
        """
        ranks = current_ranks()
        ranks.on_first(self._open)
        blind = [rank for rank, sees in enumerate(ranks.gather((self.path / MARK).exists())) if not sees]
        if blind:
            raise ArtifactError(
                f"process {blind[0]} of this job does not see {self.path}, which process 0 has opened; "
                "choose an --out that all machines share"
            )
        return self

    def _open(self) -> None:
        check_run_output(self.path)
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARK).exists():
            raise ArtifactError(
                f"{self.path} holds other files and no vectomy run; choose an empty folder for --out"
            )
        with name_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._release = hold_lock(self.path / MARK)
            if self._release is None:
                raise ArtifactError(
                    f"another run is at work in {self.path}; wait for it or choose another --out"
                )
            try:
                self._mark()
            except BaseException:
                self._release()
                raise
            clear_partials(self.path)

    def _mark(self) -> None:
        """Write the mark into a new folder; check that of an old one."""
        file = self.path / MARK
        if not file.exists() or not file.stat().st_size:
            text = f'{{"format": "vectomy-run", "version": {VERSION}}}\n'
            # Not by another name: the lock is on this very file.
            file.write_text(text, encoding="utf-8", newline="\n")
            return
        try:
            mark = json.loads(read_text(file))
        except (ValueError, RecursionError):
            # What else it says does not matter.
            return
        check_version(mark, file)

    def __exit__(self, *_: object) -> None:
        if self._release is not None:
            self._release()

    def file(self, name: str) -> Path:
        return self.path / name

    def journal(self, stage: str) -> Journal:
        """The journal of the running stage; it is valid for exactly the inputs of that stage."""
        return Journal(self.path / "stages" / f"{stage}.journal", self._at_work[stage])

    def stage(self, name: str, before: str, inputs: Any, outputs: list[str], work: Callable[[], None]) -> str:
        """Run `work`, which writes `outputs` (files or folders), unless that was done for the same
        inputs.

        Args:
            before: the return value of the previous stage; for the first, the hash that the run
                starts from.
            inputs: everything else that the stage reads, as JSON.

        Returns:
            `before` of the next stage: a hash of everything read so far and of what this stage
            wrote. The inputs count even where they changed no byte of the outputs: later stages
            depend on them too.
        """
        wanted = hash_of([before, inputs])
        ranks = current_ranks()
        digests = ranks.on_first(partial(self._find_done, name, wanted, outputs))
        if digests is not None:
            self.reused.append(name)
            return hash_of([before, inputs, digests])
        self._at_work[name] = wanted
        with CostMeter() as meter, name_full_disk(self.path):
            work()
        trim_heap()
        record = {"inputs_sha256": wanted, "before": before, "inputs": inputs, **meter.cost.to_json()}
        digests = ranks.on_first(partial(self._record, name, record, outputs))
        return hash_of([before, inputs, digests])

    def _find_done(self, name: str, wanted: str, outputs: list[str]) -> Digests | None:
        """The digests of a stage's outputs, if it was done for the same inputs. Otherwise its
        record is removed.
        """
        path = self.path / "stages" / f"{name}.json"
        if not path.exists():
            return None
        record = read_json(path)
        # A record of another shape was changed by hand: the stage runs again.
        stored = (record.get("inputs_sha256"), record.get("outputs")) if isinstance(record, dict) else None
        digests = self._digests(outputs)
        if stored != (wanted, digests):
            path.unlink()
            return None
        # A kill may have come between the record and the end of the journal.
        path.with_suffix(".journal").unlink(missing_ok=True)
        return digests

    def _record(self, name: str, record: JsonObject, outputs: list[str]) -> Digests:
        path = self.path / "stages" / f"{name}.json"
        digests = self._digests(outputs)
        write_json(path, {**record, "outputs": digests})
        path.with_suffix(".journal").unlink(missing_ok=True)
        return digests

    def find_changed(self, stages: Iterable[tuple[str, Any]], before: str) -> str | None:
        """The first stage that was done for other inputs, if there is one. Nothing is run.

        Args:
            stages: name and inputs of each, in their order.
            before: as for the first `stage`.
        """
        for name, inputs in stages:
            path = self.path / "stages" / f"{name}.json"
            record = read_json(path) if path.exists() else None
            if not isinstance(record, dict) or "outputs" not in record:
                return None
            if record.get("inputs_sha256") != hash_of([before, inputs]):
                return name
            before = hash_of([before, inputs, record["outputs"]])
        return None

    def list_done(self, stages: Iterable[tuple[str, Any]], before: str) -> list[str]:
        """The stages at the beginning that were done for these inputs. Nothing is run or changed,
        and what they wrote is not compared.

        Args:
            stages: name and inputs of each, in their order.
            before: as for the first `stage`.
        """
        done: list[str] = []
        for name, inputs in stages:
            path = self.path / "stages" / f"{name}.json"
            record = read_json(path) if path.exists() else None
            if not isinstance(record, dict) or record.get("inputs_sha256") != hash_of([before, inputs]):
                break
            before = hash_of([before, inputs, record.get("outputs")])
            done.append(name)
        return done

    def forget(self, stages: Iterable[str]) -> None:
        """Drop the records of stages that will be run again: until they are, the folder is not
        finished.
        """
        for name in stages:
            (self.path / "stages" / f"{name}.json").unlink(missing_ok=True)

    def is_finished(self, last: str) -> bool:
        """Whether the last command here did all that it was asked to do.

        Args:
            last: the last stage, for a folder of a version that recorded none.
        """
        stored = self._stored_settings()
        until = stored.get("until") if stored else None
        return (self.path / "stages" / f"{until or last}.json").exists()

    def read_settings(self) -> RunSettings | None:
        """The settings of the last command in this folder, if they were recorded."""
        stored = self._stored_settings()
        return RunSettings.of(stored["settings"]) if stored else None

    def write_settings(self, settings: RunSettings, until: str) -> None:
        record = {"format": "vectomy-settings", "version": 1, "settings": settings.to_json(), "until": until}
        if record != self._stored_settings():
            write_json(self.path / SETTINGS, record)

    def _stored_settings(self) -> JsonObject | None:
        path = self.path / SETTINGS
        stored = read_json(path) if path.exists() else None
        return stored if isinstance(stored, dict) and "settings" in stored else None

    def costs(self) -> dict[str, StageCost]:
        """What each finished stage took, by name: in this command, or in the one that did it."""
        records = {path.stem: read_json(path) for path in sorted((self.path / "stages").glob("*.json"))}
        return {
            stage: StageCost.from_json({name: record.get(name) for name in StageCost.model_fields})
            for stage, record in records.items()
        }

    def _digests(self, outputs: list[str]) -> Digests:
        """Content hash per output. A folder (a checkpoint may be many GB) counts by the names and
        sizes of its files, without README.md, which the report writes later.
        """
        result: Digests = {}
        for output in outputs:
            path = self.path / output
            if path.is_dir():
                result[output] = hash_of(
                    # The size of a folder itself says nothing of its content, and differs between
                    # file systems.
                    sorted(
                        (f.name, f.stat().st_size if f.is_file() else 0)
                        for f in path.iterdir()
                        if f.name != "README.md"
                    )
                )
            else:
                # A pipe or a device has no content to compare, and may never end.
                result[output] = sha256_file(path) if path.is_file() else None
        return result
