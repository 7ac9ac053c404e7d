"""The stages of healing as functions of its workflow; they meet in the files of the folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.core.remaining_time import log_remaining
from vectomy.core.results import HealedNumbers, HealingRows
from vectomy.core.run_config import DEMO_PROMPTS, HUB_PROMPTS, Source
from vectomy.core.run_folder import RunFolder, hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.core.settings_change import RunSettings
from vectomy.core.versions import versions
from vectomy.data.preferences import Preferences
from vectomy.data.prompts import Prompt, read_labelled
from vectomy.data.sources import plain_source
from vectomy.edits.export import bake
from vectomy.healing.estimate import estimate
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.job import ADAPTER, WEIGHTS, Job, training_settings
from vectomy.healing.launching import SHARDED, launch
from vectomy.healing.machine import resolve_machine
from vectomy.healing.merging import check_adapter, merge_training
from vectomy.metrics.judges import describe, open_judge
from vectomy.metrics.prompt_set import sample
from vectomy.report import render_healing, render_healing_card
from vectomy.workflows.heal.heal_examples import build_training_pairs
from vectomy.workflows.heal.heal_inputs import Inputs, compute_protected_directions, find_norms_behind
from vectomy.workflows.heal.heal_measurements import MODELS, TestSets, measure_all
from vectomy.workflows.heal.heal_receipt import measure_receipt
from vectomy.workflows.heal.heal_results import compute_outcome, describe_outcome
from vectomy.workflows.stages import Stage, Workflow

__all__ = ["STAGES", "HealWorkflow", "StageName", "list_heal_stages"]

# They change no result beyond rounding.
IGNORED = ("batch_tokens", "threads", "trust_remote_code", "report_to")
StageName = Literal["edited", "rows", "train", "merge", "measure", "report"]
STAGES: tuple[StageName, ...] = ("edited", "rows", "train", "merge", "measure", "report")


@dataclass(kw_only=True)
class HealWorkflow(Workflow):
    """One healing: what is healed, on what it is trained, and where it is measured."""

    config: HealConfig
    inputs: Inputs
    trained: Path | None = None
    launcher: str | None = None
    processes: int | None = None

    @cached_property
    def source(self) -> Path:
        """The base of the Edit."""
        return self.inputs.base

    @property
    def full(self) -> bool:
        """Whether all weights are trained here, not an adapter."""
        return self.trained is None and resolve_machine(self.config).method == "full"

    @cached_property
    def sets(self) -> TestSets:
        """The prompts that are measured on."""
        defaults = DEMO_PROMPTS if self.model == "demo" else HUB_PROMPTS
        c = self.config
        sides = [
            self._sample(given or defaults[side])
            for side, given in (("positive", c.positive_test), ("negative", c.negative_test))
        ]
        return TestSets(*sides)

    def _sample(self, source: str) -> tuple[Prompt, ...]:
        rows = read_labelled(Source(prompts=source), self.log)
        return tuple(rows[at].prompt for at in sample(len(rows), self.config.test_limit, self.config.seed))

    @cached_property
    def settings(self) -> RunSettings:
        dump = self.config.model_dump(mode="json")
        values = {name: value for name, value in dump.items() if name not in IGNORED}
        values |= {"vectomy": versions()["vectomy"], "model": self.model, "trained": self.trained is not None}
        base, edited, edit = self.inputs.identity
        contents = {
            "the weights of the base": base,
            "the weights of the edited model": edited,
            "the Edit": edit,
            "the file of --preferences": _digest(self.config.preferences),
            "the file of --prompts": _digest(self.config.prompts),
            "the adapter of --trained": self.trained and _adapter_digest(self.trained),
            "the test prompts": hash_of([prompt.to_json() for prompt in self.sets.prompts]),
        }
        return RunSettings(values, {name: digest for name, digest in contents.items() if digest})

    def stored_settings(self) -> RunSettings | None:
        """Also those of a version that wrote no settings.json."""
        summary = self.folder.file("summary.json")
        if (stored := super().stored_settings()) or not summary.is_file():
            return stored
        config = read_json(summary).get("config")
        return RunSettings(config) if isinstance(config, dict) else None

    @property
    def edited(self) -> Path:
        return self.inputs.edited or self.folder.file("edited")

    @property
    def job(self) -> Job:
        return Job(self.folder.file("training"))

    @property
    def learned(self) -> Path:
        """What training made: an adapter, or whole weights."""
        if self.trained is not None:
            return self.trained
        return self.job.folder / (WEIGHTS if self.full else ADAPTER)

    @property
    def healed(self) -> Path:
        """The folder that is measured. An adapter that is not to be merged is merged here for that
        alone.
        """
        return self.folder.file("checkpoint" if self.config.merge else "healed")

    def clear(self, name: str) -> None:
        """Remove what an earlier run with other inputs wrote."""
        shutil.rmtree(self.folder.file(name), ignore_errors=True)


def list_heal_stages(work: HealWorkflow) -> Sequence[Stage[HealWorkflow]]:
    """The stages in their order, with all that each depends on and writes."""
    c = work.config
    learned = f"training/{WEIGHTS if work.full else ADAPTER}"
    trained = None if work.trained is None else _adapter_digest(work.trained)
    rows = {
        "config": training_settings(c),
        "source": _digest(c.preferences),
        "prompts": _digest(c.prompts),
        "held_out": [prompt.to_json() for prompt in work.sets.prompts],
        "trained": trained,
    }
    measured = {name: getattr(c, name) for name in ("judge", "answer_tokens", "tasks", "task_limit")}
    measured |= {"device": c.runtime.device, "dtype": c.runtime.dtype}
    measured |= {} if c.runtime.load_in is None else {"load_in": c.runtime.load_in}
    return (
        Stage("edited", {}, [] if work.inputs.edited is not None else ["edited"], bake_edited),
        Stage(
            "rows",
            rows,
            ["preferences.jsonl", "rows.json", "training/pairs.jsonl", "training/kept_out.safetensors"],
            make_rows,
        ),
        Stage(
            "train",
            {"trained": trained},
            [] if work.trained is not None else ["training/losses.json", learned],
            train_rows,
        ),
        Stage(
            "merge",
            {"merge": c.merge, "trained": trained},
            ["receipt.json", "checkpoint" if c.merge else "healed"],
            merge_trained,
        ),
        Stage("measure", measured, ["measures.json", "completions.jsonl"], measure_models),
        Stage(
            "report",
            {"command": work.command},
            ["summary.json", "report.html", *(["checkpoint/README.md"] if c.merge else [])],
            write_report,
        ),
    )


def bake_edited(work: HealWorkflow) -> None:
    if work.inputs.edited is None:
        assert work.inputs.edit is not None
        work.clear("edited")
        bake(
            work.inputs.edit,
            work.inputs.base,
            work.folder.file("edited"),
            link_untouched=True,
            progress=work.progress,
        )


def make_rows(work: HealWorkflow) -> None:
    c = work.config
    pairs, told, pace = (
        build_training_pairs(c, work.inputs.base, work.edited, work.sets.prompts, work.progress, work.log)
        if work.trained is None
        else ([], Preferences(()), None)
    )
    return_freed_memory()
    edit = work.inputs.edit if c.project else None
    directions = {} if edit is None else compute_protected_directions(edit, work.inputs.base)
    frozen = [] if edit is None else find_norms_behind(edit, work.inputs.base)
    Job.write(work.job.folder, work.edited, c, pairs, directions, frozen)
    write_jsonl(work.folder.file("preferences.jsonl"), (row.to_json() for row in told.rows))
    write_json(
        work.folder.file("rows.json"), {**told.to_json(), "pairs": len(pairs), "seconds_per_token": pace}
    )


def train_rows(work: HealWorkflow) -> None:
    # It imports the optional packages TRL and PEFT.
    from vectomy.healing.training import train

    if work.trained is not None:
        check_adapter(work.trained, Checkpoint.open(work.edited))
        return
    rows = HealingRows.from_json(read_json(work.folder.file("rows.json")))
    _log_rows(work, rows)
    _log_estimate(work, rows.seconds_per_token)
    work.job.drop_other_checkpoints()
    if work.launcher is None:
        train(work.job, log_remaining(work.progress, work.log))
        # The trainer and its model hold each other.
        return_freed_memory()
    else:
        launch(work.job.folder, work.launcher, work.processes)


def _log_rows(work: HealWorkflow, rows: HealingRows) -> None:
    left = "; ".join(f"{count:,} left out: {why}" for why, count in rows.left_out.items())
    work.log(f"{rows.pairs:,} rows to learn from{f' ({left})' if left else ''}")


def _log_estimate(work: HealWorkflow, pace: float | None) -> None:
    count = work.processes or 1
    found = estimate(
        work.config,
        resolve_machine(work.config),
        architecture_in(Checkpoint.open(work.edited)),
        work.job.pairs,
        seconds_per_token=pace,
        processes=count,
        shards=count if work.launcher in SHARDED else 1,
    )
    write_json(work.folder.file("estimate.json"), found.to_json())
    work.log(str(found))
    if work.config.warmup_steps >= found.steps:
        work.log(
            f"the warm-up takes {work.config.warmup_steps} steps and there are {found.steps}: the learning "
            f"rate never comes to {work.config.learning_rate:g}; lower --warmup-steps"
        )


def merge_trained(work: HealWorkflow) -> None:
    work.clear(work.healed.name)
    directions = work.job.protected_directions
    changed = merge_training(
        work.learned, work.edited, work.healed, directions=directions, progress=work.progress
    )
    folders = (work.learned, work.edited, work.healed)
    found = measure_receipt(work.inputs, *folders, directions, work.runtime, work.progress)
    write_json(work.folder.file("receipt.json"), {"changed": len(changed), **found})


def measure_models(work: HealWorkflow) -> None:
    folders = dict(zip(MODELS, (work.inputs.base, work.edited, work.healed), strict=True))
    judge = open_judge(work.config.judge)
    measures, rows = measure_all(folders, work.sets, judge, work.config, work.progress)
    write_json(work.folder.file("measures.json"), {"judge": describe(judge), "models": measures})
    write_jsonl(work.folder.file("completions.jsonl"), rows)


def write_report(work: HealWorkflow) -> None:
    summary = _summarise(work)
    write_json(work.folder.file("summary.json"), summary)
    rows = read_jsonl(work.folder.file("completions.jsonl"))
    pages = {"report.html": render_healing(summary, rows)}
    if work.config.merge:
        pages[f"{work.healed.name}/README.md"] = render_healing_card(summary)
    for name, text in pages.items():
        with write_whole(work.folder.file(name)) as path:
            path.write_text(text, encoding="utf-8", newline="\n")


def _summarise(work: HealWorkflow) -> JsonObject:
    measured = read_json(work.folder.file("measures.json"))
    models = measured["models"]
    numbers = {name: HealedNumbers.from_json(models[name]) for name in MODELS}
    outcome = compute_outcome(numbers)
    edit = work.inputs.edit
    behaviour = str(edit.about.get("behaviour", "refusal")) if edit is not None else "refusal"
    losses = None if work.trained is not None else read_json(work.job.folder / "losses.json")
    costs = work.folder.costs()
    return {
        "format": "vectomy-healing",
        "version": 1,
        "behaviour": behaviour,
        "model": plain_source(work.model),
        "command": work.command,
        "config": work.config.model_dump(mode="json"),
        "edit": None if edit is None else {"sha256": edit.sha256, "about": edit.about},
        "rows": read_json(work.folder.file("rows.json")),
        "training": losses,
        "learned": _where(work.folder, work.healed, work.config.merge),
        "receipt": read_json(work.folder.file("receipt.json")),
        "judge": measured["judge"],
        "models": list(MODELS),
        "measures": models,
        "outcome": outcome.to_json(),
        "sentence": describe_outcome(behaviour, numbers, outcome),
        "seconds": {stage: costs[stage].seconds for stage in STAGES if stage in costs},
        "costs": {stage: costs[stage].to_json() for stage in STAGES if stage in costs},
        "versions": versions(),
    }


def _where(folder: RunFolder, healed: Path, merged: bool) -> str:
    return healed.name if merged else f"training/{ADAPTER}, over edited"


def _digest(source: str) -> str:
    """What a file holds: its name alone does not say whether it has changed."""
    path = Path(source.partition("#")[0]).expanduser()
    return sha256_file(path) if path.is_file() else source


def _adapter_digest(folder: Path) -> str:
    return hash_of([sha256_file(path) for path in sorted(folder.glob("adapter_*")) if path.is_file()])
