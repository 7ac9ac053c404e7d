"""Collect from a checkpoint block by block, and (where it fits) whole: seconds, tokens a second,
peak memory.

    python benchmarks/collect_stream.py [--gigabytes 14] [--prompts 64] [--dtypes auto,float32]
    [--whole] [--folder DIR] [--json FILE]

The checkpoint is that of bake_speed.py (random bfloat16 in the shapes of Llama 7B, fewer layers
where it is smaller) with the demo model's tokenizer and vocabulary; the prompts are the demo's.
Each pass is a process of its own, on a checkpoint dropped from the page cache (`--warm` leaves it
there; `--short` takes prompts of five tokens or so instead). `pass` is the time of `collect` alone,
`process` that of everything, imports included; memory is the largest resident set, and its part
that is not pages of files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bake_speed
import torch

from vectomy.core.jsonl import write_jsonl
from vectomy.models.demo import demo_folder

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PROMPTS = Path(bake_speed.__file__).parents[1] / "src" / "vectomy" / "data" / "bundled" / "harmless.jsonl"
PASS = """
import json, pathlib, sys, time
from vectomy.search.collect import collect
from vectomy.core.jsonl import read_jsonl
from vectomy.models import load_model, stream_model
from vectomy.data.prompts import Prompt
folder, how, dtype, file, count, out = sys.argv[1:]
texts = [row["text"] for row in read_jsonl(pathlib.Path(file))]
prompts = [Prompt(text) for text in (texts * int(count))[: int(count)]]
began = time.monotonic()
chat = (stream_model if how == "stream" else load_model)(folder, device="cpu", dtype=dtype)
opened = time.monotonic()
statistics = collect(chat, prompts)
ended = time.monotonic()
tokens = sum(map(len, chat.tokens(prompts)))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
json.dump({"peak_bytes": int(status["VmHWM"].split()[0]) * 1024, "open": opened - began,
           "pass": ended - opened,
           "tokens": tokens, "mean": statistics.mean.sum().item(),
           "norm": statistics.mean.norm().item()}, open(out, "w"))
"""


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        (
            f"{'':16s}{'open s':>8s}{'pass s':>8s}{'process s':>11s}{'tokens/s':>10s}{'GB/s':>7s}"
            f"{'peak MB':>9s}{'own MB':>9s}"
        )
    ]
    lines += [
        f"{name:16s}{row['open']:8.1f}{row['pass']:8.1f}{row['seconds']:11.1f}"
        f"{row['tokens'] / row['pass']:10.1f}"
        f"{row['bytes'] / row['pass'] / 1e9:7.2f}{row['peak_bytes'] / 1e6:9.0f}{row['anon_bytes'] / 1e6:9.0f}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=14)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--dtypes", default="auto,float32", help="each pass is run in each of these")
    parser.add_argument(
        "--short",
        action="store_true",
        help="prompts of a few tokens, without a template's own: the weights count, not the sums",
    )
    parser.add_argument("--whole", action="store_true", help="also load the model whole")
    parser.add_argument("--warm", action="store_true", help="leave the checkpoint in the page cache")
    parser.add_argument(
        "--source",
        type=Path,
        help="a checkpoint of this script's that is there already, or is to be kept there",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the temporary folder goes (the disk that is measured)"
    )
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    demo = demo_folder()
    bake_speed.VOCAB = json.loads((demo / "config.json").read_text())["vocab_size"]
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        source, out = args.source or Path(temporary) / "source", Path(temporary) / "out.json"
        there = source.exists()
        bytes_ = bake_speed.size_of(source) if there else bake_speed.make_checkpoint(source, args.gigabytes)
        for name in TOKENIZER:
            shutil.copy(demo / name, source)
        prompts = PROMPTS
        if args.short:
            (source / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
            prompts = Path(temporary) / "short.jsonl"
            write_jsonl(prompts, ({"text": f"Count to {n}."} for n in range(args.prompts)))
        rows: dict[str, dict[str, float]] = {}
        ways = ("stream", "whole") if args.whole else ("stream",)
        for how, dtype in itertools.product(ways, args.dtypes.split(",")):
            bake_speed.drop_cached(source)
            if args.warm:
                for file in source.iterdir():
                    subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)
            command = [
                sys.executable,
                "-c",
                PASS,
                str(source),
                how,
                dtype,
                str(prompts),
                str(args.prompts),
                str(out),
            ]
            rows[f"{how} {dtype}"] = {
                **bake_speed.timed(command),
                **json.loads(out.read_text()),
                "bytes": bytes_,
            }
    print(
        f"{bytes_ / 1e9:.2f} GB, {args.prompts} prompts, {'warm' if args.warm else 'not cached'}"
        f"\n{table(rows)}"
    )
    found: dict[str, Any] = {
        "checkpoint": "random bfloat16 in the shapes of Llama 7B, fewer layers where smaller",
        "warm": args.warm,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "passes": rows,
    }
    args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
