"""Our search by gradients against Heretic's by trials: what each finds, what it costs, how long it
takes.

    python benchmarks/search.py --heretic HERETIC/bin/python --data DIR --seeds 0 1 2 --trials 45
    --timed-trials 4

Both tools fit on the same prompts, choose on the same prompts, and are measured by our evaluator on
the same others (see SETS). Heretic (`pip install heretic-llm==1.4.0` in an environment of its own)
is driven by heretic_worker.py. For each seed a few of its trials and our whole search take turns on
the machine, which should do nothing else then; its 200 trials are these times extrapolated, and the
JSON says so. Its quality comes from `--trials` trials a seed, which resume where an earlier call
with the same --work stopped. DIR has harmful_ and harmless_ {train,val,test}.jsonl with a field
`text`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search_measure import Meter, check_rendering
from search_picture import frontier, picture
from search_tools import HERE, SETS, Searches, cost_of_trials, sessions, trials, write_prompts

from vectomy.core.run_folder import sha256_file

ROOT = HERE.parent
DEFAULT_TRIALS = 200  # Heretic's own
TOOLS = ("heretic", "vectomy")
LIMITS = (6, 20)
DAMAGES = ("kl_per_token", "kl_first_token")
# Trials that refuse more of 100 search prompts are not measured on the test prompts.
MOST_REFUSALS = 40

# What they found, measured


def as_points(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Heretic's trials with its own scores on the search prompts, as `frontier` takes them."""
    keys = ("refusals", "kl_first_token", "index")
    return [{"trial": trial, "test": {key: trial[key] for key in keys}} for trial in found]


def finalists(found: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Heretic's own front of refusals and KL on its search prompts, thinned to `most` of them, ends
    kept.
    """
    front = [point["trial"] for point in frontier(as_points(found), "kl_first_token")]
    front = [trial for trial in front if trial["refusals"] <= MOST_REFUSALS] or front[:1]
    if len(front) <= most:
        return front
    return [front[round(at * (len(front) - 1) / (most - 1))] for at in range(most)] if most > 1 else front[:1]


def heretic_points(searches: Searches, meter: Meter, seed: int) -> list[dict[str, Any]]:
    """Its finalists, saved by its own menu in one session and measured; with --ours-only, those
    that are measured already.
    """
    chosen = finalists(trials(searches.work, seed), searches.args.most)
    identity = {trial["index"]: [seed, trial["direction_index"], trial["parameters"]] for trial in chosen}
    missing = [index for index, known in identity.items() if not meter.knows_model(known)]
    saved = searches.work / "saved"
    if searches.args.ours_only:
        chosen = [trial for trial in chosen if trial["index"] not in missing]
    elif missing:
        searches.heretic("save", seed, searches.work, "--out", str(saved), "--trial", *map(str, missing))
        weights = {sha256_file(saved / f"trial-{index}" / "model.safetensors") for index in missing}
        if len(weights) < len(missing):
            raise SystemExit(
                f"seed {seed}: Heretic saved {len(missing)} trials as {len(weights)} different models"
            )
    points = []
    for trial in chosen:
        test = meter.of_model(identity[trial["index"]], saved / f"trial-{trial['index']}")
        search = {key: trial[key] for key in ("refusals", "prompts", "kl_first_token")}
        points.append(
            {"tool": "heretic", "seed": seed, "trial": trial["index"], "search": search, "test": test}
        )
    shutil.rmtree(saved, ignore_errors=True)
    return points


def our_points(folder: Path, meter: Meter, seed: int, strengths: Sequence[float]) -> list[dict[str, Any]]:
    """The chosen edit at each strength of the dial, and the points that scores.json lists as
    `frontier`.

    An entry there names its Edit's file within the run folder as `edit`; what else it says is its
    search score.
    """
    scores = json.loads((folder / "scores.json").read_text())
    listed = [entry for entry in scores.get("frontier", []) if "edit" in entry]
    search = next((entry for entry in listed if entry["edit"] == "edit.safetensors"), scores["chosen"])
    named = [("edit.safetensors", strength, search) for strength in strengths]
    named += [(entry["edit"], 1.0, entry) for entry in listed if entry["edit"] != "edit.safetensors"]
    return [
        {
            "tool": "vectomy",
            "seed": seed,
            "edit": file,
            "strength": strength,
            "search": search,
            "test": meter.of_edit(folder / file, strength),
        }
        for file, strength, search in named
    ]


def best(
    points: Sequence[dict[str, Any]], tool: str, seed: int, limit: int, damage: str, count: str
) -> dict[str, Any] | None:
    """The tool's point of least damage among those that refuse at most `limit` test prompts."""
    meets = [p for p in points if p["tool"] == tool and p["seed"] == seed and p["test"][count] <= limit]
    return min(meets, key=lambda point: point["test"][damage], default=None)


def comparison(points: Sequence[dict[str, Any]], seeds: Sequence[int], count: str) -> dict[str, Any]:
    """For each limit and damage: each seed's best of both tools, their medians, and Heretic's over
    ours.
    """
    found: dict[str, Any] = {}
    for limit in LIMITS:
        for damage in DAMAGES:
            row: dict[str, Any] = {}
            for tool in TOOLS:
                chosen = [best(points, tool, seed, limit, damage, count) for seed in seeds]
                row[tool] = [None if point is None else point["test"][damage] for point in chosen]
            known = {tool: [value for value in values if value is not None] for tool, values in row.items()}
            if all(known.values()):
                medians = {tool: statistics.median(values) for tool, values in known.items()}
                row |= {"medians": medians, "ratio": medians["heretic"] / medians["vectomy"]}
            found[f"{damage} at most {limit} refusals"] = row
    return found


def cost_ratios(costs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Heretic's median over ours; where both were measured."""
    keys = ("seconds", "forward_tokens", "generated_tokens", "peak_bytes")
    if not all(costs.values()):
        return {}
    medians = {tool: {k: statistics.median(c[k] for c in of) for k in keys} for tool, of in costs.items()}
    return {k: medians["heretic"][k] / max(1, medians["vectomy"][k]) for k in keys}


# Saying it

HEAD = (
    f"{'':9s}{'seed':>5s} {'point':28s}{'refused':>18s}{'marked':>7s}{'KL/token':>9s}{'KL first':>9s}"
    f"{'harmless':>9s}{'degenerate':>11s}"
)
COST_HEAD = (
    f"{'':9s}{'seed':>5s}{'wall s':>9s}{'forward':>11s}{'+ gradients':>12s}{'generated':>10s}{'peak MB':>8s}"
)


def point_line(tool: str, seed: Any, what: str, test: dict[str, Any] | None) -> str:
    if test is None:
        return f"{tool:9s}{seed!s:>5s} {what:28s}{'none':>18s}"
    low, high = test["interval"]
    refused = f"{test['refusals']}/{test['prompts']} ({100 * low:.0f}-{100 * high:.0f}%)"
    return (
        f"{tool:9s}{seed!s:>5s} {what:28s}{refused:>18s}{test['refusals_by_markers']:7d}"
        f"{test['kl_per_token']:9.4f}"
        f"{test['kl_first_token']:9.4f}{test['harmless_refusals']:9d}{100 * test['degenerate_rate']:10.1f}%"
    )


def cost_line(tool: str, cost: dict[str, Any]) -> str:
    return (
        f"{tool:9s}{cost['seed']:>5d}{cost['seconds']:9.0f}{cost['forward_tokens']:11.0f}"
        f"{cost['forward_tokens_with_gradients']:12.0f}{cost['generated_tokens']:10.0f}"
        f"{cost['peak_bytes'] / 1e6:8.0f}"
    )


def table(result: dict[str, Any]) -> str:
    lines = [HEAD, point_line("base", "", "", result["base"])]
    for tool, seed, limit, damage in itertools.product(TOOLS, result["seeds"], LIMITS, DAMAGES):
        point = best(result["points"], tool, seed, limit, damage, "refusals")
        what = f"<= {limit}, least {damage.removeprefix('kl_')}"
        lines.append(point_line(tool, seed, what, point and point["test"]))
    lines += ["", COST_HEAD]
    lines += [cost_line(tool, cost) for tool in TOOLS for cost in result["costs"][tool]]
    lines += ["", "Heretic's medians over ours:"]
    ratios = {name: row["ratio"] for name, row in result["by_judge"].items() if "ratio" in row}
    lines += [f"{ratio:8.2f}  {name}" for name, ratio in {**ratios, **result["cost_ratios"]}.items()]
    return "\n".join(lines)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "search", help="kept, and gone on with")
    parser.add_argument("--model", type=Path, help="the model's folder (the demo model)")
    parser.add_argument(
        "--called", default="demo: SmolLM2-135M-Instruct, taught to refuse", help="what the model is"
    )
    parser.add_argument("--heretic", type=Path, help="the Python of Heretic's environment")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=45, help="Heretic's trials a seed, for quality")
    parser.add_argument(
        "--timed-trials", type=int, default=4, help="Heretic's trials a seed, for time; 0 for no timing"
    )
    parser.add_argument(
        "--startup", type=int, default=20, help="Heretic's random trials (60 by default, of 200)"
    )
    parser.add_argument(
        "--length", type=int, default=30, help="tokens of an answer in Heretic's trials (100 by default)"
    )
    parser.add_argument(
        "--most", type=int, default=8, help="of Heretic's front, how many are measured a seed"
    )
    parser.add_argument("--recipe", default="gradient")
    parser.add_argument(
        "--ours-options",
        nargs="*",
        default=[],
        help="more options of `vectomy select`, without dashes: key=value",
    )
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0], help="of our chosen edit's dial")
    parser.add_argument("--dtype", default="float32", help="that both search in")
    parser.add_argument(
        "--measured-in", default="float32", help="the precision in which what they found is measured"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--heretic-only", action="store_true")
    parser.add_argument("--reuse", action="store_true", help="take our searches that are in --work already")
    parser.add_argument("--few", type=int, help="a smoke test: this many prompts a set")
    parser.add_argument("--tokens", type=int, default=100, help="greedy tokens of a judged answer")
    parser.add_argument("--out", type=Path, default=HERE / "search.json")
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "search.svg")
    args = parser.parse_args()
    args.work = args.work.resolve()
    args.ours_options = [f"--{option}" for option in args.ours_options]
    if args.heretic is None and not args.ours_only:
        parser.error("--heretic PYTHON is needed, or --ours-only")
    return args


def search(searches: Searches, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Run both, in turns where they are timed; give what each took, by tool, a seed after the
    other.
    """
    for seed in args.seeds:
        if args.timed_trials and not args.ours_only:
            print(f"seed {seed}: {args.timed_trials} trials of Heretic, timed", flush=True)
            searches.time_heretic(seed)
        if not args.heretic_only:
            print(f"seed {seed}: our search", flush=True)
            searches.ours(seed)
    for seed in [] if args.ours_only else args.seeds:
        print(f"seed {seed}: Heretic, up to {args.trials} trials", flush=True)
        searches.more_trials(seed)
    costs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
    for seed in args.seeds:
        measured = sessions(args.work / "timed", seed) or sessions(args.work, seed)
        if measured and measured[0]["trials"]:
            costs["heretic"].append({"seed": seed, **cost_of_trials(measured[0], DEFAULT_TRIALS)})
        ours = args.work / "ours" / f"seed-{seed}.json"
        if ours.exists():
            costs["vectomy"].append({"seed": seed, **json.loads(ours.read_text())})
    return costs


def check_prompts(meter: Meter, work: Path, seed: int) -> bool:
    """Whether Heretic ran at all; it must then have seen the prompts as we render them."""
    file = work / f"seed-{seed}" / "rendered.json"
    if file.exists():
        sets = [
            meter.read(f"{split}-{side}") for split in ("fit", "search") for side in ("positive", "negative")
        ]
        check_rendering(
            meter.chat, [prompt for prompts in sets for prompt in prompts], json.loads(file.read_text())
        )
    return file.exists()


def main() -> None:
    args = read_arguments()
    sizes = write_prompts(args.data, args.work / "prompts", args.few)
    from vectomy.models.demo import demo_folder

    model = args.model or demo_folder()
    searches = Searches(args, model)
    about = searches.about_heretic()
    costs = search(searches, args)
    meter = Meter(
        model,
        args.work / "prompts",
        args.work / "measured",
        about["refusal_markers"],
        args.tokens,
        64,
        args.measured_in,
    )
    points: list[dict[str, Any]] = []
    for seed in args.seeds:
        if check_prompts(meter, args.work, seed):
            points += heretic_points(searches, meter, seed)
        folder = args.work / "ours" / f"seed-{seed}"
        if (folder / "edit.safetensors").exists():
            points += our_points(folder, meter, seed, args.strengths)
        print(f"seed {seed}: measured", flush=True)
    front = {seed: frontier(as_points(trials(args.work, seed)), "kl_first_token") for seed in args.seeds}
    result = {
        "model": args.called,
        "dtypes": {"searches": args.dtype, "measured": args.measured_in},
        "prompts": {"sets": SETS, "sizes": sizes},
        "judged_tokens": args.tokens,
        "kl_over": "the base's own 64-token answers to the harmless test prompts",
        "machine": {
            "processors": os.cpu_count(),
            "threads": args.threads,
            "python": platform.python_version(),
        },
        "versions": {
            "vectomy": version("vectomy"),
            "torch": version("torch"),
            "transformers": version("transformers"),
        },
        "heretic": {
            "versions": about["versions"],
            "defaults": about["defaults"],
            "changed": {
                "n_startup_trials": args.startup,
                "max_response_length": args.length,
                "batch_size": 100,
                "dtypes": [args.dtype],
                "device_map": "cpu",
                "seed": "given",
                "system_prompt": "that of the model's chat template",
            },
            "trials_for_quality": {seed: len(trials(args.work, seed)) for seed in args.seeds},
            "extrapolated": f"seconds and tokens: measured set-up + {DEFAULT_TRIALS} x the median of "
            "the measured trials",
            "timed_in_turns_with_ours": bool(sessions(args.work / "timed", args.seeds[0])),
            "front_on_search_prompts": {
                seed: [point["test"] for point in front[seed]] for seed in args.seeds
            },
        },
        "vectomy": {"recipe": args.recipe, "options": args.ours_options, "edit_measured_as": "hooks"},
        "seeds": args.seeds,
        "costs": costs,
        "cost_ratios": cost_ratios(costs),
        "base": meter.of_base(),
        "by_judge": comparison(points, args.seeds, "refusals"),
        "by_markers": comparison(points, args.seeds, "refusals_by_markers"),
        "points": points,
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    if points:
        args.picture.write_text(picture(points, result["base"]["refusals"], result["base"]["prompts"]))
    print(table(result))


if __name__ == "__main__":
    main()
