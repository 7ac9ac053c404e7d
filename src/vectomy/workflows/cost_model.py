"""Seconds of each stage of a run, from counts of its work (docs/plan.md); stage_memory.py has its
bytes.

A stage's work is counted in passes, learning passes, steps of decoding, labels and bytes of disk;
measured speeds of this machine turn it into seconds. Of a model that does not fit as a whole every
pass and every step of decoding reads all blocks from the disk.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from vectomy.core.json_value import JsonObject
from vectomy.metrics.direction_share import TEXT_TOKENS, TEXTS
from vectomy.metrics.variants import RECEIPT_PROMPTS
from vectomy.models.decoding import TRIED
from vectomy.models.model_shape import ModelShape
from vectomy.models.speed_probe import CallTime, Speeds
from vectomy.models.teacher_forcing import COMPARED
from vectomy.search.collect import PACK as COLLECTED
from vectomy.search.gradient.frontier_points import DIAL
from vectomy.search.gradient.gradient_recipe import START, STRIDE
from vectomy.search.gradient.parameters import SETTLE
from vectomy.search.gradient.start_directions import SCREENED_LAYERS, SCREENED_PROMPTS
from vectomy.search.gradient.train_passes import JUDGED, MOST_PROMPTS, NEGATIVE_TOKENS, OPENING, PER_PASS
from vectomy.search.search_split import MEASURED, PACK
from vectomy.workflows.planned_work import Place, Workload, count_rows
from vectomy.workflows.stage_memory import count_stage_bytes, packs_weights

__all__ = ["PlannedStage", "count_run_stages"]

# A loss and its backward pass take the head so many times.
LOSS_PASSES = 2.5
# Decoding under an Edit takes longer by its hooks.
HOOKED = 1.1
# Seconds of what counts no tokens: opening a model with its tokenizer, building one without,
# judging an answer, writing pages.
OPENING_SECONDS, BUILDING_SECONDS, JUDGING, WRITING = 1.0, 0.3, 0.002, 1.0


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

    def stages(self) -> list[PlannedStage]:
        work = self.work
        seconds = {
            "baseline": self._load() + 2 * self._answers(work.search) + self._judge(2 * work.search),
            "collect": 2 * self._collect(),
            "directions": 0.1,
            "select": self._search(),
            "apply": self._apply(),
            "evaluate": self._evaluate(),
            "report": WRITING,
        }
        memory = count_stage_bytes(self.shape, work, self.place)
        return [
            PlannedStage(
                name,
                round(spent, 3),
                round(memory[name].host),
                round(memory[name].device) if self.place.card else None,
            )
            for name, spent in seconds.items()
        ]

    def _load(self) -> float:
        """Of a whole model, how it answers is tried on two prompts."""
        if not self.place.whole:
            return OPENING_SECONDS
        tried = 2 * (self._padded(2) + TRIED * (self.speeds.step.of(2) + self.speeds.label.fixed))
        return OPENING_SECONDS + self.shape.bytes * self.speeds.read_byte + self.speeds.quantised + tried

    def _judge(self, answers: float) -> float:
        return JUDGING * answers if self.work.judged else 0.0

    def _pass(self, tokens: float, row: float, passes: float = 1, line: CallTime | None = None) -> float:
        """Passes over rows of `row` tokens. They go through each block together, where the model is
        read block by block.
        """
        line = line or self.speeds.passed
        return line.fixed * (passes - 1) + line.of(tokens, row) + self.sweep

    def _packed(self, prompts: float, more: float = 0, pack: float = PACK) -> float:
        """Passes of packs that share their beginning, all but the last one full; `more` tokens of
        answers a prompt.
        """
        each, shared = self.work.own + more, self.work.shared
        full, rest = divmod(prompts, max(1, (pack - shared) // max(1, each)))
        rows = [(full, shared + (prompts - rest) / full * each)] if full else []
        rows += [(1, shared + rest * each)] if rest else []
        tokens = sum(count * row for count, row in rows)
        # The mean over tokens: attention costs long rows more.
        row = sum(count * row * row for count, row in rows) / tokens if tokens else 0.0
        return self._pass(tokens, row, sum(count for count, _ in rows))

    def _padded(self, prompts: float, more: float = 0) -> float:
        """Passes of padded rows; those of similar length share a pass."""
        row = self.work.shared + self.work.own + more
        return self._pass(prompts * row, row, max(1, math.ceil(prompts * row / self.work.passes)))

    def _compare_packs(self, examples: int, more: float = 0) -> float:
        """Some examples as a pack and as plain rows, the longest among them."""
        count = min(examples, COMPARED + 2)
        row = self.work.shared + self.work.longest + more
        return self._packed(count, more) + self._pass(count * row, row)

    def _collect(self) -> float:
        """One side; a model read block by block runs plain rows."""
        fit = self.work.fit
        if not self.place.whole:
            return self._padded(fit)
        return self._compare_packs(fit) + self._packed(fit, pack=COLLECTED)

    def _answers(self, prompts: int, tokens: int | None = None, hooked: bool = False) -> float:
        """Greedy answers in batches; the shared beginning runs once a batch."""
        if not prompts:
            return 0.0
        work, limit = self.work, self.work.answer_tokens if tokens is None else tokens
        batches = math.ceil(prompts / count_rows(work, self.place, limit))
        packs = packs_weights(self.shape, self.place, self.shape.loaded_bytes, limit)
        line, head = self.speeds.step if packs else self._unpacked_step(), self.speeds.label
        steps = batches * (line.fixed + head.fixed + self.sweep) * limit
        decoded = prompts * (line.each + head.each / 2) * limit
        prefill = self._pass(prompts * work.own + batches * work.shared, work.own + work.shared, batches)
        packing = self.speeds.packed if packs else 0.0
        return (HOOKED if hooked else 1.0) * (steps + decoded) + prefill + packing

    def _unpacked_step(self) -> CallTime:
        return self.speeds.unpacked or self.speeds.step

    def _labels(self, count: float) -> float:
        return self.speeds.label.each * count

    def _search(self) -> float:
        work = self.work
        if not work.learned:
            return work.tried * self._answers(work.search, hooked=True)
        prompts = min(work.fit, MOST_PROMPTS)
        each, upper = min(prompts, PER_PASS), 1 - START
        # Two openings a prompt that shows the behaviour, and the start of each other answer; their
        # last tokens are not run.
        changed, negative = 2 * (OPENING - 1), NEGATIVE_TOKENS - 1
        pack = work.shared + PER_PASS * (work.own + max(changed, negative))
        answers = 2 * self._answers(prompts, JUDGED)
        targets = self._packed(prompts, changed, pack) + self._packed(prompts, negative, pack)
        # Two of each side come first, and the passes are tried to resume.
        checks = 2 * self._compare_packs(prompts, changed)
        row = work.shared + each * (work.own + (changed + negative) / 2)
        labels = each * (2 * OPENING + NEGATIVE_TOKENS)
        screening = 0.0
        if work.screened:
            screening = upper * self._pass(2 * SCREENED_LAYERS * row, row, 2) + self._labels(
                (SCREENED_LAYERS + 1) * labels + SCREENED_LAYERS * each * NEGATIVE_TOKENS
            )
        # The losses take the head forward and backward, and once for the base.
        step = upper * self._pass(2 * row, row, 2, self.speeds.trained) + self._labels(
            LOSS_PASSES * labels + each * NEGATIVE_TOKENS
        )
        if not self.place.whole:
            # Down again through the blocks.
            step += upper * self.sweep
        states = max(1, math.ceil((1 - SETTLE) * work.steps / STRIDE))
        return (
            answers
            + targets
            + checks
            + screening
            + work.steps * step
            + self._measure_states(states + self._count_tried(states))
            + self._try_states(states, prompts)
        )

    def _measure_states(self, states: int) -> float:
        """KL of the states on the search prompts."""
        work, upper = self.work, 1 - START
        return (
            self._packed(work.search, MEASURED)
            + upper * states * self._packed(work.search, MEASURED)
            + self._labels((states + 1) * work.search * min(MEASURED, work.answer_tokens))
        )

    def _try_states(self, states: int, prompts: int) -> float:
        """Whether the behaviour is left: by answers, or by openings where each token would read the
        model.
        """
        work = self.work
        tried = self._count_tried(states)
        if not self.place.whole:
            return (1 + tried) * self._padded(work.search, OPENING)
        # The screened directions, and what is left after the removal.
        heard = prompts + (min(prompts, SCREENED_PROMPTS) if work.screened else 0)
        looked = self._answers(heard, JUDGED, hooked=True) if work.judged else 0.0
        return looked + tried * (self._answers(work.search, hooked=True) + self._judge(work.search))

    @staticmethod
    def _count_tried(states: int) -> int:
        """Points of the dial that a bisection tries."""
        return math.ceil(math.log2(len(DIAL) * states + 1))

    def _apply(self) -> float:
        """Read, change, write; then the receipt, which runs all blocks in float32, and a hash of
        every tensor.
        """
        if not self.work.bake:
            return 0.0
        size, speeds = self.shape.bytes, self.speeds
        receipt = BUILDING_SECONDS + speeds.float32.of(TEXTS * TEXT_TOKENS, TEXT_TOKENS)
        disk = size * (3 * speeds.read_byte + speeds.written_byte + speeds.hashed_byte)
        return disk + self._change_writers() + receipt

    def _change_writers(self) -> float:
        """The writers of the learned layers are converted to float32, changed, and converted back,
        each as long as one conversion.
        """
        sizes = self.shape.sizes
        writers = self.shape.largest_writer + sizes.d_model * sizes.heads * sizes.head_dim
        changed = (1 - START) * sizes.layers * writers
        return 3 * self.speeds.float32.fixed * changed / self.shape.in_blocks

    def _evaluate(self) -> float:
        """The base, the Edit as hooks, and each written form, on the test prompts."""
        work = self.work
        forms = 2 + int(work.bake) + int(work.lora)
        answers = 2 * self._answers(work.test)
        if self.place.whole:
            written = 2 * (forms - 2) * self._answers(work.test)
            answers += 2 * self._answers(work.test, hooked=True) + written
            judged = self._judge(2 * work.test * forms)
        else:
            # By the openings of the base's own answers.
            answers += forms * self._padded(work.test, OPENING)
            judged = self._judge(work.test)
        # Of the base twice more.
        forced = (2 + forms) * self._padded(work.test, work.answer_tokens)
        labels = self._labels(2 * forms * work.test * work.answer_tokens)
        stream = forms * self._padded(2 * min(RECEIPT_PROMPTS, work.test))
        apart = 2 * self._padded(work.test)
        loaded = self._load() if work.bake else 0.0
        return answers + forced + labels + stream + apart + judged + loaded + self._evaluate_in_full()

    def _evaluate_in_full(self) -> float:
        """After a search on quantised weights: base and checkpoint as they are stored."""
        full = self.speeds.full
        if full is None or not (self.shape.load_in and self.work.bake and self.place.in_full):
            return 0.0
        run = _Run(self.shape.in_full, replace(self.work, lora=False), full, self.place)
        return run._load() + run._evaluate()
