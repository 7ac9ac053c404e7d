"""Where output may go. Every writer replaces regular files and empty folders alone: no device, no
pipe, no socket, no link, no mount point, and nothing that the command reads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePath, PureWindowsPath

from vectomy.core.errors import ArtifactError, FinishedRunError
from vectomy.core.write_errors import check_writable, name_write_errors

__all__ = [
    "check_file_content",
    "check_file_output",
    "check_new_folder",
    "check_output",
    "check_replaceable_file",
    "check_run_output",
    "explain_name",
]

KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}

# Names of Windows' devices, with any ending, and what no name there may hold.
DEVICES = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}
FORBIDDEN = set('<>:"|?*') | {chr(number) for number in range(32)}


def check_output(out: str | Path, *inputs: str | Path) -> None:
    """Raises ArtifactError: `out` is one of the inputs, or lies in an input folder. An input is
    never touched. Or Windows gives no file that name.
    """
    reason = explain_name(Path(out))
    if reason is not None:
        raise ArtifactError(f"--out {out}: {reason}; choose another name")
    target = Path(out).expanduser().resolve()
    for path in inputs:
        given = Path(path).expanduser().resolve()
        if given.is_dir() and given in (target, *target.parents):
            raise ArtifactError(
                f"the output folder {out} is the model folder {path} or lies in it; the input is never "
                "touched, choose another --out"
            )
        if given.is_file() and given == target:
            raise ArtifactError(f"--out {out} is the input, which is never touched; choose another file")


def check_file_output(out: str | Path, *inputs: str | Path) -> None:
    """For a file that takes its name when it is whole; to be called before any work.

    Raises:
        ArtifactError: `out` is an input or lies in one, something that is no regular file is
            there, or no file can be written there.
    """
    path = Path(out).expanduser()
    check_output(path, *inputs)
    check_replaceable_file(path)
    check_writable(path)


def check_file_content(path: Path, content: bytes, what: str) -> None:
    """For a finished result that is about to be written.

    Args:
        what: says how a file of other content differs.

    Raises:
        FinishedRunError: a file with other content is at `path`, which stays as it is.
    """
    check_replaceable_file(path)
    with name_write_errors(path):
        same = not path.exists() or (path.stat().st_size == len(content) and path.read_bytes() == content)
    if not same:
        raise FinishedRunError(path, what)


def check_replaceable_file(path: Path) -> None:
    """Raises ArtifactError: something other than a regular file is at `path`."""
    with name_write_errors(path):
        _check_replaceable(path, "a regular file")
        is_folder = path.is_dir()
    if is_folder:
        raise ArtifactError(f"{path} is a folder; give the name of a file")


def check_new_folder(out: str | Path, *inputs: str | Path) -> None:
    """For a folder that takes its name when it is whole.

    Raises:
        ArtifactError: `out` is an input or lies in one, or something else than an empty folder is
            there.
    """
    path = Path(out).expanduser()
    check_output(path, *inputs)
    with name_write_errors(path):
        _check_replaceable(path, "a new folder")
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if taken:
        raise ArtifactError(f"the output folder {out} exists and is not empty; choose another or delete it")
    check_writable(path)


def check_run_output(out: str | Path, *inputs: str | Path) -> None:
    """For a folder that is written into and never replaced: it may be a mount point, or a link to a
    folder.

    Raises:
        ArtifactError: `out` is an input or lies in one, or no folder.
    """
    path = Path(out).expanduser()
    check_output(path, *inputs)
    with name_write_errors(path):
        dangling = path.is_symlink() and not path.exists()
    if dangling:
        raise ArtifactError(f"{out} is a link to {os.readlink(path)}, which does not exist; make that folder")
    if path.exists() and not path.is_dir():
        raise ArtifactError(f"{out} is {_kind_of(path) or 'a file'}; --out takes a folder")
    check_writable(path)


def explain_name(path: PurePath) -> str | None:
    """Why Windows gives no file this name, or another; None for other systems and good names."""
    if not isinstance(path, PureWindowsPath):
        return None
    for part in path.parts[1:] if path.anchor else path.parts:
        if part in (".", ".."):
            continue
        # name:more would be written to a hidden stream of the file `name`.
        if forbidden := sorted(FORBIDDEN & set(part)):
            return f"a name on Windows holds no {forbidden[0]!r}"
        if part.partition(".")[0].strip().upper() in DEVICES:
            return f"'{part}' is a device on Windows"
        if part.endswith((" ", ".")):
            return f"Windows drops the end of '{part}'"
    return None


def _check_replaceable(path: Path, wanted: str) -> None:
    if path.is_symlink():
        raise ArtifactError(
            f"{path} is a link to {os.readlink(path)}, and a link is never replaced; give {wanted} for --out"
        )
    kind = _kind_of(path)
    if kind is not None:
        raise ArtifactError(f"{path} is {kind}, which is never replaced; give {wanted} for --out")
    # Path.is_mount raises on Windows before Python 3.12.
    if os.path.ismount(path):
        raise ArtifactError(
            f"{path} is a mount point, which is never replaced; give {wanted} inside or beside it for --out"
        )


def _kind_of(path: Path) -> str | None:
    """What lies at `path`, in words; None for a file, a folder, or nothing."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return KINDS.get(stat.S_IFMT(mode))
