"""How near `vectomy plan` comes: whole runs of three shapes, predicted and measured.

    python benchmarks/plan_accuracy.py [--shapes 135M 0.5B 1.5B] [--threads N] [--json FILE]

Each run has few prompts and a behaviour without a judge, since random models refuse nothing, and is
a process of its own: resident memory rarely falls again. Settings of malloc are dropped: those that
`make` exports keep freed memory in the process.

This prints seconds and peak memory of each stage, measured and planned; then the seconds as `plan
--refit` corrects them by the run of the first shape. With `--threads 1` the plan is one of
processor time, to be compared with the processor's seconds: what a machine without other work would
take, but for waiting for the disk. Some 10 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vectomy.core.run_folder import read_json
from vectomy.models.demo import demo_folder
from vectomy.models.model_shape import ModelShape
from vectomy.models.speed_probe import measure_speeds
from vectomy.workflows.planned_work import Workload
from vectomy.workflows.run_plan import PlannedRun, plan_run

Figures = dict[str, Any]
SHAPES: dict[str, dict[str, int]] = {
    "135M": {},
    "0.5B": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5B": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
STAGES = {"collect": "collect", "search": "select", "bake": "apply", "evaluate": "evaluate"}
SETTINGS: Figures = {
    "positive": "bundled:refused",
    "negative": "bundled:harmless",
    "behaviour": "opening",
    "device": "cpu",
    "dtype": "bfloat16",
    "n_fit": 48,
    "n_search": 8,
    "n_test": 12,
    "answer_tokens": 24,
    "steps": 8,
    "target_rate": 1.0,
    "force": True,
}
RUN = """
import json, sys
from vectomy import run
run(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
"""


def build_model(name: str, folder: Path) -> Path:
    """The demo model, or a random one with its tokenizer."""
    demo = demo_folder()
    if not SHAPES[name]:
        return demo
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(demo)
    for key, value in {**SHAPES[name], "head_dim": None}.items():
        setattr(config, key, value)
    config.head_dim = config.hidden_size // config.num_attention_heads
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in demo.iterdir():
        if file.is_file() and not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, folder)
    return folder


def run_alone(model: Path, out: Path, settings: Figures) -> None:
    """Run in a process of its own."""
    subprocess.run(
        [sys.executable, "-c", RUN, str(model), str(out), json.dumps(settings)],
        check=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
    )


def measure(name: str, folder: Path, settings: Figures, first: Path | None) -> list[Figures]:
    """Run one shape; its stages as rows."""
    model = build_model(name, folder / "model")
    out = folder / "run"
    run_alone(model, out, settings)
    summary = read_json(out / "summary.json")
    planned = PlannedRun(
        ModelShape.from_json(summary["planned"]["shape"]), Workload.from_json(summary["planned"]["work"])
    )
    device = torch.device("cpu")
    clock = time.process_time if settings.get("threads") == 1 else time.perf_counter
    speeds = measure_speeds(planned.shape, device, folder, clock)
    plain = {stage.name: stage for stage in plan_run(planned, device=device, speeds=speeds)}
    rows = []
    for label, stage in STAGES.items():
        row = {
            "shape": name,
            "stage": label,
            **summary["costs"][stage],
            "planned_seconds": plain[stage].seconds,
            "planned_memory_bytes": plain[stage].memory_bytes,
        }
        rows.append(row)
    if first is not None:
        corrected = {s.name: s for s in plan_run(planned, device=device, speeds=None, from_run=first)}
        for row in rows:
            row["corrected_seconds"] = corrected[STAGES[row["stage"]]].seconds
    return rows


def show(rows: list[Figures]) -> str:
    """Ratios are planned over measured."""
    heads = [
        *("shape", "stage", "seconds", "processor", "planned", "ratio", "to processor"),
        *("from the first", "ratio", "GiB", "planned", "ratio"),
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + len(heads) * "---|"]
    for row in rows:
        seconds, used, memory = row["seconds"], row["processor_seconds"], row["peak_memory_bytes"]
        planned, corrected = row["planned_seconds"], row.get("corrected_seconds")
        told = ("-", "-") if corrected is None else (f"{corrected:.1f}", f"{corrected / seconds:.2f}")
        cells = [
            *(row["shape"], row["stage"], f"{seconds:.1f}", f"{used:.1f}", f"{planned:.1f}"),
            *(f"{planned / seconds:.2f}", f"{planned / used:.2f}", *told, f"{memory / 2**30:.2f}"),
            f"{row['planned_memory_bytes'] / 2**30:.2f}",
            f"{row['planned_memory_bytes'] / memory:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    settings = dict(SETTINGS)
    if args.threads is not None:
        settings["threads"] = args.threads
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as place:
        rows: list[Figures] = []
        first = None
        for name in args.shapes:
            rows += measure(name, Path(place) / name, settings, first)
            first = first or Path(place) / name / "run"
            print(show(rows[-len(STAGES) :]), flush=True)
        args.json.write_text(
            json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
        print(show(rows))


if __name__ == "__main__":
    main()
