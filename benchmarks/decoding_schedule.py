"""Which rows and columns the loop of answers runs for the prompts of generation.py. No model runs:
answers end at random, after one in 60 tokens.

    python benchmarks/decoding_schedule.py [--places 16384]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from generation import mixed_prompts
from torch import Tensor

from vectomy.models import shared_beginning
from vectomy.models.demo import demo_folder
from vectomy.models.generation import GreedyDecoder
from vectomy.models.loading import load_without_weights

LIMIT, END, OTHER = 64, 0, 1
ENDS_AFTER = 60


class CountingDecoder(GreedyDecoder):
    """Counts steps, rows, columns and columns of own tokens; computes nothing."""

    passes = rows = columns = own = 0

    def _step(self, rows: Any) -> Tensor:
        picked = super()._step(rows)
        self.passes += 1
        self.rows += len(rows.mask)
        self.columns += rows.mask.numel()
        self.own += int(rows.mask.sum())
        return picked

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        return torch.zeros(*ids.shape, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=16384)
    args = parser.parse_args()
    chat = load_without_weights(demo_folder())
    tokens = chat.tokens(mixed_prompts(256))
    length = shared_beginning(tokens)
    generator = torch.Generator().manual_seed(0)

    def pick(hidden: Tensor) -> Tensor:
        ends = torch.rand(len(hidden), generator=generator) < 1 / ENDS_AFTER
        return torch.where(ends, END, OTHER)

    decoder = CountingDecoder(chat.model, pick, tokens[0][:length], [END], torch.device("cpu"))
    own = {row: ids[length:] for row, ids in enumerate(tokens)}
    answers = dict(decoder.answers(own, LIMIT, args.places, 4096))
    count = sum(map(len, answers.values())) - len(answers)
    print(f"{decoder.passes} steps of {decoder.rows / decoder.passes:.0f} rows for {count} tokens of answers")
    print(f"rows that had ended: {1 - count / decoder.rows:.1%} of all rows")
    print(f"columns a row: {decoder.columns / decoder.rows:.0f}, of its own {decoder.own / decoder.rows:.0f}")
    print(f"of these {length} are the beginning that all prompts share")


if __name__ == "__main__":
    main()
