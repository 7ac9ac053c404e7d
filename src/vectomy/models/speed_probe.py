"""How fast this machine runs blocks of a model's widths, measured with numbers that mean nothing.

Plain blocks of the model's sizes (attention with grouped heads, a gated MLP) are built and timed: a
pass, a pass with its backward pass, a step of decoding, the head. So attention, norms and launches
count as they do in a run, and not matrix products alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vectomy.core.json_value import JsonObject
from vectomy.models.block_sizes import BlockSizes
from vectomy.models.disk_speed import measure_disk
from vectomy.models.live_quantisation import quantise_linears
from vectomy.models.model_shape import ModelShape
from vectomy.models.packed_linear import pack_linears

__all__ = ["CallTime", "Speeds", "measure_speeds"]

# Weights of the probe's blocks together: at least LEAST bytes, that no cache of a processor holds
# them, and at most MOST in one block; wider ones are timed narrower and scaled by their weights.
LEAST, MOST = 128 << 20, 256 << 20
# Products of a weight and a token in one timed pass of a processor.
PRODUCTS = 12e9
LONGEST, SHORTEST = 512, 32
# Rows of a pass that is compared with one row of as many tokens.
ROWS = 4
FEW_ROWS, MANY_ROWS = 4, 32
# Rows of a pass in float32, and tokens of each.
FLOAT32_ROWS = 8, 48
# Tokens that decoding looks back at.
BEFORE = 96
LABELS, HEAD_ROWS = 64, 16384
# A call is timed at least twice, then until so many seconds are over.
MOST_CALLS, ENOUGH = 7, 0.7


Clock = Callable[[], float]


@dataclass(frozen=True)
class CallTime:
    """Seconds of a call on `n` tokens or rows: `fixed + each * n`, and of a pass `square` for each
    pair of a token and a token of its row: attention.
    """

    fixed: float
    each: float
    square: float = 0.0

    def of(self, count: float, row: float = 0.0) -> float:
        """Args: `row`, the tokens of a row."""
        return self.fixed + count * (self.each + self.square * row)

    def times(self, fixed: float, each: float) -> CallTime:
        return CallTime(self.fixed * fixed, self.each * each, self.square * each)

    @classmethod
    def through(cls, first: tuple[float, float], second: tuple[float, float]) -> CallTime:
        """The line through two measurements (count, seconds). Neither part is negative."""
        each = max(0.0, (second[1] - first[1]) / (second[0] - first[0]))
        return cls(max(0.0, first[1] - each * first[0]), each or second[1] / second[0])

    @classmethod
    def of_rows(cls, tokens: int, short: float, rows: float, long: float) -> CallTime:
        """From the seconds of passes over one row of `tokens`, ROWS such rows, and one row of as
        many tokens as these together. No part is negative.
        """
        square = max(0.0, long - rows) / ((ROWS**2 - ROWS) * tokens**2)
        line = cls.through((tokens, short), (ROWS * tokens, rows))
        # The same for each token of all these rows.
        each = max(0.0, line.each - square * tokens)
        return cls(line.fixed, each, square)


@dataclass(frozen=True)
class Speeds:
    """Seconds of a model of one shape on one device, all blocks together.

    `step` is of the blocks in a step of decoding, by rows, on packed weights where this device
    packs them; `label` of the head with probabilities in float32; `float32` of a pass in float32,
    with what it takes to convert all weights as its fixed part; `byte` of reading, writing (to the
    disk itself) and hashing a byte.
    """

    device: str
    passed: CallTime
    trained: CallTime
    step: CallTime
    label: CallTime
    float32: CallTime
    read_byte: float
    written_byte: float
    hashed_byte: float
    packed: float = 0.0
    """Of packing the weights of all blocks for a processor's kernels once, before decoding."""
    unpacked: CallTime | None = None
    """Of a step on weights as they are, where `step` is on packed ones."""
    quantised: float = 0.0
    """Of quantising the weights of all blocks (`--load-in`) once."""
    full: Speeds | None = None
    """Of the same model in full precision, where the shape's weights are quantised."""

    def to_json(self) -> JsonObject:
        return asdict(self)


def measure_speeds(
    shape: ModelShape, device: torch.device, folder: Path | None = None, clock: Clock = time.perf_counter
) -> Speeds:
    """Measure for some seconds.

    Args:
        folder: where files are written; the disk of this folder is measured.
        clock: in seconds. `time.process_time` with one thread gives the seconds of a machine
            without other work, but for waiting for the disk.
    """
    probe = _Probe(shape, device, clock)
    disk = measure_disk(folder or Path.cwd(), clock)
    with torch.no_grad():
        passed, step, label = probe.measure_passes(), probe.measure_steps(), probe.measure_head()
        unpacked = probe.measure_unpacked_steps() if probe.packed else None
        float32 = probe.measure_float32(*FLOAT32_ROWS)
    return Speeds(
        device=str(device),
        passed=passed,
        trained=probe.measure_training(passed),
        step=step,
        label=label,
        float32=float32,
        read_byte=disk[0],
        written_byte=disk[1],
        hashed_byte=disk[2],
        packed=probe.packed,
        unpacked=unpacked,
        quantised=probe.quantised,
        full=None if shape.load_in is None else measure_speeds(shape.in_full, device, folder, clock),
    )


class _Probe:
    """Blocks of a shape's widths, and how the times of these blocks are scaled to the model's."""

    def __init__(self, shape: ModelShape, device: torch.device, clock: Clock) -> None:
        self.shape, self.device, self.clock = shape, device, clock
        self.dtype = {2: torch.bfloat16, 4: torch.float32}.get(shape.itemsize, torch.bfloat16)
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            self.dtype = torch.float16
        self.sizes = _narrow(shape.sizes)
        of_block = _block_weights(self.sizes) * self.dtype.itemsize
        count = max(2, min(shape.sizes.layers, math.ceil(LEAST / of_block)))
        self.model = _build(self.sizes, count, self.dtype, device)
        self.count = count
        weights = count * _block_weights(self.sizes)
        # Launches grow with the blocks, arithmetic and reading with the weights.
        self.by_weights = shape.multiplied / weights
        self.by_blocks = max(shape.sizes.layers / count, self.by_weights)
        began = self.clock()
        if shape.load_in is not None:
            quantise_linears(self.model, shape.load_in, self.dtype)
        self.quantised = (self.clock() - began) * self.by_weights
        self.packed = 0.0
        # A long pass on a processor is arithmetic, whether a cache holds the weights or not: of few
        # blocks, where they are wide of fewer tokens.
        self.tokens, self.passed = LONGEST, count
        of_token = _block_weights(self.sizes)
        if device.type == "cpu":
            self.passed = max(1, min(count, int(PRODUCTS / (LONGEST * of_token))))
            self.tokens = max(SHORTEST, min(LONGEST, int(PRODUCTS / (self.passed * of_token))))
        self.of_passes = max(shape.sizes.layers, shape.multiplied / of_token) / self.passed

    def measure_passes(self) -> CallTime:
        few = max(SHORTEST // 2, self.tokens // ROWS)
        short, rows, long = (
            self._time(partial(self._run, *shape)) for shape in ((1, few), (ROWS, few), (1, ROWS * few))
        )
        return CallTime.of_rows(few, short, rows, long).times(self.of_passes, self.of_passes)

    def measure_training(self, passed: CallTime) -> CallTime:
        """A pass with its backward pass, which computes gradients of the stream alone."""

        def work() -> None:
            with torch.enable_grad():
                self._run(1, self.tokens, gradient=True).sum().backward()

        with torch.no_grad():
            alone = self._time(partial(self._run, 1, self.tokens))
        ratio = max(1.0, self._time(work) / alone)
        return passed.times(ratio, ratio)

    def measure_steps(self) -> CallTime:
        """On packed weights, as answers are decoded on a processor."""
        began = self.clock()
        with pack_linears(self.model, MANY_ROWS) as packs:
            self.packed = (self.clock() - began) * self.by_weights if packs else 0.0
            return self.measure_unpacked_steps()

    def measure_unpacked_steps(self) -> CallTime:
        """On weights as they are, unless they are packed by the caller."""
        points = [(rows, self._time(self._decoding(rows))) for rows in (FEW_ROWS, MANY_ROWS)]
        return CallTime.through(*points).times(self.by_blocks, self.by_weights)

    def measure_float32(self, rows: int, tokens: int) -> CallTime:
        """Of rows of `tokens`, on blocks that no cache holds; first all weights of the model are
        converted.
        """
        of_block = _block_weights(self.sizes)
        converting = self._time(self._converting(of_block)) * self.shape.in_blocks / of_block
        count = max(1, min(self.shape.sizes.layers, LEAST // (of_block * torch.float32.itemsize)))
        if self.device.type == "cpu":
            rows = max(1, min(rows, int(PRODUCTS / (tokens * of_block))))
        blocks = _build(self.sizes, count, torch.float32, self.device)
        seconds = self._time(partial(_run_blocks, blocks, rows, tokens)) / count
        return CallTime(converting, seconds * self.of_passes * self.passed / (rows * tokens))

    def _converting(self, count: int) -> Callable[[], Tensor]:
        weights = torch.full((count,), 0.01, dtype=self.dtype, device=self.device)
        return lambda: weights.to(torch.float32, copy=True)

    def measure_head(self) -> CallTime:
        """On some rows of the head; the others take as long."""
        d_model = self.shape.sizes.d_model
        rows = min(HEAD_ROWS, self.shape.vocab)
        head = torch.full((rows, d_model), 0.01, dtype=self.dtype, device=self.device)

        def work(labels: int) -> Tensor:
            states = torch.full((labels, d_model), 0.1, dtype=self.dtype, device=self.device)
            return nn.functional.linear(states, head).float().log_softmax(-1)

        points = [(count, self._time(partial(work, count))) for count in (FEW_ROWS, LABELS)]
        share = self.shape.vocab / rows
        return CallTime.through(*points).times(share, share)

    def _run(self, rows: int, tokens: int, gradient: bool = False) -> Tensor:
        """A pass through some of the blocks."""
        self.model.config.num_hidden_layers = self.passed
        try:
            return _run_blocks(self.model, rows, tokens, gradient)
        finally:
            self.model.config.num_hidden_layers = self.count

    def _decoding(self, rows: int) -> Callable[[], Tensor]:
        from transformers import DynamicCache

        sizes = self.sizes
        state = torch.full((rows, sizes.kv_heads, BEFORE, sizes.head_dim), 0.1, dtype=self.dtype)
        cache = DynamicCache(config=self.model.config)
        for layer in range(self.count):
            cache.update(state.to(self.device), state.to(self.device), layer)
        stream = torch.full((rows, 1, sizes.d_model), 0.1, dtype=self.dtype, device=self.device)

        def step() -> Tensor:
            seen = torch.ones(rows, cache.get_seq_length() + 1, dtype=torch.long, device=self.device)
            result: Tensor = self.model(
                inputs_embeds=stream, attention_mask=seen, past_key_values=cache, use_cache=True
            ).last_hidden_state
            return result

        return step

    def _time(self, work: Callable[[], object]) -> float:
        """The quickest of some calls, after one that counts for nothing: other programs lengthen
        some of them.
        """
        work()
        best, since = math.inf, self.clock()
        for number in range(MOST_CALLS):
            if number >= 2 and self.clock() - since > ENOUGH:
                break
            self._wait()
            began = self.clock()
            work()
            self._wait()
            best = min(best, self.clock() - began)
        return best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def _block_weights(sizes: BlockSizes) -> int:
    """Numbers in the matrices of a block."""
    attention = 2 * sizes.d_model * (sizes.heads + sizes.kv_heads) * sizes.head_dim
    return attention + 3 * sizes.d_model * sizes.inner


def _narrow(sizes: BlockSizes) -> BlockSizes:
    """The sizes, or narrower ones whose block has MOST bytes of 16-bit weights."""
    share = min(1.0, math.sqrt(MOST / 2 / _block_weights(sizes)))
    kv_heads = max(1, round(sizes.kv_heads * share))
    heads = kv_heads * max(1, round(sizes.heads * share / kv_heads))
    d_model = round(sizes.d_model * share)
    return BlockSizes(
        layers=sizes.layers,
        # Llama's class divides the stream among its heads.
        d_model=d_model if d_model % heads == 0 else 8 * heads * max(1, round(d_model / 8 / heads)),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=sizes.head_dim + sizes.head_dim % 2,
        inner=max(1, round(sizes.inner * share)),
    )


def _build(sizes: BlockSizes, count: int, dtype: torch.dtype, device: torch.device) -> Any:
    """A random model of plain blocks, without a vocabulary."""
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=sizes.d_model,
        intermediate_size=sizes.inner,
        num_hidden_layers=count,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        vocab_size=8,
        max_position_embeddings=2 * LONGEST,
    )
    with init_empty_weights(include_buffers=False):
        model = LlamaModel(config)
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is None:
                continue
            # Written, not left as pages of zeros, which a processor reads from its cache.
            filled = torch.full(value.shape, 0.01, dtype=dtype, device=device)
            module._parameters[name] = nn.Parameter(filled, requires_grad=False)
    return model.to(device).eval()


def _run_blocks(model: Any, rows: int, tokens: int, gradient: bool = False) -> Tensor:
    """A pass of `_build`'s model over rows of tokens."""
    like: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
    stream = torch.full((rows, tokens, model.config.hidden_size), 0.1, **like)
    mask = torch.zeros(rows, 1, tokens, tokens, **like)
    result: Tensor = model(
        inputs_embeds=stream.requires_grad_(gradient), attention_mask=mask, use_cache=False
    ).last_hidden_state
    return result
