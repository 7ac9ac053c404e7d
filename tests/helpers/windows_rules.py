"""Rules of Windows on this system: `python windows_rules.py FOLDER COMMANDS [KILL]` runs commands
of vectomy under them, in one process.

COMMANDS is a JSON list of argument lists. With KILL the process dies with SIGKILL when the file of
that name is about to take its place.

- vectomy's own modules, and no library, are without the modules and the names of `os` that only
  POSIX has.
- Below FOLDER no file that is open or mapped is renamed, replaced or removed, nor a folder that
  holds one; text is written with \\r\\n and in a code page where nothing else is asked for; only a
  file open for writing is synced, and no folder is opened.
- `Path.is_mount` raises, as on Windows before Python 3.12.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import importlib.abc
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

POSIX_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline"}
# Names of `os` under "Availability: Unix" in Python's documentation, as far as they are called.
POSIX_NAMES = """
pread preadv pwrite pwritev readv writev copy_file_range sendfile splice fdatasync sync fchdir
fork forkpty getuid geteuid getgid getegid getgroups getresuid getpgid getpgrp getsid setsid setuid
setgid initgroups chown lchown fchown fchmod chroot mkfifo mknod nice getpriority setpriority
confstr sysconf pathconf statvfs fstatvfs sched_getaffinity sched_setaffinity sched_yield killpg
wait wait3 wait4 waitid WIFEXITED WIFSIGNALED WEXITSTATUS WTERMSIG posix_fadvise posix_fallocate
posix_spawn lockf openpty ttyname uname ctermid getloadavg getxattr setxattr listxattr eventfd
memfd_create register_at_fork get_blocking set_blocking pipe2 O_CLOEXEC O_NONBLOCK O_DIRECTORY
O_NOFOLLOW O_SYNC O_DSYNC O_NOCTTY P_ALL WNOHANG
"""
POSIX_SIGNALS = "SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 SIGCHLD setitimer alarm pthread_sigmask pause"


class Without(ModuleType):
    """A module without some names."""

    def __init__(self, module: ModuleType, missing: str, **instead: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(instead)
        self.__dict__["_module"], self.__dict__["_missing"] = module, missing.split()

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__["_missing"]:
            raise AttributeError(f"module '{self.__name__}' has no attribute '{name}' on Windows")
        return getattr(self.__dict__["_module"], name)


class NoPosixModules(importlib.abc.MetaPathFinder):
    """For `importlib.import_module`, which calls no `__import__`."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in POSIX_MODULES and importer().startswith("vectomy"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def importer() -> str:
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"] in (__name__, "importlib"):
        frame = frame.f_back
        while frame.f_back is not None and "importlib._bootstrap" in frame.f_code.co_filename:
            frame = frame.f_back
    return str(frame.f_globals["__name__"])


def without_posix() -> None:
    windows = {
        "os": Without(os, POSIX_NAMES, name="nt", open=opens_no_folder),
        "signal": Without(signal, POSIX_SIGNALS),
    }
    real = builtins.__import__

    def import_(
        name: str, names: Any = None, local: Any = None, fromlist: Any = (), level: int = 0
    ) -> ModuleType:
        ours = str((names or {}).get("__name__", "")).startswith("vectomy")
        if ours and name.partition(".")[0] in POSIX_MODULES:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return windows[name] if ours and name in windows else real(name, names, local, fromlist, level)

    builtins.__import__ = import_
    sys.meta_path.insert(0, NoPosixModules())


def opens_no_folder(path: Any, *more: Any, **options: Any) -> int:
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, "Windows opens no folder", str(path))
    return os.open(path, *more, **options)


def in_use(root: str) -> Iterator[str]:
    """Files below `root` that this process has open or mapped."""
    for number in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:
            continue
        if path.startswith(root) and os.path.isfile(path):
            yield path
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        path = line.partition("/")[2]
        if f"/{path}".startswith(root):
            yield f"/{path}"


def refuse_files_in_use(root: str, kill: str) -> None:
    def guard(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def guarded(*paths: Any, **options: Any) -> Any:
            targets = [os.path.abspath(os.fsdecode(path)) for path in paths]
            if kill and os.path.basename(targets[-1]) == kill and name == "replace":
                os.kill(os.getpid(), signal.SIGKILL)
            below = [target for target in targets if target.startswith(root)]
            for file in in_use(root) if below else ():
                if any(file == target or file.startswith(f"{target}/") for target in below):
                    raise PermissionError(errno.EACCES, f"{name} of an open file", file)
            return real(*paths, **options)

        setattr(os, name, guarded)

    for name in ("replace", "rename", "unlink", "remove", "rmdir"):
        guard(name)
    # Folders by their paths, as on Windows, and not by open folders.
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def write_in_a_code_page(root: str) -> None:
    real = io.open

    def open_(file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        values = dict(zip(("encoding", "errors", "newline"), more, strict=False)) | options
        below = isinstance(file, str | os.PathLike) and os.path.abspath(os.fspath(file)).startswith(root)
        if "b" not in mode and below:
            # `Path.read_text` names the default "locale".
            if values.get("encoding") in (None, "locale"):
                values["encoding"] = "cp1252"
            if values.get("newline") is None and set(mode) & set("wax+"):
                values["newline"] = "\r\n"
        return real(file, mode, buffering, **values)

    io.open = builtins.open = open_


def sync_no_reader() -> None:
    real = os.fsync

    def fsync(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Windows syncs no file that is open for reading")
        real(number)

    os.fsync = fsync


def no_mounts(self: Path) -> bool:
    raise NotImplementedError("Path.is_mount() is unsupported on this system")


def main() -> str | None:
    root, commands, *kill = sys.argv[1:]
    write_in_a_code_page(root)
    refuse_files_in_use(root, kill[0] if kill else "")
    sync_no_reader()
    Path.is_mount = no_mounts  # type: ignore[method-assign]
    without_posix()
    import torch

    from vectomy.cli import main as vectomy

    torch.set_num_threads(1)
    for words in json.loads(commands):
        sys.argv = ["vectomy", *words]
        try:
            vectomy()
        except SystemExit as stop:
            if stop.code:
                return f"vectomy {words[0]} ended with {stop.code}"
    return None


if __name__ == "__main__":
    sys.exit(main())
