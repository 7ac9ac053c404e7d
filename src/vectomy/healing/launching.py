"""Training in several processes: `accelerate launch` with a configuration that is shipped, or one
of the user's own.
"""

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

__all__ = ["LAUNCHES", "SHARDED", "launch", "launch_file"]

LAUNCHES = ("ddp", "cpu", "zero2", "zero3", "fsdp")
SHARDED = ("zero3", "fsdp")
"""Those that divide the frozen weights over the processes as well."""
NEEDS_CARDS = ("ddp", "zero2", "zero3", "fsdp")


def launch_file(name: str) -> Path:
    """The configuration of a shipped launch, or a file.

    Raises:
        UsageError: neither.
        ModelError: it takes cards or a package that are not here.
    """
    if name not in LAUNCHES:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(
                f"--launch '{name}' is no configuration file of accelerate, and none of {', '.join(LAUNCHES)}"
            )
        return path
    if name in NEEDS_CARDS and not torch.cuda.is_available():
        raise ModelError(
            f"--launch {name} runs on CUDA cards, and there are none here; --launch cpu runs processes on the CPU"
        )
    if name in ("zero2", "zero3") and importlib.util.find_spec("deepspeed") is None:
        raise ModelError(
            f"--launch {name} takes the package deepspeed: pip install deepspeed; --launch fsdp needs none"
        )
    return Path(str(resources.files("vectomy.healing") / "launch" / f"{name}.yaml"))


def launch(job: Path, name: str, processes: int | None = None) -> None:
    """Run a job under a launch, and wait for its end.

    Raises:
        ModelError: a process failed; what it said stands above.
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
        str(_free_port()),
        "-m",
        "vectomy.healing",
        str(job),
    ]
    ended = subprocess.run(command, check=False, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"})
    if ended.returncode:
        raise ModelError(
            f"training in {count} processes (--launch {name}) ended with status {ended.returncode}; its own message is above. The same "
            "command goes on from the last checkpoint"
        )


def _free_port() -> int:
    """Two trainings on one machine must not meet on accelerate's usual port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
