"""Faults of the operating system while writing, as errors with a remedy. Loads no torch."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vectomy.core.errors import ArtifactError, DiskFullError, VectomyError
from vectomy.core.quoted_error import quote_error

__all__ = ["NO_RIGHT", "check_writable", "describe_os_error", "name_full_disk", "name_write_errors"]

# Name of a folder that is made and removed to see whether one can be made.
PROBE = ".vectomy-"
NO_RIGHT = "no right to read it; get it from its owner (chmod a+r), or run as one who has"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Windows' own error numbers. Python calls several of them EACCES; other libraries know no other.
WINDOWS_NUMBERS = {
    **dict.fromkeys((2, 3), errno.ENOENT),
    **dict.fromkeys((5, 19), errno.EACCES),
    **dict.fromkeys((32, 33, 1224), errno.EBUSY),
    **dict.fromkeys((39, 112), errno.ENOSPC),
    **dict.fromkeys((87, 123), errno.EINVAL),
    **dict.fromkeys((111, 206), errno.ENAMETOOLONG),
}
# What torch.save says when a write fails, and when the last one, as the file is closed, does.
TORCH_SAVE = re.compile(
    r"inline_container.*(unexpected pos|failed writing)|(basic_ios|ios_base)::clear", re.S
)
_BY_NAME = {
    "EACCES": "no right to write there; choose a folder of your own",
    "EPERM": "no right to write there; choose a folder of your own",
    "EROFS": "the file system is read-only; choose a folder on another",
    "ENOENT": "no folder can be made there; choose another",
    "ENOTDIR": "a part of the path is a file; choose another folder",
    "EISDIR": "a folder has that name; choose another name",
    "ENAMETOOLONG": "a name in the path is too long for the file system; choose a shorter one",
    "EFBIG": "the file is larger than the file system or `ulimit -f` allows; write to another disk or "
    "raise the limit",
    "EMFILE": "too many open files; raise `ulimit -n`",
    "ENFILE": "too many open files on this machine; close other programs",
    "EIO": "the disk reports an error; check it, or write to another",
    "EINVAL": "the file system does not accept the name; choose another",
    "EBUSY": "another program uses the file; close it",
    "ETXTBSY": "another program uses the file; close it",
    "ESTALE": "the network drive has lost the file; mount it again",
    "EILSEQ": "the file system does not accept a character of the name; choose another",
}
# Not every system has every error.
REMEDIES = {getattr(errno, name): text for name, text in _BY_NAME.items() if hasattr(errno, name)}


@contextmanager
def name_write_errors(path: Path) -> Iterator[None]:
    """Turn system errors of writing `path` into errors that name it and the remedy.

    Raises:
        DiskFullError: no space is left; the message says how much there is.
        ArtifactError: no right, a read-only file system, a name too long, a size limit, and the
            like.
    """
    try:
        yield
    except VectomyError:
        raise
    except Exception as error:
        number = _error_number(error)
        if number in DISK_FULL:
            raise DiskFullError(_describe_full_disk(path)) from None
        if number not in REMEDIES or not _concerns(error, path):
            raise
        raise ArtifactError(f"{path} cannot be written: {REMEDIES[number]}") from None


@contextmanager
def name_full_disk(path: Path) -> Iterator[None]:
    """Turn a full disk, by whichever library it is reported, into an error that says so.

    Raises:
        DiskFullError: no space is left; the message says how much there is.
    """
    try:
        yield
    except VectomyError:
        raise
    except Exception as error:
        if _error_number(error) not in DISK_FULL:
            raise
        raise DiskFullError(_describe_full_disk(path)) from None


def describe_os_error(error: OSError) -> str:
    """One sentence for a system error that no caller has named."""
    path = error.filename
    if path is None:
        return _describe_nameless(error)
    number = _error_number(error)
    reason = REMEDIES.get(number or 0) or (error.strerror or str(error) or type(error).__name__)
    if number == errno.ENOENT:
        reason = "it does not exist"
    if number in DISK_FULL:
        return _describe_full_disk(Path(os.fsdecode(path)))
    return f"{os.fsdecode(path) if isinstance(path, bytes) else path}: {reason}"


def _describe_nameless(error: OSError) -> str:
    """Of an error that names no file: mostly of a stream or of the system itself."""
    if error.errno in DISK_FULL:
        return "no space is left where the output goes; free some, or send the output elsewhere"
    text = error.strerror or str(error) or type(error).__name__
    if "temporary directory" in text:
        return f"{quote_error(text, 300)}; set TMPDIR to a folder that can be written to"
    remedy = REMEDIES.get(error.errno or 0)
    return f"{quote_error(text, 300)}; {remedy or 'run the same command again, and -v shows where it fails'}"


def check_writable(path: Path) -> None:
    """Make sure, before any work, that `path` can be made: its nearest existing folder takes a new
    folder.

    Raises:
        ArtifactError, DiskFullError: it does not; the message says why.
    """
    with name_write_errors(path):
        # A name that is too long fails here, wherever in the path it is.
        missing = []
        folder = path
        while not _exists(folder):
            missing.append(folder.name)
            folder = folder.parent
        if not folder.is_dir():
            if not missing:
                folder = folder.parent
            else:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        for stale in folder.glob(f"{PROBE}*.partial"):
            # Of a process that was killed here; only an empty folder goes.
            with suppress(OSError):
                stale.rmdir()
        try:
            with tempfile.TemporaryDirectory(prefix=PROBE, suffix=".partial", dir=folder):
                pass
        except OSError as error:
            # Of the path that was asked for, not of the trial folder.
            raise OSError(error.errno, error.strerror, str(path)) from None


def _concerns(error: Exception, path: Path) -> bool:
    """Whether the error's file is `path`, lies next to it or below it, or is a folder of it."""
    filename = getattr(error, "filename", None)
    if not isinstance(filename, str | bytes):
        return True
    file, target = Path(os.fsdecode(filename)).absolute(), path.absolute()
    return file == target or file in target.parents or target.parent in file.parents


def _exists(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return False
    return True


def _error_number(error: Exception) -> int | None:
    if isinstance(error, OSError):
        # Absent on other systems.
        windows = getattr(error, "winerror", None)
        return WINDOWS_NUMBERS.get(windows, error.errno) if windows else error.errno
    if TORCH_SAVE.search(str(error)):
        # torch.save does not say why; it is the disk but for rare cases.
        return errno.ENOSPC
    # safetensors reports the system's number in the text of an error of its own.
    match = re.search(r"os error (\d+)", str(error))
    if match is None:
        return None
    number = int(match[1])
    return number if os.name == "posix" else WINDOWS_NUMBERS.get(number)


def _describe_full_disk(path: Path) -> str:
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), Path.cwd())
    free = shutil.disk_usage(existing).free
    return (
        f"the disk is full while writing {path} ({free / 2**20:.0f} MiB left); free some space and run the "
        "same command again, which resumes there"
    )
