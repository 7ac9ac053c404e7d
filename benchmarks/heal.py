"""Damage the demo model on purpose, heal it by self-distillation and by DPO on pairs from its own
base, and show what came back.

    python benchmarks/heal.py --out DIR [--json benchmarks/heal.json] [--plain] [--runs sft dpo]
    [--strength 1.5]

The damage: the raw difference of means at layer 17, not projected, removed from every writer at
strength 1.5 (or `--strength`; at 1 it is gone, and verify's receipt of the healed checkpoint says
whether it still is). Learned on: the bundled harmless prompts outside the test split, and frames of
harmless requests (scripts/train_demo_adapter.py). Measured on: the bundled test prompts. `--plain`
does the same without protecting the direction, for comparison. A killed run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vectomy.core.run_config import Source
from vectomy.core.versions import versions
from vectomy.data.prompts import read_unmeasured
from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import parse_heal
from vectomy.models import load_model
from vectomy.models.demo import demo_folder
from vectomy.report import healing_rows
from vectomy.search.collect import collect
from vectomy.search.estimators import fit_directions
from vectomy.workflows.heal.heal_measurements import MODELS
from vectomy.workflows.heal.heal_model import heal_model

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from train_demo_adapter import DEEDS, FRAMES

LAYER = 17
SHARED: dict[str, Any] = {
    "preferences": "own",
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "learning_rate": 6e-4,
    "warmup_steps": 4,
    "max_length": 192,
    "own_tokens": 40,
    "answer_tokens": 40,
    "gradient_checkpointing": False,
    "dtype": "bfloat16",
    "device": "cpu",
    "save_steps": 10,
    "batch_tokens": 4096,
}
RUNS: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft", "epochs": 2.25, "micro_batch": 8, "accumulation": 1},
    "dpo": {
        "objective": "dpo",
        "sft_weight": 2.0,
        "epochs": 1.75,
        "limit": 320,
        "micro_batch": 4,
        "accumulation": 2,
    },
}


def damage(out: Path, strength: float) -> Edit:
    """The Edit, made once."""
    file = out / f"edit-{strength:g}.safetensors"
    if not file.exists():
        base = demo_folder()
        chat = load_model(base, device="cpu", dtype="bfloat16", name="demo")
        sides = [
            collect(
                chat, read_unmeasured(Source(prompts=f"bundled:{name}")), sites=["resid_pre"], positions=[-1]
            )
            for name in ("refused", "harmless")
        ]
        direction = fit_directions(*sides, "difference_of_means").at("resid_pre", LAYER, -1)
        about = {
            "behaviour": "refusal",
            "direction": f"difference of means, resid_pre of layer {LAYER}, unprojected",
        }
        Edit.ablation(base, direction, strength=strength, about=about, name="demo").save(file)
    return Edit.load(file)


def prompts(out: Path) -> Path:
    texts = [prompt.text for prompt in read_unmeasured(Source(prompts="bundled:harmless"))]
    texts += [frame.format(deed) for frame in FRAMES for deed in DEEDS]
    file = out / "prompts.json"
    file.write_text(json.dumps(texts, indent=0), encoding="utf-8")
    return file


def table(found: dict[str, Any]) -> str:
    """Markdown: a column for each model, the healed ones side by side."""
    columns: dict[str, dict[str, Any]] = {}
    for name, run in found.items():
        for model in MODELS:
            columns[name if model == MODELS[-1] else model] = run["measures"][model]
    rows = healing_rows({"measures": columns})
    lines = [f"| held-out prompts | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows)])


def heal(name: str, args: argparse.Namespace) -> None:
    """One healing into its folder, in a process of its own: each begins with the memory of none
    before it.
    """
    config = parse_heal(
        {**SHARED, **RUNS[name], "prompts": str(prompts(args.out)), "project": not args.plain}
    )
    edit = damage(args.out, args.strength)
    heal_model("demo", folder(name, args), config, edit=edit, log=lambda line: print(line, flush=True))


def folder(name: str, args: argparse.Namespace) -> Path:
    return Path(args.out) / f"{name}{'-plain' if args.plain else ''}-{args.strength:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", action="store_true", help="without projection")
    parser.add_argument("--strength", type=float, default=1.5, help="of the edit that does the damage")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    parser.add_argument("--one", choices=list(RUNS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.one:
        heal(args.one, args)
        return
    began, found = time.monotonic(), {}
    for name in args.runs:
        again = [
            sys.executable,
            __file__,
            "--out",
            str(args.out),
            "--one",
            name,
            "--strength",
            str(args.strength),
        ]
        subprocess.run([*again, *(["--plain"] if args.plain else [])], check=True)
        label = f"healed by {name}{', plain' if args.plain else ''}"
        found[label] = json.loads((folder(name, args) / "summary.json").read_text(encoding="utf-8"))
        print(found[label]["sentence"], flush=True)
        print(f"{time.monotonic() - began:.0f} s, {_processor():.0f} s of processor time", flush=True)
    print(table(found))
    if args.json:
        kept = ("measures", "outcome", "receipt", "sentence", "seconds", "config", "rows")
        record = {
            "edit": {
                "layer": LAYER,
                "strength": args.strength,
                "sha256": damage(args.out, args.strength).sha256,
            },
            "wall_seconds": round(time.monotonic() - began, 1),
            "processor_seconds": round(_processor(), 1),
            "threads": torch.get_num_threads(),
            "load": list(os.getloadavg()),
            "versions": versions(),
            "runs": {
                name: {**{key: run[key] for key in kept}, "history": run["training"]["history"]}
                for name, run in found.items()
            },
        }
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _processor() -> float:
    """Seconds of the processor that the healings took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
