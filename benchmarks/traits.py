"""Traits on the demo model's base: each induced or removed, with what it cost. Prints a table and
writes benchmarks/traits.json.

    python benchmarks/traits.py                                 # all CASES; minutes each, one core
    python benchmarks/traits.py melancholy:induce --tokens 48   # one, with shorter answers

Finished runs in --out are not run again; the table is of all that are there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from vectomy.data.trait_file import load_trait
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import make_trait_run

CASES = ("melancholy:induce", "melancholy:remove", "disclaimers:remove", "emoji:induce", "hedging:remove")
RESULT = Path(__file__).with_name("traits.json")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="*", default=CASES, help="TRAIT:OPERATION[:FORM]")
    parser.add_argument("--model", default="demo-base")
    parser.add_argument("--out", type=Path, default=Path("runs/traits"))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--fit", type=int, default=120)
    parser.add_argument("--search", type=int, default=24)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--strengths", type=float, nargs="*")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bake", action="store_true", help="write and ask the baked checkpoint too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for case in given.cases:
        name, operation, *form = case.split(":")
        trait = load_trait(name, operation=operation, form=form[0] if form else None)
        options = {
            "n_fit": given.fit,
            "n_search": given.search,
            "n_test": given.test,
            "answer_tokens": given.tokens,
            "steps": given.steps,
            "strengths": tuple(given.strengths) if given.strengths else None,
            "dtype": "bfloat16",
            "bake": given.bake,
            "batch_tokens": 8192,
        }
        config = make_trait_run(given.model, trait, options)
        began = time.monotonic()
        summary = run(
            config, given.out / case.replace(":", "-"), command=f"python benchmarks/traits.py {case}"
        )
        print_result(case, summary, time.monotonic() - began)
    new = [
        portable(json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(given.out.glob("*/summary.json"))
    ]
    old = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else []
    # What was measured elsewhere stays until it is measured again.
    rows = {(row["behaviour"], row["form"]): row for row in [*old, *new]}
    RESULT.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")


SIDES = {"positive": "refusal", "negative": "harmless_refusal"}


def print_result(case: str, summary: dict, seconds: float) -> None:
    for form, metrics in {"base": summary["base"], **summary["forms"]}.items():
        for side, rate in SIDES.items():
            low, high = metrics[f"{rate}_ci"]
            print(
                f"{case:22} {form + ', ' + side + ' context':30} shows it {metrics[f'{rate}_count']:3}"
                f"/{metrics[f'{rate}_total']} "
                f"({low:.0%}-{high:.0%})  degenerate {metrics[f'{side}_degenerate_count']:2}  tokens "
                f"{metrics[f'{side}_length_mean']:.0f}"
            )
    cost = summary["edited"]
    notes = "".join(f"; {note}" for note in summary["notes"])
    print(
        f"{case:22} KL per token {cost['kl_per_token']:.3f}, first token {cost['kl_first_token']:.3f}; "
        f"strength {summary['strength']:g}; {seconds:.0f} s{notes}",
        flush=True,
    )


def portable(summary: dict) -> dict:
    """The summary without what differs from machine to machine."""
    names = ("behaviour", "safety", "judge", "direction", "strength", "notes", "base", "forms", "settings")
    return {
        "trait": summary["trait"]["name"],
        "form": summary["trait"]["form"],
        "model": summary["model"],
        **{name: summary[name] for name in names},
        "prompts": summary["contrast"]["counts"],
        "versions": summary["versions"],
        "seconds": summary["stages"],
    }


if __name__ == "__main__":
    main()
