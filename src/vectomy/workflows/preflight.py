"""What a command checks before its first stage: faults of the machine or the inputs that would end
the work later are said before it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from vectomy.core.errors import PreflightError

__all__ = ["Check", "check_ready", "refuse"]

Checked = TypeVar("Checked", contravariant=True)

Check = Callable[[Checked], str | None]
"""Looks at a workflow that has not begun. Returns the fault in one sentence with its remedy, or
None. A check is cheap: it loads no weights and writes nothing.
"""


def check_ready(work: Checked, checks: Iterable[Check[Checked]]) -> None:
    """Run all checks.

    Raises:
        PreflightError: with the sentence of each fault, one a line.
    """
    refuse(*(check(work) for check in checks))


def refuse(*faults: str | None) -> None:
    """Raises PreflightError with the sentences that are given, one a line; None is no fault."""
    sentences = list(dict.fromkeys(fault for fault in faults if fault))
    if sentences:
        raise PreflightError("\n".join(sentences))
