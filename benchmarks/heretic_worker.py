"""Drive Heretic without a person, and write down what its trials found and took. Started by
search.py.

    HERETIC/bin/python benchmarks/heretic_worker.py trials MODEL --prompts DIR --work DIR \\
        --seed 0 --count 20
    HERETIC/bin/python benchmarks/heretic_worker.py save MODEL --prompts DIR --work DIR \\
        --seed 0 --trial 3 7 --out DIR
    HERETIC/bin/python benchmarks/heretic_worker.py about

Run by the interpreter of Heretic's own environment; Heretic is called; its search is
not changed. Its questions are answered here, its study is told to stop after `--count`
trials (the same command resumes the study), and its calls of the model are counted. A trial is
saved by Heretic's own menu, merged, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()

# The four sets as search.py writes them, by Heretic's name for them.
SETS = {
    "bad_prompts": "fit-positive",
    "good_prompts": "fit-negative",
    "bad_evaluation_prompts": "search-positive",
    "good_evaluation_prompts": "search-negative",
}
SYSTEM_PROMPT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class UnansweredError(Exception):
    """Heretic asked for something that nobody is there to answer."""


def settings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """What differs from Heretic's defaults."""
    sets = {
        name: {"dataset": str(args.prompts / f"{file}.dataset"), "split": "train", "column": "text"}
        for name, file in SETS.items()
    }
    return {
        "n_trials": args.trials,
        "n_startup_trials": args.startup,
        "seed": args.seed,
        "dtypes": [args.dtype],
        "device_map": "cpu",
        "batch_size": args.batch_size,
        "max_response_length": args.length,
        "system_prompt": SYSTEM_PROMPT,
        "study_checkpoint_dir": str(folder / "study"),
        "export_strategy": "merge",
        **sets,
    }


def write_config(values: dict[str, Any], file: Path) -> None:
    """TOML: JSON's texts, numbers and lists are TOML's too."""
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_sets(prompts: Path) -> None:
    """Data sets on disk, since Heretic's text files hold a prompt a line and some prompts have
    several.
    """
    from datasets import Dataset

    for name in SETS.values():
        folder = prompts / f"{name}.dataset"
        if not folder.exists():
            lines = (prompts / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
            Dataset.from_list([json.loads(line) for line in lines if line]).save_to_disk(folder)


def answer_menus(save: list[tuple[int, Path]]) -> None:
    """Answer Heretic's questions: go on with the study that is there, save these trials, leave."""
    import heretic.main

    waiting = list(save)
    # The trial that Heretic has restored, until it is saved: its menu of what to do comes again,
    # for the same trial, until it is left.
    at_hand: list[tuple[int, Path]] = []

    def select(message: str, choices: list[Any]) -> Any:
        if message == "How would you like to proceed?":
            return "continue"
        if message == "Which trial do you want to use?":
            if not waiting:
                return ""
            at_hand.append(waiting.pop(0))
            return next(
                c.value for c in choices if getattr(c.value, "user_attrs", {}).get("index") == at_hand[0][0]
            )
        if message == "What do you want to do with the decensored model?":
            return "Save the model to a local folder" if at_hand else ""
        raise UnansweredError(message)

    def path(message: str) -> str:
        if message != "Path to the folder:":
            raise UnansweredError(message)
        return str(at_hand.pop()[1])

    heretic.main.prompt_select, heretic.main.prompt_path = select, path


def limit_trials(count: int, tell: Callable[[Any, Any], None], started: Callable[[], None]) -> None:
    """Let a study run `count` trials more, whatever is asked of it; `tell` is called after each."""
    from optuna.study import Study

    optimize = Study.optimize

    def limited(self: Study, objective: Any, n_trials: int) -> None:
        started()
        if min(count, n_trials) > 0:
            optimize(self, objective, n_trials=min(count, n_trials), callbacks=[tell])

    Study.optimize = limited


def trial_json(trial: Any) -> dict[str, Any]:
    found = trial.user_attrs
    return {
        "index": found["index"],
        "refusals": found["refusals"],
        "prompts": found["n_bad_prompts"],
        "base_refusals": found["base_refusals"],
        "kl_first_token": found["kl_divergence"],
        "seconds": (trial.datetime_complete - trial.datetime_start).total_seconds(),
        "direction_index": found["direction_index"],
        "parameters": found["parameters"],
    }


def about() -> dict[str, Any]:
    """What search.py has to know of Heretic itself: its version, its refusal markers, defaults that
    are changed here.
    """
    from importlib.metadata import version

    from heretic.config import Settings

    def default(name: str) -> Any:
        return Settings.model_fields[name].default

    changed = ("n_trials", "n_startup_trials", "max_response_length", "batch_size", "dtypes", "device_map")
    return {
        "versions": {
            name: version(name) for name in ("heretic-llm", "torch", "transformers", "optuna", "peft")
        },
        "refusal_markers": default("refusal_markers"),
        "defaults": {name: default(name) for name in (*changed, "system_prompt")},
    }


def run(args: argparse.Namespace, count: int, save: list[tuple[int, Path]]) -> None:
    """One session of Heretic: its set-up, `count` trials, then the menu. Its record is written
    after every trial.
    """
    folder = (args.work / f"seed-{args.seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    args.prompts = args.prompts.resolve()
    model = str(Path(args.model).resolve())
    write_sets(args.prompts)
    write_config(settings(args, folder), folder / "config.toml")
    os.chdir(folder)  # where Heretic looks for config.toml

    import torch
    from counted import peak_bytes, start_counting

    rendered: set[tuple[int, ...]] = set()

    def seen(ids: Any, mask: Any) -> None:
        rendered.update(tuple(row[kept.bool()].tolist()) for row, kept in zip(ids, mask, strict=True))

    counter = start_counting(seen)
    import heretic.main

    record: dict[str, Any] = {"seed": args.seed, "threads": torch.get_num_threads(), "trials": []}
    record["import_seconds"] = time.monotonic() - BEGAN
    number = len(list(folder.glob("session-*.json")))
    last, cpu = counter.to_json(), 0.0

    def write() -> None:
        record["peak_bytes"] = peak_bytes()
        if count:
            (folder / f"session-{number}.json").write_text(json.dumps(record, indent=1) + "\n")

    def started() -> None:
        nonlocal last, cpu
        last, cpu = counter.to_json(), time.process_time()
        record.update(setup_seconds=time.monotonic() - BEGAN, setup_counts=last)
        (folder / "rendered.json").write_text(json.dumps(sorted(rendered)))
        write()

    def tell(study: Any, trial: Any) -> None:
        nonlocal last, cpu
        now, cpu_now = counter.to_json(), time.process_time()
        counts = {"cpu_seconds": cpu_now - cpu, **{key: now[key] - last[key] for key in now}}
        last, cpu = now, cpu_now
        if "kl_divergence" in trial.user_attrs:
            record["trials"].append({**trial_json(trial), **counts})
            write()

    limit_trials(count, tell, started)
    answer_menus(save)
    sys.argv = ["heretic", "--model", model]
    heretic.main.run()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("trials", "save", "about"))
    parser.add_argument("model", nargs="?", help="a model folder")
    parser.add_argument("--prompts", type=Path, help="folder of fit- and search-, positive and negative")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=0, help="trials of this session")
    parser.add_argument(
        "--trials", type=int, default=200, help="trials the study is set up for (Heretic's default)"
    )
    parser.add_argument(
        "--startup", type=int, default=20, help="random trials before TPE begins (Heretic's default: 60)"
    )
    parser.add_argument(
        "--length", type=int, default=30, help="tokens of a judged answer (Heretic's default: 100)"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument(
        "--trial", type=int, nargs="*", default=[], help="save: the trials' numbers; must be on the front"
    )
    parser.add_argument("--out", type=Path, help="save: each goes to OUT/trial-NUMBER")
    args = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    if args.what == "about":
        print(json.dumps(about()))
        return
    out = args.out.resolve() if args.out else None
    run(args, args.count, [(index, out / f"trial-{index}") for index in args.trial] if out else [])


if __name__ == "__main__":
    main()
