"""What a default run takes of cards of usual sizes, as `vectomy plan` computes it.

    python benchmarks/plan_cards.py

From config.json alone: no weights, no card, some seconds. Each cell is the first way that fits (the
whole model in bfloat16, the whole model in 4 bits, block by block) with the GiB of the largest
stage. `OTHERS` of the card are left to the screen and other programs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from counted_pass import config_folder

from vectomy.core.config import LoadIn
from vectomy.models.memory import SHARE
from vectomy.workflows.planned_work import Place, Workload
from vectomy.workflows.run_plan import measure_shape
from vectomy.workflows.stage_memory import count_stage_bytes

GIB = 1 << 30
CARDS = (8, 12, 16, 24)
OTHERS = GIB
MODELS = ("Qwen3-4B", "Llama-3.1-8B", "Qwen3-8B", "Gemma-2-9b", "Qwen3-14B", "Qwen3-32B")
WAYS: tuple[tuple[LoadIn | None, str], ...] = ((None, "whole"), ("4bit", "4 bits"))


def describe(name: str, card: int) -> str:
    """How a model runs on a card of so many GiB, and the GiB of the largest stage."""
    free = card * GIB - OTHERS
    blocks = "none"
    for load_in, way in WAYS:
        shape = measure_shape(config_folder(name), torch.device("cuda"), load_in=load_in)
        whole, in_full = (size <= SHARE * free for size in (shape.loaded_bytes, shape.in_full.loaded_bytes))
        stages = count_stage_bytes(shape, Workload(), Place(True, whole, free, in_full))
        peak = max(stage.device for stage in stages.values())
        if whole and peak <= free:
            return f"{way}, {peak / GIB:.1f}"
        if not whole and load_in is None and peak <= free:
            blocks = f"by blocks, {peak / GIB:.1f}"
    return blocks


def main() -> None:
    print(f"| model | weights, GiB | {' | '.join(f'{card} GB' for card in CARDS)} |")
    print("|---" * (2 + len(CARDS)) + "|")
    for name in MODELS:
        shape = measure_shape(config_folder(name), torch.device("cuda"))
        cells = [f"{shape.loaded_bytes / GIB:.1f}", *(describe(name, card) for card in CARDS)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
