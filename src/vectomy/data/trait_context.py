"""Prompts in a context: with its system prompt, and its examples as earlier turns."""

from __future__ import annotations

from collections.abc import Sequence

from vectomy.data.prompts import Prompt, Turn
from vectomy.data.trait_file import TraitContext

__all__ = ["in_context"]


def in_context(texts: Sequence[str], context: TraitContext) -> list[Prompt]:
    """Each text as a separate prompt in the context."""
    history = tuple(
        turn
        for example in context.examples
        for turn in (Turn("user", example.user), Turn("assistant", example.assistant))
    )
    return [Prompt(text, context.system, history) for text in texts]
