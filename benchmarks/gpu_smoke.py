"""The project on one card: is it right there, how fast is it, and how much memory does it take.

    python benchmarks/gpu_smoke.py [--device cuda] [--shape 8b] [--seconds 520] [--only NAME,...]
    [--json FILE]

Right: a tiny model with a known behaviour, every recipe on the card in bfloat16 and on the CPU in
float32. Fast and large: random weights in the shape of a real model (8b: Llama 3.1) with a
vocabulary of words; its behaviour is "answers open alike", which needs no judge. A section that
fails is a row of the table and not the end; one for which the time is short is skipped. Run on the
CPU with `--device cpu --shape tiny`, it tests itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from smoke_behaviour import behaviour, evaluate, traits
from smoke_memory import capped_search, layerwise, whole_run
from smoke_model import SHAPES, make_big_model
from smoke_rows import Figures, Smoke
from smoke_speed import generation, speed


def describe_machine(smoke: Smoke) -> Figures:
    name = torch.cuda.get_device_name() if smoke.cuda else "cpu"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "shape": smoke.shape}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="8b", choices=tuple(SHAPES))
    parser.add_argument(
        "--seconds", type=float, default=520, help="sections that would end later are skipped"
    )
    parser.add_argument("--only", default="", help="first words of section names, with commas")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    only = [name for name in args.only.split(",") if name]
    smoke = Smoke(args.device, args.shape, SHAPES[args.shape]["vocab_size"], args.seconds, only)
    machine = describe_machine(smoke)
    print(json.dumps(machine), flush=True)
    for recipe in ("gradient", "arditi", "cosmic", "article"):
        smoke.section(f"behaviour {recipe}", lambda recipe=recipe: behaviour(smoke, recipe))
    smoke.section("traits", lambda: traits(smoke))
    smoke.section("evaluate", lambda: evaluate(smoke))
    smoke.section("make the big model", lambda: make_big_model(smoke), least=60)
    smoke.section("speed", lambda: speed(smoke), least=60)
    smoke.section("generation", lambda: generation(smoke), least=60)
    for kind, ending in (("short", ""), ("long", "-long")):
        name = f"memory of a search on 24 GB, {kind} prompts"
        smoke.section(name, lambda ending=ending: capped_search(smoke, ending), least=50)
    smoke.section("layerwise", lambda: layerwise(smoke), least=40)
    smoke.section("default run", lambda: whole_run(smoke), least=100)
    args.json.write_text(json.dumps({"machine": machine, "rows": smoke.rows}, indent=1, default=str) + "\n")
    for row in smoke.rows:
        mark = {"ok": "ok ", "skipped": "-- "}.get(row["status"], "BAD")
        print(f"{mark} {json.dumps(row, default=str)[:900]}")
    return int(any(row["status"].startswith("FAILED") for row in smoke.rows))


if __name__ == "__main__":
    sys.exit(main())
