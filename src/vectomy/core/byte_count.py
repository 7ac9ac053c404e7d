"""Numbers of bytes as people write them: `1.5GB`, `24GiB`, `800MB`."""

from __future__ import annotations

import re

__all__ = ["parse_bytes", "write_bytes"]

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """The number of bytes.

    Raises:
        ValueError: it is not a positive number with a unit.
    """
    match = WRITTEN.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or (match[3] and not unit) or not float(match[1]):
        raise ValueError("input should be a number of bytes such as 1.5GB, 800MB or 24GiB")
    return int(float(match[1]) * (BINARY if match[3] else UNITS)[unit])


def write_bytes(count: int) -> str:
    """In GiB, or in MiB, KiB and bytes below one."""
    for unit, power, form in (("GiB", 30, ".1f"), ("MiB", 20, ".0f"), ("KiB", 10, ".0f")):
        if count >= 2**power:
            return f"{count / 2**power:{form}} {unit}"
    return f"{count} bytes"
