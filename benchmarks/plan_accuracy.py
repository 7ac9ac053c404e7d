"""How near `vectomy plan` comes: whole runs of three shapes, predicted and measured.

    python benchmarks/plan_accuracy.py [--shapes 135M 0.5B 1.5B] [--json FILE]

Each run has few prompts and a behaviour without a judge, since random models refuse nothing. This
prints seconds and peak memory of each stage, measured and planned; then the seconds as `plan
--from` corrects them by the run of the first shape. Some 10 minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from vectomy import run
from vectomy.core.run_folder import read_json
from vectomy.models.demo import demo_folder
from vectomy.models.model_shape import ModelShape
from vectomy.models.speed_probe import measure_speeds
from vectomy.workflows.cost_model import Workload
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


def measure(name: str, folder: Path, first: Path | None) -> list[Figures]:
    """Run one shape; its stages as rows."""
    model = build_model(name, folder / "model")
    out = folder / "run"
    run(str(model), out, **SETTINGS)
    summary = read_json(out / "summary.json")
    planned = PlannedRun(
        ModelShape.from_json(summary["planned"]["shape"]), Workload.from_json(summary["planned"]["work"])
    )
    device = torch.device("cpu")
    speeds = measure_speeds(planned.shape, device, folder)
    plain = {stage.name: stage for stage in plan_run(planned, device=device, speeds=speeds)}
    rows = []
    for label, stage in STAGES.items():
        cost = summary["costs"][stage]
        row = {
            "shape": name,
            "stage": label,
            "seconds": cost["seconds"],
            "planned_seconds": plain[stage].seconds,
            "peak_memory_bytes": cost["peak_memory_bytes"],
            "planned_memory_bytes": plain[stage].memory_bytes,
        }
        rows.append(row)
    if first is not None:
        corrected = {s.name: s for s in plan_run(planned, device=device, speeds=None, from_run=first)}
        for row in rows:
            row["corrected_seconds"] = corrected[STAGES[row["stage"]]].seconds
    return rows


def show(rows: list[Figures]) -> str:
    lines = [
        "| shape | stage | seconds | planned | ratio | from the first | ratio | GiB | planned | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        seconds, memory = row["seconds"], row["peak_memory_bytes"]
        corrected = row.get("corrected_seconds")
        told = ("-", "-") if corrected is None else (f"{corrected:.1f}", f"{corrected / seconds:.2f}")
        lines.append(
            f"| {row['shape']} | {row['stage']} | {seconds:.1f} | {row['planned_seconds']:.1f} | "
            f"{row['planned_seconds'] / seconds:.2f} | {told[0]} | {told[1]} | {memory / 2**30:.2f} | "
            f"{row['planned_memory_bytes'] / 2**30:.2f} | {row['planned_memory_bytes'] / memory:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as place:
        rows: list[Figures] = []
        first = None
        for name in args.shapes:
            rows += measure(name, Path(place) / name, first)
            first = first or Path(place) / name / "run"
            print(show(rows[-len(STAGES) :]), flush=True)
        args.json.write_text(
            json.dumps({"settings": SETTINGS, "rows": rows}, indent=2) + "\n", encoding="utf-8"
        )
        print(show(rows))


if __name__ == "__main__":
    main()
