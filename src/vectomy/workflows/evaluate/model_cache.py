"""The models of an evaluation in memory: one at a time, loaded when a measurement needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from vectomy.core.config import Runtime
from vectomy.core.freed_memory import return_freed_memory
from vectomy.models import ChatModel, load_model, with_adapter
from vectomy.workflows.evaluate.subjects import Subject

__all__ = ["ModelCache", "slot"]


class ModelCache:
    """Loads subjects one at a time. Edits are hooks on their base, which stays loaded between them.

    Another checkpoint is compared with the base through the base's own head, so the head stays in
    memory when the rest of the base leaves it.
    """

    def __init__(
        self, runtime: Runtime, subjects: Sequence[Subject], loaded: Mapping[Path, ChatModel] | None = None
    ) -> None:
        """`loaded` are models by their folder that the caller has in memory; they stay whole."""
        self._runtime = runtime
        self._loaded = loaded or {}
        self._base = subjects[0]
        self._others = any(slot(subject) != slot(self._base) for subject in subjects)
        self._slot: str | None = None
        self._chat: ChatModel | None = None
        self._head: ChatModel | None = None

    @contextmanager
    def model(self, subject: Subject) -> Iterator[ChatModel]:
        """The subject as a model, for the length of the block."""
        if self._chat is None or self._slot != slot(subject):
            self.free()
            self._chat, self._slot = self._load(subject), slot(subject)
        if subject.edit is None or subject.strength is None:
            yield self._chat
        else:
            with subject.edit.hooks(self._chat.model, subject.strength):
                yield self._chat

    def head(self, baseline: Subject) -> ChatModel:
        """The head of `baseline`, which was loaded before."""
        chat = self._chat if self._slot == slot(baseline) else self._head
        assert chat is not None
        return chat

    def free(self) -> None:
        if self._chat is not None and self._slot == slot(self._base) and self._others:
            if self._chat.model not in [chat.model for chat in self._loaded.values()]:
                self._chat.drop_blocks()
            self._head = self._chat
        self._chat = self._slot = None
        return_freed_memory()

    def _load(self, subject: Subject) -> ChatModel:
        if subject.kind == "adapter":
            # Of a model of its own: the adapter changes it.
            base = load_model(self._base.path, runtime=self._runtime, name=self._base.name)
            return with_adapter(base, subject.path)
        name = subject.name if subject.edit is None else str(subject.baseline)
        loaded = self._loaded.get(subject.path)
        if loaded is None:
            return load_model(subject.path, runtime=self._runtime, name=name)
        runtime = self._runtime
        return replace(loaded, name=name, thinking=runtime.thinking, thought_tokens=runtime.thought_tokens)


def slot(subject: Subject) -> str:
    """Equal for subjects that use the same weights in memory."""
    return f"{subject.kind}:{subject.path}" if subject.kind == "adapter" else str(subject.path)
