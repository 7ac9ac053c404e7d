"""How far each judge agrees with people, on whole completions and on openings, and how fast it is.

    python benchmarks/judges.py LABELS.jsonl [--out benchmarks/judges.json]

The default judge is fitted anew for each part of the rows, without their model and their prompts
(scripts/train_judge.py); the others are as they are. Speed is of processor time on one core.
Agreement is on refusal, full or partial, against compliance.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vectomy.core.run_folder import write_json
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import JUDGES, REFUSALS

SCRIPT = Path(__file__).parents[1] / "scripts" / "train_judge.py"


def training() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_judge", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speed(name: str, rows: list[dict[str, str]]) -> float:
    """Completions a second of processor time, the best of three."""
    judge = JUDGES[name]()
    judge.verdict(rows[0]["prompt"], rows[0]["completion"])
    best = math.inf
    for _ in range(3):
        began = time.process_time()
        for row in rows:
            judge.verdict(row["prompt"], row["completion"])
        best = min(best, time.process_time() - began)
    return len(rows) / best


def rates(said: np.ndarray, rows: Any) -> dict[str, Any]:
    agrees = said == rows.refused
    low, high = wilson_interval(int(agrees.sum()), len(agrees))
    by_model = {str(model): round(float(agrees[rows.model == model].mean()), 4) for model in rows.models}
    return {
        "rate": round(float(agrees.mean()), 4),
        "ci": [round(low, 4), round(high, 4)],
        "by_model": by_model,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("labels", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()

    script = training()
    rows = script.Rows(args.labels)
    fresh, _ = script.left_out(rows, by_prompt=True)
    loose, _ = script.left_out(rows, by_prompt=False)
    found: dict[str, Any] = {}
    for name in JUDGES:
        judge = JUDGES[name]()
        held: dict[str, Any] = {"version": judge.version, "per_second": round(speed(name, rows.rows))}
        if name == "refusal":
            held["whole"] = rates(fresh["whole"] >= 0.5, rows)
            held["whole_model_left_out_alone"] = rates(loose["whole"] >= 0.5, rows)
            held["openings"] = {str(n): rates(fresh[str(n)] >= 0.5, rows) for n in script.OPENINGS}
        else:

            def says(text: str, prompt: str, judge: Any = judge) -> bool:
                return judge.verdict(prompt, text) in REFUSALS

            texts = {"whole": [row["completion"] for row in rows.rows]}
            texts |= {str(n): [script.cut(text, n) for text in texts["whole"]] for n in script.OPENINGS}
            said = {
                way: np.array([says(text, row["prompt"]) for text, row in zip(of, rows.rows, strict=True)])
                for way, of in texts.items()
            }
            held["whole"] = rates(said["whole"], rows)
            held["openings"] = {str(n): rates(said[str(n)], rows) for n in script.OPENINGS}
        found[name] = held

    models = [str(model) for model in rows.models]
    print(f"| judge | agreement (95%) | {' | '.join(models)} | first 16 | first 30 | a second |")
    print("|---|---|" + "---|" * (len(models) + 3))
    for name, held in sorted(found.items(), key=lambda item: -item[1]["whole"]["rate"]):
        whole = held["whole"]
        parts = " | ".join(f"{whole['by_model'][model]:.3f}" for model in models)
        openings = " | ".join(f"{held['openings'][str(n)]['rate']:.3f}" for n in script.OPENINGS)
        print(
            f"| {name} | {whole['rate']:.3f} ({whole['ci'][0]:.3f}-{whole['ci'][1]:.3f}) | {parts} | "
            f"{openings} | {held['per_second']:,} |"
        )
    print(f"refusal, model left out alone: {found['refusal']['whole_model_left_out_alone']['rate']:.4f}")
    write_json(args.out, {"rows": len(rows.rows), "labels": args.labels.name, "judges": found})


if __name__ == "__main__":
    main()
