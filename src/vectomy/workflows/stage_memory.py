"""Bytes of each stage of a run (docs/plan.md states the formulas).

A stage takes the program, the weights, and the largest of its pieces of work. What a piece of work
has freed is returned to the system before the next one (core/freed_memory.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vectomy.metrics.direction_share import TEXT_TOKENS, TEXTS
from vectomy.models.block_pages import COMING
from vectomy.models.block_pages import SHARE as PAGES_SHARE
from vectomy.models.decoding import PACKED_FROM
from vectomy.models.generation import ROOM
from vectomy.models.label_scores import count_chunk_labels
from vectomy.models.model_shape import ModelShape
from vectomy.models.packed_linear import SHARE as PACKED_SHARE
from vectomy.models.pass_bytes import FLOAT32, forward_bytes, kept_bytes, kv_bytes, loss_bytes
from vectomy.search.collect import PACK as COLLECTED
from vectomy.search.gradient.gradient_recipe import START
from vectomy.search.gradient.pass_memory import SHARE as KEPT_SHARE
from vectomy.search.gradient.start_directions import SCREENED_LAYERS
from vectomy.search.gradient.train_passes import JUDGED, MOST_PROMPTS, OPENING, PER_PASS
from vectomy.workflows.planned_work import Place, Workload, count_rows

__all__ = ["BAKING_PROGRAM", "StageBytes", "count_packed_bytes", "count_stage_bytes", "packs_weights"]

# Interpreter, torch, transformers and the judge; beside a card, with its libraries. The tokenizer's
# bytes by entry of its vocabulary.
PROGRAM, CARD_PROGRAM, TOKENIZER = 455 << 20, 700 << 20, 1 << 10
# A stage that runs no model (a bake beside a card).
BAKING_PROGRAM = 350 << 20
# Of the distance between the mean and the longest prompt, what the longest pass of PER_PASS prompts
# lies above the mean: the longest of hundreds is some 3 standard deviations above it, the largest
# mean of 16 some 1.8 of a quarter of one.
ABOVE_MEAN = 0.15


@dataclass(frozen=True)
class StageBytes:
    """Of the host, and of the device where the model runs on a card."""

    host: float
    device: float = 0.0


def count_packed_bytes(shape: ModelShape) -> float:
    """Of the matrices of the blocks that every token passes, and of the head. Quantised ones stay
    as they are.
    """
    blocks = 0.0 if shape.load_in else shape.multiplied
    return (blocks + shape.head_parameters) * shape.itemsize


def packs_weights(shape: ModelShape, place: Place, weights: float, limit: int) -> bool:
    """Whether answers of at most `limit` tokens run on packed weights.

    Args:
        weights: bytes of the loaded model.
    """
    room = PACKED_SHARE * (place.free - weights)
    return not place.card and place.whole and limit >= PACKED_FROM and count_packed_bytes(shape) <= room


def count_stage_bytes(shape: ModelShape, work: Workload, place: Place) -> dict[str, StageBytes]:
    """The most that each stage takes at once, by name."""
    return _Stages(shape, work, place).count()


class _Stages:
    def __init__(self, shape: ModelShape, work: Workload, place: Place) -> None:
        self.shape, self.work, self.place = shape, work, place
        self.head = float(shape.head_parameters * shape.itemsize)
        self.weights = float(shape.loaded_bytes) if place.whole else self._resident_blocks()

    def count(self) -> dict[str, StageBytes]:
        shape, work = self.shape, self.work
        passes = {
            "baseline": self._answering(work.search),
            "collect": self._collecting(),
            "directions": 0.0,
            "select": self._searching(),
            "apply": 0.0,
            "evaluate": max(self._answering(work.test), self._evaluating()),
            "report": 0.0,
        }
        baking = self._baking() if work.bake else 0.0
        if shape.load_in is not None and work.bake and self.place.in_full:
            # After a search on quantised weights, base and checkpoint as they are stored.
            passes["evaluate"] += max(0.0, shape.in_full.loaded_bytes - self.weights)
        if self.place.card:
            return {
                name: StageBytes(
                    max(CARD_PROGRAM, BAKING_PROGRAM + baking if name == "apply" else 0.0),
                    self.weights + size,
                )
                for name, size in passes.items()
            }
        host = PROGRAM + TOKENIZER * shape.vocab + self.weights
        return {
            name: StageBytes(host + (baking if name == "apply" else size)) for name, size in passes.items()
        }

    def _resident_blocks(self) -> float:
        """The head, and as many blocks as stay in memory."""
        shape = self.shape
        block = shape.in_largest_block * shape.itemsize
        kept = max(1, int(PAGES_SHARE * self.place.free) // max(1, block) - COMING)
        return self.head + min(shape.sizes.layers, kept + COMING) * block

    def _answering(self, prompts: int, limit: int | None = None) -> float:
        """Keys and values, the prompts' pass, logits, and the packed weights of a processor."""
        shape, work = self.shape, self.work
        limit = work.answer_tokens if limit is None else limit
        width = work.shared + work.longest
        rows = min(prompts, count_rows(work, self.place, limit))
        cached = kv_bytes(shape, rows * (width + min(ROOM, limit)))
        read = forward_bytes(shape, min(rows * work.longest, work.passes))
        logits = rows * shape.vocab * shape.itemsize
        return cached + max(read, logits) + self._packed_weights(limit)

    def _packed_weights(self, limit: int) -> float:
        packs = packs_weights(self.shape, self.place, self.weights, limit)
        return count_packed_bytes(self.shape) if packs else 0.0

    def _collecting(self) -> float:
        """The stream of every layer is captured."""
        shape, work = self.shape, self.work
        tokens = min(work.passes, COLLECTED, work.shared + work.fit * work.own)
        return forward_bytes(shape, tokens) + self._stream(tokens) * shape.sizes.layers

    def _searching(self) -> float:
        work = self.work
        answering = self._answering(work.search)
        if not work.learned:
            return answering
        prompts = min(work.fit, MOST_PROMPTS)
        if self.place.whole:
            answering = max(answering, self._answering(prompts, JUDGED))
        each = min(prompts, PER_PASS)
        # The longest pass; all but the last token of an opening are run.
        own = work.own + ABOVE_MEAN * (work.longest - work.own) + 2 * OPENING - 1
        tokens = round(work.shared + each * own)
        labels = 2 * OPENING * each
        streams = 2 * self._stream(prompts * (work.own + 2 * OPENING)) + self._stream(2 * prompts * OPENING)
        screened = forward_bytes(self.shape, SCREENED_LAYERS * tokens) + self._losses(labels)
        learned = self._kept(tokens) + self._losses(labels)
        return max(answering, streams + screened, streams + learned)

    def _kept(self, tokens: int) -> float:
        """By one learning pass for its backward pass."""
        shape, place = self.shape, self.place
        layers = shape.sizes.layers - round(START * shape.sizes.layers)
        kept = kept_bytes(shape, tokens, layers)
        # The search sees that as well, and computes blocks again in the backward pass.
        if place.whole and kept <= KEPT_SHARE * (place.free - shape.loaded_bytes):
            return kept
        return kept_bytes(shape, tokens, layers, recompute=True)

    def _losses(self, labels: int) -> float:
        return loss_bytes(self.shape, min(labels, count_chunk_labels(self.shape.vocab)))

    def _baking(self) -> float:
        """A writer as stored, decoded and changed; then two blocks in float32 for the receipt, one
        more as it is read, and a pass in float32.
        """
        shape = self.shape
        writer = 3 * shape.largest_writer * shape.itemsize
        block = shape.in_largest_block
        tokens = TEXTS * TEXT_TOKENS
        receipt = block * (2 * FLOAT32 + shape.itemsize) + FLOAT32 * tokens * shape.sizes.pass_numbers
        # A model that was read block by block is let go of before.
        return max(writer, receipt) - (0.0 if self.place.whole or self.place.card else self.weights)

    def _evaluating(self) -> float:
        """Padded passes over prompts with their answers, and the divergence of two models."""
        work = self.work
        width = work.shared + work.longest + work.answer_tokens
        tokens = max(width, min(work.passes, work.test * width))
        states = 2 * self._stream(work.test * work.answer_tokens)
        return states + max(forward_bytes(self.shape, tokens), self._losses(work.test * work.answer_tokens))

    def _stream(self, tokens: float) -> float:
        return math.ceil(tokens) * self.shape.sizes.d_model * self.shape.itemsize
