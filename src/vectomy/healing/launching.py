"""Training in several processes: `accelerate launch` with our configuration or the user's."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import torch

from vectomy.core.errors import ModelError, UsageError
from vectomy.core.suggestions import suggest

__all__ = ["LAUNCHES", "SHARDED", "launch", "launch_file"]

LAUNCHES = ("ddp", "cpu", "zero2", "zero3", "fsdp")
SHARDED = ("zero3", "fsdp")
"""Launches that also divide the frozen weights over the processes."""
NEEDS_CARDS = ("ddp", "zero2", "zero3", "fsdp")


def launch_file(name: str) -> Path:
    """The accelerate configuration of a launch: one of LAUNCHES, or a file.

    Raises:
        UsageError: the name is neither.
        ModelError: the launch needs cards or a package that this machine lacks.
    """
    if name not in LAUNCHES:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(
                f"--launch '{name}' is no configuration file of accelerate, and none of "
                f"{', '.join(LAUNCHES)}{suggest(name, LAUNCHES)}"
            )
        return path
    if name in NEEDS_CARDS and not torch.cuda.is_available():
        raise ModelError(
            f"--launch {name} runs on CUDA cards, and this machine has none; --launch cpu runs on the CPU"
        )
    if name in ("zero2", "zero3") and importlib.util.find_spec("deepspeed") is None:
        raise ModelError(
            f"--launch {name} needs the package deepspeed: pip install deepspeed; --launch fsdp does not"
        )
    return Path(str(resources.files("vectomy.healing") / "launch" / f"{name}.yaml"))


def launch(job: Path, name: str, processes: int | None = None) -> None:
    """Run a job under a launch and wait for its end.

    Raises:
        ModelError: a process failed; it has printed its own message.
    """
    file = launch_file(name)
    count = processes or max(1, torch.cuda.device_count())
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(file),
        "--num_processes",
        str(count),
        "--main_process_port",
        str(_find_free_port()),
        "-m",
        "vectomy.healing",
        str(job),
    ]
    result = subprocess.run(command, check=False, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    if result.returncode:
        raise ModelError(
            f"training in {count} processes (--launch {name}) ended with status {result.returncode}; its own "
            "message is above. The same command resumes from the last checkpoint"
        )


def _find_free_port() -> int:
    """A free port, so that two trainings on one machine do not share accelerate's default."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
