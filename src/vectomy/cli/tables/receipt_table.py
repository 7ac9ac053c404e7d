"""The coverage receipt of an edit as text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from vectomy.edits.export import Receipt

from vectomy.cli.terminal import open_console

__all__ = ["name_pattern", "print_left", "print_receipt"]

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")
# A part of the model with more left-out tensors than this is shown as one line.
SHOWN = 6
STATUS: Mapping[str, str] = {
    "carried": "carries the edit",
    "not_carried": "FAILED",
    "unknown": "cannot tell",
}


def print_receipt(receipt: Receipt) -> None:
    """Tensors edited and left, notes, rounding, and the measured projection."""
    console = open_console()
    edited, left = len(receipt.edited), len(receipt.left)
    if receipt.status is not None:
        console.print(f"{STATUS[receipt.status]}: {receipt.reason}", highlight=False, soft_wrap=True)
    added = f", {len(receipt.added)} biases added" if receipt.added else ""
    console.print(
        f"{edited} tensors edited ({receipt.parameters:,} parameters){added}, {left} left", highlight=False
    )
    print_left(console, receipt.left)
    for note in receipt.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    for line in _measured(receipt):
        console.print(line, highlight=False, soft_wrap=True)


def _measured(receipt: Receipt) -> list[str]:
    lines = []
    if receipt.rounding:
        name, error = _largest(receipt.rounding)
        lines.append(
            f"stored again in their own format: {len(receipt.rounding)} weights, "
            f"error at most {error:.2g} ('{name}')"
        )
    if receipt.residue:
        name, share = _largest(receipt.residue)
        lines.append(f"of what the edit takes away, rounding puts back at most {share:.2g} ('{name}')")
    if receipt.projection is not None:
        largest = max(receipt.projection)
        point = receipt.projection.index(largest)
        where = "entering the first block" if point == 0 else f"leaving layer {point - 1}"
        lines.append(
            f"largest projection of the stream on the directions: {largest:.2g} of its norm, "
            f"{where} ({receipt.how})"
        )
    return lines


def _largest(shares: Mapping[str, float]) -> tuple[str, float]:
    name = max(shares, key=lambda item: shares[item])
    return name, shares[name]


def print_left(console: Console, left: Iterable[tuple[str, str]]) -> None:
    """One line for names of one pattern and one reason; one line for a part with many tensors.

    Args:
        left: (name of the tensor, reason).
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in left:
        groups.setdefault((name_pattern(name), NUMBER.sub("#", reason)), []).append(reason)
    tops = Counter((".".join(name.split(".")[:2]), reason) for name, reason in groups)
    lines: dict[tuple[str, str], list[str]] = {}
    for (name, reason), reasons in groups.items():
        top = ".".join(name.split(".")[:2])
        whole = tops[top, reason] > SHOWN and "#" not in reason
        lines.setdefault((f"{top}.*" if whole else name, reason), []).extend(reasons)
    for (name, _), reasons in lines.items():
        many = f" ({len(reasons)} tensors)" if len(reasons) > 1 else ""
        console.print(f"  left {name}{many}: {_one_reason(reasons)}", highlight=False, soft_wrap=True)


def _one_reason(reasons: list[str]) -> str:
    """Reasons that differ in one number as one reason with a range."""
    if len(set(reasons)) == 1:
        return reasons[0]
    numbers = [float(match[0]) for reason in reasons if (match := NUMBER.search(reason))]
    return NUMBER.sub(f"{min(numbers):g} to {max(numbers):g}", reasons[0], count=1)


def name_pattern(name: str) -> str:
    """The name with N for its numbers: `layers.N.mlp`."""
    return re.sub(r"\.\d+(?=\.|$)", ".N", name)
