"""Residual writers of one model: a family's slots, filled with the tensors that the model really
has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from vectomy.architecture.families import Family, Layout, Norm, WriterSpec
from vectomy.core.component import Component

__all__ = ["PostNorm", "TensorRef", "Writer", "rename_tensor", "writers_of"]


@dataclass(frozen=True)
class TensorRef:
    """A tensor of a checkpoint that holds a writer, or one expert of it."""

    name: str
    axis: int
    """Which of its axes is the stream's."""
    expert: int | None = None


@dataclass(frozen=True)
class PostNorm:
    """A norm between a writer and the stream: the live module and the names of its tensors."""

    module: str
    stored: str
    norm: Norm
    has_bias: bool = False
    """It adds a bias, and the model holds that."""

    @property
    def weight(self) -> str:
        return f"{self.stored}.weight"

    @property
    def bias(self) -> str:
        return f"{self.stored}.bias"

    @property
    def live_bias(self) -> str:
        return f"{self.module}.bias"


@dataclass(frozen=True)
class Writer:
    """A module whose output is added to the residual stream (or starts it), with the names of its
    tensors.

    `weight` and `bias` are the live parameters; `weights` and `biases` are what a checkpoint holds,
    several where experts are stored one by one. In an architecture that was read off a live model
    the two are the same.
    """

    component: Component
    layer: int | None
    slot: WriterSpec
    module: str
    weight: str
    bias: str | None
    weights: tuple[TensorRef, ...]
    biases: tuple[TensorRef, ...]
    norms: tuple[PostNorm, ...]

    @property
    def fused(self) -> bool:
        """All experts in one parameter with an axis for them."""
        return self.slot.component == "experts" and "{expert}" in "".join(
            name for name, _ in self.slot.stored
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Everything in the checkpoint that an edit of this writer touches."""
        last = self.biased_norm
        own = (stored.name for stored in (*self.weights, *self.biases))
        return (*own, *([] if last is None else [last.bias]))

    @property
    def biased_norm(self) -> PostNorm | None:
        """The last norm before the stream, if it has a bias. That bias comes to the stream as it
        is: an edit acts on it with the basis itself, not with the folded one.
        """
        return next((passed for passed in self.norms[-1:] if passed.has_bias), None)


def writers_of(
    family: Family,
    layout: Layout,
    layer: int | None,
    prefix: str,
    names: Collection[str],
    own: Collection[str],
) -> list[Writer]:
    """The writers of one block (`own` are its stored tensors, whole names), or of what comes before
    the blocks.
    """
    slots = family.embeddings if layer is None else family.slots
    found = (_writer(slot, layout, layer, prefix, names, own) for slot in slots)
    return [writer for writer in found if writer is not None]


def rename_tensor(name: str, layout: Layout) -> str:
    """The stored name of a live one."""
    for live, stored in layout:
        if name.startswith(live):
            return stored + name[len(live) :]
    return name


def _writer(
    slot: WriterSpec,
    layout: Layout,
    layer: int | None,
    prefix: str,
    names: Collection[str],
    own: Collection[str],
) -> Writer | None:
    def stored(name: str) -> str:
        return rename_tensor(prefix + name, layout)

    if slot.unless and f"{stored(slot.unless)}.weight" in names:
        return None
    weights = _find_tensors(stored, [(slot.live_weight, slot.axis), *slot.stored], names, own)
    if not weights:
        return None
    # The stream's axis is a bias's last one, whether experts have one each or share it.
    vectors = [(name, -1) for name in (slot.live_bias, *slot.stored_bias)]
    biases = _find_tensors(stored, vectors, names, own)
    norms = []
    for norm in slot.norms:
        candidates = [stored(name) for name in (norm.module, *norm.stored)]
        name = next((name for name in candidates if f"{name}.weight" in names), candidates[0])
        has_bias = norm.centred and f"{name}.bias" in names
        passed = PostNorm(prefix + norm.module, name, norm, has_bias)
        if not norm.optional or passed.weight in names:
            norms.append(passed)
    return Writer(
        slot.component,
        layer,
        slot,
        prefix + slot.module,
        prefix + slot.live_weight,
        prefix + slot.live_bias if biases else None,
        weights,
        biases,
        tuple(norms),
    )


def _find_tensors(
    stored: Callable[[str], str],
    patterns: Collection[tuple[str, int]],
    names: Collection[str],
    own: Collection[str],
) -> tuple[TensorRef, ...]:
    """The tensors of the first name that the checkpoint has; an {expert} in it stands for as many
    as there are.
    """
    for pattern, axis in patterns:
        name = stored(pattern)
        if "{expert}" not in name:
            if name in names:
                return (TensorRef(name, axis),)
            continue
        numbered = re.compile(re.escape(name).replace(r"\{expert\}", r"(\d+)"))
        hits = {int(hit[1]): other for other in own if (hit := numbered.fullmatch(other))}
        if hits:
            return tuple(TensorRef(hits[number], axis, number) for number in sorted(hits))
    return ()
