"""A search on weights in 4 and 8 bits, and what its Edit does in full precision.

    python benchmarks/quantised.py --out quantised [--load-in full 8bit 4bit] [--small]

Runs `vectomy run demo` once for each precision of the weights that are searched on, and writes a
table (table.md) and benchmarks/quantised.json: refusals of harmful and harmless test prompts and KL
per token, of the base and the Edit under the weights of the search, and of the baked checkpoint in
full precision. A run that was stopped resumes. Needs the extra `quantised`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vectomy.workflows.run import run

# Of one thread in some minutes a run; the defaults of a run take half an hour in 4 bits.
SMALL = {"n_fit": 64, "n_search": 16, "n_test": 24, "answer_tokens": 32, "steps": 18}
KINDS = ("full", "8bit", "4bit")
VARIANTS = {
    "base": "base, weights of the search",
    "hooks": "Edit as hooks, weights of the search",
    "baked": "baked, weights of the search",
    "base_full": "base, full precision",
    "baked_full": "baked, full precision",
}


def measure(model: str, kind: str, out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one run, by variant. A run that resumes has no processor time of its own."""
    resumed = (out / kind).exists()
    start = time.process_time()
    load_in = None if kind == "full" else kind
    summary = run(model, out / kind, load_in=load_in, log=print, **options)
    forms = {"base": summary["base"], **summary["forms"]}
    return {
        "searched_on": summary["searched_on"],
        "processor_seconds": None if resumed else round(time.process_time() - start, 1),
        "costs": summary.get("costs"),
        "settings": summary["settings"],
        "variants": {name: forms[name] for name in VARIANTS if name in forms},
    }


def table(results: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        "| searched on | variant | harmful refused | harmless refused | degenerate | KL per token |",
        "|---|---|---|---|---|---|",
    ]
    for result in results.values():
        for name, values in result["variants"].items():
            cells = [
                result["searched_on"],
                VARIANTS[name],
                *(share(values, key) for key in ("refusal", "harmless_refusal")),
                f"{values['degenerate_rate']:.1%}",
                f"{values['kl_per_token']:.4f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share(values: Mapping[str, Any], key: str) -> str:
    low, high = values[f"{key}_ci"]
    return f"{values[f'{key}_count']}/{values[f'{key}_total']} ({low * 100:.0f}–{high * 100:.0f}%)"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--load-in", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--small", action="store_true", help="fewer prompts, tokens and steps")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(arguments)
    options = {"device": args.device, **(SMALL if args.small else {})}
    file = args.out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for kind in args.load_in:
        if kind not in results:
            results[kind] = measure(args.model, kind, args.out, options)
            file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(table(results), flush=True)
    results = {kind: results[kind] for kind in KINDS if kind in results}
    (args.out / "table.md").write_text(table(results), encoding="utf-8")
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
