"""Count what a process asks of a transformers model: the same counter for our tool and for others.

    python benchmarks/counted.py COUNTS.json vectomy.cli:main select demo --recipe arditi ...

runs a console command in this process and writes what it took. A forwarded token is one position
that went through all layers, padding included; layers that are called alone count their share, and
those run with gradients are counted apart as well. Needs only transformers, so that it also runs
within another tool's environment.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Counter:
    """What was asked of models so far. `layer_tokens` is divided by the layers of a model when it
    is read.
    """

    layer_tokens: int = 0
    layer_tokens_with_gradients: int = 0
    generated_tokens: int = 0
    layers: int = 1

    def to_json(self) -> dict[str, int]:
        return {
            "forward_tokens": self.layer_tokens // self.layers,
            "forward_tokens_with_gradients": self.layer_tokens_with_gradients // self.layers,
            "generated_tokens": self.generated_tokens,
        }


def start_counting(seen: Callable[[Any, Any], None] = lambda ids, mask: None) -> Counter:
    """Wrap decoder layers and `generate` of transformers, both unchanged in what they do.

    `seen` is shown the token ids and the attention mask of every call of `generate`.
    """
    import torch
    from transformers import GenerationMixin
    from transformers.modeling_layers import GradientCheckpointingLayer

    counter = Counter()
    call, generate = GradientCheckpointingLayer.__call__, GenerationMixin.generate

    def counted_call(self: Any, *args: Any, **more: Any) -> Any:
        hidden = args[0] if args else more["hidden_states"]
        tokens = hidden.shape[:-1].numel()
        counter.layer_tokens += tokens
        counter.layer_tokens_with_gradients += (
            tokens if torch.is_grad_enabled() and hidden.requires_grad else 0
        )
        return call(self, *args, **more)

    def counted_generate(self: Any, *args: Any, **more: Any) -> Any:
        counter.layers = self.config.get_text_config().num_hidden_layers
        ids = more.get("input_ids", args[0] if args else None)
        seen(ids, more.get("attention_mask"))
        out = generate(self, *args, **more)
        whole = getattr(out, "sequences", out)
        counter.generated_tokens += whole.numel() - ids.numel()
        return out

    GradientCheckpointingLayer.__call__ = counted_call
    GenerationMixin.generate = counted_generate
    return counter


def count_own_decoding(counter: Counter) -> None:
    """Count what our own decoder generates too; it does not go through `generate`."""
    from vectomy.models.generation import GreedyDecoder

    answers = GreedyDecoder.answers

    def counted_answers(self: Any, *args: Any) -> Iterator[tuple[int, list[int]]]:
        counter.layers = self.model.config.get_text_config().num_hidden_layers
        for index, answer in answers(self, *args):
            counter.generated_tokens += len(answer)
            yield index, answer

    GreedyDecoder.answers = counted_answers


def peak_bytes() -> int:
    """The largest resident set of this process so far (getrusage would also count the process that
    started it).
    """
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    )
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    began = time.monotonic()
    out, command, *arguments = sys.argv[1:]
    module, function = command.split(":")
    counter = start_counting()
    if module.startswith("vectomy"):
        count_own_decoding(counter)
    sys.argv = [command, *arguments]
    try:
        getattr(importlib.import_module(module), function)()
    finally:
        took = {"seconds": time.monotonic() - began, "peak_bytes": peak_bytes(), **counter.to_json()}
        Path(out).write_text(json.dumps(took, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
