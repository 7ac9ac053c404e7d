"""Controls of the search by gradients: the same search along directions that mean nothing, and on
other prompts to fit.

    python benchmarks/search_controls.py --data DIR --seeds 0 1 2

With a fixed direction only the strengths are learned. It is the projected difference of means, a
random direction, or the difference of means of the same prompts with shuffled labels; the last two
show what an edit of so many writers does by itself. The last row learns strengths and direction
from the bundled prompts. DIR is that of search.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from search_measure import Meter
from search_tools import HERE, SIDES, Searches, read_texts, write_prompts

from vectomy.core.jsonl import write_jsonl

ROOT = HERE.parent
# Fixed directions are those of this share of the depth.
READ_AT = 0.6


def shuffled(prompts: Path, folder: Path, seed: int) -> dict[str, Path]:
    """The fit prompts of both sides, dealt to two sides at random."""
    texts = [text for side in SIDES for text in read_texts(prompts / f"fit-{side}.jsonl")]
    random.Random(seed).shuffle(texts)
    folder.mkdir(parents=True, exist_ok=True)
    files = {side: folder / f"shuffled-{seed}-{side}.jsonl" for side in SIDES}
    for at, file in enumerate(files.values()):
        write_jsonl(file, ({"text": text} for text in texts[at :: len(files)]))
    return files


def write_direction(model: Path, sides: dict[str, Path], dtype: str, file: Path) -> str:
    """The projected difference of means of two files of prompts, as a file for --direction."""
    import numpy as np

    from vectomy.data.prompts import Prompt
    from vectomy.models import load_model
    from vectomy.search.collect import collect
    from vectomy.search.estimators import fit_directions

    if not file.exists():
        chat = load_model(model, device="cpu", dtype=dtype)
        read = {side: [Prompt(text) for text in read_texts(path)] for side, path in sides.items()}
        means = [collect(chat, read[side], sites=["resid_pre"]) for side in ("positive", "negative")]
        layer = round(READ_AT * chat.architecture.n_layers)
        np.save(file, fit_directions(*means, "projected").at("resid_pre", layer, -1).numpy())
    return str(file)


def variants(args: argparse.Namespace, model: Path, prompts: Path, seed: int) -> dict[str, list[str]]:
    """More options of `vectomy select`, by what the variant is."""
    folder = args.work / "directions"
    true = {side: prompts / f"fit-{side}.jsonl" for side in SIDES}
    mixed = shuffled(prompts, folder, seed)
    fixed = {
        "difference of means, fixed": write_direction(model, true, args.dtype, folder / "true.npy"),
        "random direction, fixed": f"random:{seed}",
        "shuffled labels, fixed": write_direction(model, mixed, args.dtype, folder / f"shuffled-{seed}.npy"),
    }
    return {name: ["--direction", value, "--no-learn-direction"] for name, value in fixed.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "search", help="that of search.py; kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--bundled-seeds", type=int, nargs="+", help="of the last row, where they are to be others"
    )
    parser.add_argument("--dtype", default="float32", help="that the search runs in")
    parser.add_argument(
        "--measured-in", default="float32", help="the precision in which what it found is measured"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=HERE / "search_controls.json")
    args = parser.parse_args()
    args.work, args.recipe, args.reuse = args.work.resolve(), "gradient", True
    prompts = args.work / "prompts"
    sizes = write_prompts(args.data, prompts, None)
    from vectomy.models.demo import demo_folder

    model = demo_folder()
    meter = Meter(model, prompts, args.work / "measured", [], 100, 64, args.measured_in)
    rows: list[dict[str, Any]] = [{"what": "base", "seed": None, "test": meter.of_base()}]
    runs = [(seed, *one) for seed in args.seeds for one in variants(args, model, prompts, seed).items()]
    bundled = args.seeds if args.bundled_seeds is None else args.bundled_seeds
    runs += [(seed, "fitted on the bundled prompts", None) for seed in bundled]
    for seed, name, options in runs:
        print(f"seed {seed}: {name}", flush=True)
        rows.append({"what": name, "seed": seed, **found(args, model, meter, name, seed, options)})
    args.out.write_text(
        json.dumps(
            {"sizes": sizes, "dtypes": {"searches": args.dtype, "measured": args.measured_in}, "rows": rows},
            indent=1,
        )
        + "\n"
    )
    print(table(rows))


def found(
    args: argparse.Namespace, model: Path, meter: Meter, name: str, seed: int, options: list[str] | None
) -> dict[str, Any]:
    """Search (unless it is there) and measure what was chosen."""
    args.ours_options = options or []
    searches = Searches(args, model)
    searches.work = args.work / "controls" / name.replace(",", "").replace(" ", "-")
    took = searches.ours(seed) if options is not None else searches.ours(seed, bundled=True)
    folder = searches.work / "ours" / f"seed-{seed}"
    scores = json.loads((folder / "scores.json").read_text())
    step = scores["chosen"]["step"]
    search = next(point for point in scores["candidates"] if point["step"] == step)
    return {"seconds": took["seconds"], "search": search, "test": meter.of_edit(folder / "edit.safetensors")}


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.0f}" if row.get("seconds") is not None else "-"


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            f"{'':34s}{'seed':>5s}{'refused':>20s}{'KL/token':>10s}{'KL first':>10s}{'harmless':>10s}"
            f"{'seconds':>9s}"
        )
    ]
    for row in rows:
        test = row["test"]
        low, high = (100 * bound for bound in test["interval"])
        refused = f"{test['refusals']}/{test['prompts']} ({low:.0f}-{high:.0f}%)"
        seed = "" if row["seed"] is None else row["seed"]
        lines.append(
            f"{row['what']:34s}{seed!s:>5s}{refused:>20s}{test['kl_per_token']:10.4f}"
            f"{test['kl_first_token']:10.4f}"
            f"{test['harmless_refusals']:10d}{_seconds(row):>9s}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
