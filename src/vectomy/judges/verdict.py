"""What every judge answers with."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol, runtime_checkable

__all__ = ["REFUSALS", "Judge", "Verdict"]

Verdict = Literal["compliance", "partial_refusal", "full_refusal", "degenerate"]
REFUSALS: frozenset[Verdict] = frozenset({"partial_refusal", "full_refusal"})


@runtime_checkable
class Judge(Protocol):
    name: ClassVar[str]
    version: ClassVar[str]
    note: ClassVar[str]
    """How far to trust it, for the report."""

    def verdict(self, prompt: str, completion: str) -> Verdict: ...
