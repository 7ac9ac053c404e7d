"""Seconds and bytes of each stage of a run, from counts of its work (docs/plan.md).

A stage's work is counted in passes, learning passes, steps of decoding, labels and bytes of disk;
measured speeds of this machine turn it into seconds. Of a model that does not fit as a whole every
pass and every step of decoding reads all blocks from the disk.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from vectomy.core.json_value import JsonObject
from vectomy.models.model_shape import ModelShape
from vectomy.models.pass_bytes import forward_bytes, kept_bytes, kv_bytes, loss_bytes
from vectomy.models.speed_probe import CallTime, Speeds

__all__ = ["Place", "PlannedStage", "Workload", "count_run_stages"]

# Interpreter, torch, transformers and the judge; a stage that runs no model has less.
PROGRAM = 700 << 20
# Blocks below this share of the depth are not learned in; of a pass that resumes there, they are
# not run either.
LEARNED = 0.6
# Prompts and tokens of the search by gradients (search/gradient/).
PER_PASS, MOST_FIT, OPENING, JUDGED, MEASURED, PACK = 16, 256, 8, 16, 32, 512
SCREENED, CANDIDATES, STRIDE, SETTLED = 16, 6, 4, 0.4
# Prompts whose stream is measured for the receipt of a form, and texts and tokens of the baked one.
PROJECTED, RECEIPT_TOKENS = 32, 8 * 48
# The search's passes keep at most this share of the free memory (pass_memory.py).
KEPT_SHARE = 0.6
# Decoding under an Edit takes longer by its hooks.
HOOKED = 1.1
# Seconds of what counts no tokens: opening a model, judging an answer, writing pages.
OPENING_SECONDS, JUDGING, WRITING = 1.0, 0.002, 1.0


@dataclass(frozen=True)
class Workload:
    """What a run is asked to do. Prompts of one side by split; tokens of a prompt that all share,
    and its own.
    """

    fit: int = 256
    search: int = 32
    test: int = 100
    shared: int = 30
    own: int = 34
    longest: int = 128
    answer_tokens: int = 64
    steps: int = 36
    tried: int = 0
    """Edits or directions that a recipe tries by generating; 0: those of the gradient search."""
    learned: bool = True
    """Whether the recipe learns by gradients."""
    bake: bool = True
    lora: bool = False
    passes: int = 4096
    """Tokens of one pass."""

    def to_json(self) -> JsonObject:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Workload:
        """Keys that this version does not know are left out."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})


@dataclass(frozen=True)
class Place:
    """Where the model runs: on a card, whether it fits there (or into memory) as a whole, and the
    free bytes there. `in_full`: whether a model that is quantised in memory fits without that, too.
    """

    card: bool
    whole: bool
    free: int
    in_full: bool = False


@dataclass(frozen=True)
class PlannedStage:
    """What a stage will take. `device_bytes` is None without a card."""

    name: str
    seconds: float
    memory_bytes: int
    device_bytes: int | None

    def to_json(self) -> JsonObject:
        return asdict(self)


def count_run_stages(shape: ModelShape, work: Workload, speeds: Speeds, place: Place) -> list[PlannedStage]:
    """The stages of a run in their order."""
    return _Run(shape, work, speeds, place).stages()


class _Run:
    def __init__(self, shape: ModelShape, work: Workload, speeds: Speeds, place: Place) -> None:
        self.shape, self.work, self.speeds, self.place = shape, work, speeds, place
        # One read of all blocks, where they do not stay in memory.
        self.sweep = 0.0 if place.whole else shape.bytes * speeds.read_byte

    # Seconds

    def stages(self) -> list[PlannedStage]:
        seconds = {
            "baseline": self._load()
            + self._answers(2 * self.work.search)
            + self._judge(2 * self.work.search),
            "collect": self._packed(2 * self.work.fit),
            "directions": 0.1,
            "select": self._search(),
            "apply": self._apply(),
            "evaluate": self._evaluate(),
            "report": WRITING,
        }
        memory = self._memory()
        return [
            PlannedStage(
                name,
                round(spent, 3),
                round(memory[name][0]),
                round(memory[name][1]) if self.place.card else None,
            )
            for name, spent in seconds.items()
        ]

    def _load(self) -> float:
        read = self.shape.bytes * self.speeds.read_byte if self.place.whole else 0.0
        return OPENING_SECONDS + read + self.speeds.quantised

    def _judge(self, answers: float) -> float:
        return JUDGING * answers

    def _pass(self, tokens: float, passes: float, line: CallTime | None = None) -> float:
        line = line or self.speeds.passed
        return line.fixed * passes + line.each * tokens + self.sweep

    def _packed(self, prompts: float, more: float = 0, share: float = 1.0) -> float:
        """Passes of packs that share their beginning; `more` tokens of answers a prompt."""
        each = self.work.own + more
        packs = max(1, math.ceil(prompts * each / (PACK - self.work.shared)))
        return share * self._pass(prompts * each + packs * self.work.shared, packs)

    def _answers(self, prompts: int, tokens: int | None = None, hooked: bool = False) -> float:
        """Greedy answers in batches; the shared beginning runs once a batch."""
        if not prompts:
            return 0.0
        work, limit = self.work, self.work.answer_tokens if tokens is None else tokens
        rows = max(1, work.passes // (work.own + work.shared + limit))
        batches = math.ceil(prompts / rows)
        line, head = self.speeds.step, self.speeds.label
        steps = batches * (line.fixed + head.fixed + self.sweep) * limit
        decoded = prompts * (line.each + head.each / 2) * limit
        prefill = self._pass(prompts * work.own + batches * work.shared, batches)
        return (HOOKED if hooked else 1.0) * (steps + decoded) + prefill

    def _labels(self, count: float) -> float:
        return self.speeds.label.each * count

    def _search(self) -> float:
        work = self.work
        if not work.learned:
            return work.tried * self._answers(work.search, hooked=True)
        prompts = min(work.fit, MOST_FIT)
        openings = self._answers(prompts, JUDGED)
        # Two openings a prompt that shows the behaviour, and the start of each other answer.
        changed, kept = work.own + 2 * OPENING, work.own + JUDGED
        targets = self._packed(prompts, 2 * OPENING) + self._packed(prompts, JUDGED)
        each = min(prompts, PER_PASS)
        screening = LEARNED * CANDIDATES * self._pass(each * (changed + kept), 2) + self._answers(
            min(prompts, SCREENED), JUDGED, hooked=True
        )
        labels = each * (2 * OPENING + 2 * JUDGED)
        step = LEARNED * self._pass(
            each * (changed + kept) + 2 * work.shared, 2, self.speeds.trained
        ) + 2 * self._labels(labels)
        states = max(1, math.ceil((1 - SETTLED) * work.steps / STRIDE))
        damage = LEARNED * states * self._packed(work.search, MEASURED) + self._labels(
            (states + 1) * work.search * MEASURED
        )
        tried = 1 + math.ceil(math.log2(states + 1))
        rates = tried * (self._answers(work.search, hooked=True) + self._judge(work.search))
        return 2 * openings + targets + screening + work.steps * step + damage + rates

    def _apply(self) -> float:
        """Read, change, write; then the receipt in float32, and a hash of every tensor."""
        if not self.work.bake:
            return OPENING_SECONDS
        shape, speeds = self.shape, self.speeds
        disk = shape.bytes * (speeds.read_byte + speeds.written_byte)
        receipt = shape.bytes * speeds.read_byte + speeds.float32 * speeds.passed.each * RECEIPT_TOKENS
        return disk + receipt + 2 * shape.bytes * speeds.hashed_byte + OPENING_SECONDS

    def _evaluate(self) -> float:
        work = self.work
        variants = 1 + int(work.bake) + int(work.lora)
        answers = self._answers(2 * work.test) + variants * self._answers(2 * work.test, hooked=True)
        # Padded passes over prompts with their answers, of the base twice.
        tokens = work.test * (work.shared + work.own + work.answer_tokens)
        passes = max(1, tokens / work.passes)
        divergence = (2 + variants) * (self._pass(tokens, passes)) + self._labels(
            2 * (1 + variants) * work.test * work.answer_tokens
        )
        stream = (1 + variants) * self._pass(PROJECTED * (work.shared + work.own), 1)
        apart = self._pass(2 * work.test * (work.shared + work.own), 2)
        judged = self._judge(2 * work.test * (1 + variants))
        quantised = answers + divergence + stream + apart + judged + (self._load() if work.bake else 0.0)
        return quantised + self._evaluate_in_full()

    def _evaluate_in_full(self) -> float:
        """After a search on quantised weights: base and checkpoint as they are stored."""
        full = self.speeds.full
        if full is None or not self._measures_in_full():
            return 0.0
        run = _Run(self.shape.in_full, replace(self.work, lora=False), full, self.place)
        return run._load() + run._evaluate()

    def _measures_in_full(self) -> bool:
        return self.shape.load_in is not None and self.work.bake and self.place.in_full

    # Bytes

    def _memory(self) -> dict[str, tuple[float, float]]:
        """(host, device) by stage."""
        shape, work = self.shape, self.work
        weights = float(shape.loaded_bytes if self.place.whole else 2 * shape.largest_block)
        answering = self._answering_bytes(min(2 * work.search, self._rows()))
        testing = self._answering_bytes(min(2 * work.test, self._rows()))
        # The stream of every layer is captured.
        tokens = min(work.passes, PACK, 2 * work.fit * work.own)
        collecting = forward_bytes(shape, tokens) + self._stream_bytes(tokens, shape.sizes.layers)
        baking = PROGRAM / 2 + 3 * shape.largest_writer * shape.itemsize
        receipt = 2 * shape.largest_block * 4 / shape.itemsize
        passes = {
            "baseline": answering,
            "collect": collecting,
            "directions": 0.0,
            "select": max(self._learning_bytes() if work.learned else 0.0, answering),
            "apply": 0.0,
            "evaluate": testing,
            "report": 0.0,
        }
        if self._measures_in_full():
            passes["evaluate"] += max(0.0, shape.in_full.loaded_bytes - weights)
        if self.place.card:
            bake = max(baking, PROGRAM / 2 + receipt) if work.bake else 0.0
            return {
                name: (PROGRAM + (bake if name == "apply" else 0.0), weights + size)
                for name, size in passes.items()
            }
        extra = {"apply": max(baking - PROGRAM / 2, receipt) if work.bake else 0.0}
        return {name: (PROGRAM + weights + size + extra.get(name, 0.0), 0.0) for name, size in passes.items()}

    def _rows(self) -> int:
        work = self.work
        return max(1, work.passes // (work.own + work.shared + work.answer_tokens))

    def _answering_bytes(self, rows: int) -> float:
        """Keys and values, twice while they are cut to the rows that are left, and one block."""
        work, shape = self.work, self.shape
        tokens = rows * (work.shared + work.own + work.answer_tokens)
        logits = rows * shape.vocab * shape.itemsize
        return 2 * kv_bytes(shape, tokens) + forward_bytes(shape, rows * work.own) + logits

    def _learning_bytes(self) -> float:
        """The longest pass, the logits of its labels, and the base's stream of all passes."""
        work, shape = self.work, self.shape
        tokens = work.shared + PER_PASS * (work.longest + 2 * OPENING)
        layers = shape.sizes.layers - round((1 - LEARNED) * shape.sizes.layers)
        kept = kept_bytes(shape, tokens, layers)
        if kept > KEPT_SHARE * (self.place.free - shape.loaded_bytes):
            # The search sees that as well, and computes blocks again in the backward pass.
            kept = kept_bytes(shape, tokens, layers, recompute=True)
        prompts = min(work.fit, MOST_FIT)
        streams = self._stream_bytes(prompts * (2 * work.own + 2 * OPENING + JUDGED), 1)
        return kept + loss_bytes(shape, 2 * PER_PASS * OPENING) + streams

    def _stream_bytes(self, tokens: float, layers: int) -> float:
        return tokens * layers * self.shape.sizes.d_model * self.shape.itemsize
