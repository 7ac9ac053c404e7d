"""The bytes that a learning pass keeps: the formula of `vectomy plan`, and what autograd stores.

    python benchmarks/plan_memory.py

Real shapes on the meta device, from config.json alone, with the search's hooks on the writers from
0.4 of the depth on; MiB a token. Some seconds; no weights, no card.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
from counted_pass import SHAPES, config_folder, count_kept

from vectomy.models.pass_bytes import kept_bytes

GIB, MIB = 1 << 30, 1 << 20
TOKENS = (700, 4096)


def main() -> None:
    print("| model (bf16) | weights, GiB | 700 tokens: counted | formula | 4,096: counted | formula |")
    print("|---|---|---|---|---|---|")
    for name in SHAPES:
        if "mixture" in name:
            continue
        cells = []
        for tokens in TOKENS:
            shape, stored, layers = count_kept(config_folder(name), tokens)
            eager = name.startswith("Gemma")
            said = kept_bytes(shape, tokens, layers, eager=eager, softcap=eager)
            cells += [f"{stored / tokens / MIB:.2f}", f"{said / tokens / MIB:.2f}"]
        print(f"| {name} | {shape.bytes / GIB:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
