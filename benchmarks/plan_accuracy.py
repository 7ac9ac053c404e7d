"""How near `vectomy plan` comes: stages of runs of three shapes, predicted and measured.

    python benchmarks/plan_accuracy.py [--shapes 135M 0.5B 1.5B] [--stages collect search ...]
    [--folder DIR] [--limit SECONDS] [--threads N] [--json FILE]

135M is the demo model; the others are random, with its tokenizer. A random model refuses nothing,
so the behaviour needs no judge, and the search starts from a random direction: screened ones would
change nothing there, and the search would turn to all layers. The largest shape has fewer prompts
and steps, which the plan counts.

Each stage of each shape is a process of its own with a limit of time: resident memory rarely falls
again. The model is loaded before the clock starts, as by an earlier stage of a whole run (not for
the bake, which runs none; its weights are added to what it took). Settings of malloc are dropped:
those that `make` exports keep freed memory in the process.

Runs lie in `--folder`, and stages that are done there are not run again, so a shape may be measured
in pieces: give the same folder and other `--stages`. The JSON file keeps the rows of earlier calls.
The speeds of a shape are measured in each call. With `--threads 1` they are in processor time, and
the plan is to be compared with the processor's seconds: what a machine without other work would
take, but for waiting for the disk.
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
from itertools import product
from pathlib import Path
from typing import Any

import torch

from vectomy.core.run_folder import read_json, write_json
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
# By what a person calls them; the stage before a search takes no time.
STAGES = {
    "baseline": "baseline",
    "collect": "collect",
    "directions": "directions",
    "search": "select",
    "bake": "apply",
    "evaluate": "evaluate",
}
MEASURED = [stage for stage in STAGES if stage != "directions"]
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
RANDOM: Figures = {"direction": "random:0"}
# What the largest shape does less of; the plan counts it.
LARGE: Figures = {"n_fit": 32, "n_search": 4, "n_test": 6, "answer_tokens": 16, "steps": 4}
STAGE = """
import json, sys
from pathlib import Path
from vectomy.core.run_config import make_config
from vectomy.core.run_folder import RunFolder, write_json
from vectomy.models.decoding import decodes_by_row
from vectomy.workflows.run import list_stages, open_workflow

model, out, stage, settings = *sys.argv[1:4], json.loads(sys.argv[4])
with RunFolder(Path(out)) as folder:
    work = open_workflow(make_config(model, settings), folder)
    digest = work.prepare()
    write_json(folder.file("planned.json"), work.planned.to_json())
    if stage in ("collect", "select", "evaluate"):
        decodes_by_row(work.chat, work.chat.tokens(work.splits[0].search))
    work.run_stages(list_stages(work), digest, stage)
"""


def build_model(name: str, folder: Path) -> Path:
    """The demo model, or a random one with its tokenizer."""
    demo = demo_folder()
    if not SHAPES[name]:
        return demo
    if (folder / "tokenizer.json").exists():
        return folder
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


def settings_of(name: str, threads: int | None) -> Figures:
    more = {**(RANDOM if SHAPES[name] else {}), **(LARGE if name == "1.5B" else {})}
    return {**SETTINGS, **more, **({} if threads is None else {"threads": threads})}


def run_stage(model: Path, out: Path, stage: str, settings: Figures, limit: float) -> bool:
    """Run a stage whose earlier stages are done. Whether it was done within the limit; a killed one
    starts anew the next time.
    """
    (out / "stages" / f"{stage}.journal").unlink(missing_ok=True)
    try:
        subprocess.run(
            [sys.executable, "-c", STAGE, str(model), str(out), stage, json.dumps(settings)],
            check=True,
            timeout=limit,
            env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
        )
    except subprocess.TimeoutExpired:
        return False
    return True


def measure(name: str, folder: Path, wanted: list[str], limit: float, threads: int | None) -> list[Figures]:
    """The stages of one shape that were run now, up to the last one that is wanted, as rows."""
    folder.mkdir(parents=True, exist_ok=True)
    model, out, settings = build_model(name, folder / "model"), folder / "run", settings_of(name, threads)
    rows: list[Figures] = []
    plan: Figures = {}
    labels = list(STAGES)
    for label in labels[: 1 + max(map(labels.index, wanted))]:
        stage = STAGES[label]
        if (out / "stages" / f"{stage}.json").exists():
            continue
        began = time.monotonic()
        if not run_stage(model, out, stage, settings, limit):
            print(f"{name} {label}: not done in {limit:.0f} s; give a larger --limit", flush=True)
            break
        print(f"{name} {label}: {time.monotonic() - began:.0f} s with loading", flush=True)
        if label in MEASURED:
            plan = plan or plan_stages(out, threads)
            rows.append(compare(name, label, out, plan, settings))
    return rows


def plan_stages(out: Path, threads: int | None) -> Figures:
    """The plan of a run, by speeds that are measured now."""
    stored = read_json(out / "planned.json")
    planned = PlannedRun(ModelShape.from_json(stored["shape"]), Workload.from_json(stored["work"]))
    device = torch.device("cpu")
    clock = time.process_time if threads == 1 else time.perf_counter
    speeds = measure_speeds(planned.shape, device, out.parent, clock)
    write_json(out.parent / "speeds.json", speeds.to_json())
    weights = planned.shape.loaded_bytes
    return {"weights": weights} | {
        stage.name: stage for stage in plan_run(planned, device=device, speeds=speeds)
    }


def compare(name: str, stage: str, out: Path, plan: Figures, settings: Figures) -> Figures:
    """What a stage took and what was planned for it."""
    cost, planned = read_json(out / "stages" / f"{STAGES[stage]}.json"), plan[STAGES[stage]]
    alone = plan["weights"] if stage == "bake" else 0
    return {
        "shape": name,
        "stage": stage,
        "seconds": cost["seconds"],
        "processor_seconds": cost["processor_seconds"],
        "peak_memory_bytes": cost["peak_memory_bytes"] + alone,
        "planned_seconds": planned.seconds,
        "planned_memory_bytes": planned.memory_bytes,
        "threads": torch.get_num_threads(),
        "settings": settings,
    }


def show(rows: list[Figures]) -> str:
    """Ratios are planned over measured."""
    heads = [
        *("shape", "stage", "seconds", "processor", "planned", "ratio", "to processor"),
        *("GiB", "planned", "ratio"),
    ]
    lines = [f"| {' | '.join(heads)} |", "|" + len(heads) * "---|"]
    for row in rows:
        seconds, used, memory = row["seconds"], row["processor_seconds"], row["peak_memory_bytes"]
        planned = row["planned_seconds"]
        cells = [
            *(row["shape"], row["stage"], f"{seconds:.1f}", f"{used:.1f}", f"{planned:.1f}"),
            *(f"{planned / seconds:.2f}", f"{planned / used:.2f}", f"{memory / 2**30:.2f}"),
            f"{row['planned_memory_bytes'] / 2**30:.2f}",
            f"{row['planned_memory_bytes'] / memory:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def merge(file: Path, rows: list[Figures]) -> list[Figures]:
    """Write rows into the file, instead of earlier ones of the same stage; all of its rows."""
    stored = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    both = {(row["shape"], row["stage"]): row for row in [*stored, *rows]}
    result = [both[key] for key in product(SHAPES, MEASURED) if key in both]
    file.write_text(json.dumps({"rows": result}, indent=2) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--stages", nargs="+", default=MEASURED, choices=MEASURED)
    parser.add_argument("--folder", type=Path, help="where runs stay; else a temporary folder")
    parser.add_argument("--limit", type=float, default=450, help="seconds for one stage")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="plan-accuracy-") as temporary:
        for name in args.shapes:
            folder = (args.folder or Path(temporary)) / name
            rows = measure(name, folder, args.stages, args.limit, args.threads)
            all_rows = merge(args.json, rows)
            print(show(rows), flush=True)
    print(show(all_rows))


if __name__ == "__main__":
    main()
