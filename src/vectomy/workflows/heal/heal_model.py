"""`vectomy heal`: bake the Edit, make the rows, train, merge, and measure before the edit, after it
and after healing.

Each step is kept in the folder by its inputs; a killed one goes on, training within itself from its
last checkpoint.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.config import DEMO_PROMPTS, HUB_PROMPTS, Source
from vectomy.core.errors import ArtifactError
from vectomy.core.jsonl import read_jsonl, write_jsonl
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import RunFolder, hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.core.versions import versions
from vectomy.data.preferences import Preferences
from vectomy.data.prompts import Prompt, read_labelled
from vectomy.data.sources import plain_source
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.healing.estimate import estimate
from vectomy.healing.heal_config import HealConfig, parse_heal
from vectomy.healing.launching import SHARDED, launch, launch_file
from vectomy.healing.machine import machine_of
from vectomy.healing.merging import check_adapter, merge_learned
from vectomy.healing.training import ADAPTER, WEIGHTS, Job, train, trained_by
from vectomy.metrics.judges import describe, open_judge
from vectomy.metrics.prompt_set import sample
from vectomy.report import render_healing, render_healing_card
from vectomy.workflows.heal.heal_examples import learned_rows
from vectomy.workflows.heal.heal_inputs import Inputs, norms_behind, open_inputs, rows_kept_out
from vectomy.workflows.heal.heal_measurements import MODELS, TestSets, measure_all
from vectomy.workflows.heal.heal_receipt import receipt_of
from vectomy.workflows.heal.heal_results import outcome_of, sentence_of

__all__ = ["STAGES", "StageName", "heal_model"]

StageName = Literal["edited", "rows", "train", "merge", "measure", "report"]
STAGES: tuple[StageName, ...] = ("edited", "rows", "train", "merge", "measure", "report")


def heal_model(
    model: str,
    out: str | Path,
    config: HealConfig | None = None,
    *,
    edit: Edit | None = None,
    base: str | None = None,
    trained: Path | None = None,
    launcher: str | None = None,
    processes: int | None = None,
    until: StageName = "report",
    command: str = "",
    progress: Progress = silent,
    tell: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> dict[str, Any]:
    """Heal into the folder `out`, and return what summary.json says (`{}` when stopped before the
    report).

    Args:
        model: the base of the Edit (a folder, a Hub id or `demo`), or with `base` an edited
            checkpoint.
        trained: an adapter that was trained elsewhere (Axolotl, say), to be merged and measured in
            the place of one trained here.
        launcher: train in several processes (healing/launching.py): ddp, cpu, zero2, zero3, fsdp,
            or a file of accelerate's.
        options: keys of HealConfig, where no whole configuration is given.

    Raises:
        VectomyError: see errors.py; what was finished stays.
    """
    config = parse_heal(options) if config is None else config
    machine_of(config)
    if launcher is not None:
        launch_file(launcher)
    inputs = open_inputs(
        model,
        base,
        edit,
        project=config.project,
        trust_remote_code=config.runtime.trust_remote_code,
        progress=progress,
    )
    resolved = Path(out).resolve()
    if any(
        folder is not None and folder.resolve() in (resolved, *resolved.parents)
        for folder in (inputs.base, inputs.edited)
    ):
        raise ArtifactError(
            f"the output folder {out} is a model folder or lies in one; the input is never touched, choose another --out"
        )
    with RunFolder(Path(out)) as folder:
        work = _Healing(config, folder, inputs, trained, launcher, processes, command, progress, tell)
        digest = hash_of([versions()["vectomy"], inputs.identity])
        for stage in STAGES:
            digest = work.do(stage, digest)
            if stage in folder.reused:
                tell(f"{stage}: done before with the same inputs, not run again")
            if stage == until:
                break
        return dict(read_json(folder.file("summary.json"))) if until == "report" else {}


@dataclass
class _Healing:
    config: HealConfig
    folder: RunFolder
    inputs: Inputs
    trained: Path | None
    launcher: str | None
    processes: int | None
    command: str
    progress: Progress
    tell: Callable[[str], None]

    def do(self, stage: StageName, before: str) -> str:
        return self.folder.stage(stage, before, *self._needs()[stage], getattr(self, f"_{stage}"))

    def _needs(self) -> dict[StageName, tuple[dict[str, Any], list[str]]]:
        """By stage: what it depends on besides the stages before, and what it writes."""
        c = self.config
        learned = f"training/{WEIGHTS if self._full else ADAPTER}"
        given = None if self.trained is None else _adapter_digest(self.trained)
        rows = {
            "config": trained_by(c),
            "source": _digest(c.preferences),
            "prompts": _digest(c.prompts),
            "held_out": [prompt.to_json() for prompt in self.sets.prompts],
        }
        measured = {
            name: getattr(c, name)
            for name in ("judge", "answer_tokens", "tasks", "task_limit", "device", "dtype")
        }
        return {
            "edited": ({}, [] if self.inputs.edited is not None else ["edited"]),
            "rows": (
                {**rows, "trained": given},
                ["preferences.jsonl", "rows.json", "training/pairs.jsonl", "training/kept_out.safetensors"],
            ),
            "train": (
                {"trained": given},
                [] if self.trained is not None else ["training/losses.json", learned],
            ),
            "merge": (
                {"merge": c.merge, "trained": given},
                ["receipt.json", *(["checkpoint"] if c.merge else ["healed"])],
            ),
            "measure": (measured, ["measures.json", "completions.jsonl"]),
            "report": (
                {"command": self.command},
                ["summary.json", "report.html", *(["checkpoint/README.md"] if c.merge else [])],
            ),
        }

    @property
    def _full(self) -> bool:
        return self.trained is None and machine_of(self.config).method == "full"

    @cached_property
    def sets(self) -> TestSets:
        """The prompts that are measured on."""
        defaults = DEMO_PROMPTS if self.inputs.name == "demo" else HUB_PROMPTS
        c = self.config
        sides = [
            self._sampled(given or defaults[side])
            for side, given in (("positive", c.positive_test), ("negative", c.negative_test))
        ]
        return TestSets(*sides)

    def _sampled(self, source: str) -> tuple[Prompt, ...]:
        rows = read_labelled(Source(prompts=source))
        return tuple(rows[at].prompt for at in sample(len(rows), self.config.test_limit, self.config.seed))

    @property
    def edited(self) -> Path:
        return self.inputs.edited or self.folder.file("edited")

    @property
    def job(self) -> Job:
        return Job(self.folder.file("training"))

    @property
    def learned(self) -> Path:
        if self.trained is not None:
            return self.trained
        return self.job.folder / (WEIGHTS if self._full else ADAPTER)

    @property
    def healed(self) -> Path:
        """What is measured. An adapter that is not merged is merged here for that alone."""
        return self.folder.file("checkpoint" if self.config.merge else "healed")

    # The stages

    def _edited(self) -> None:
        if self.inputs.edited is None:
            assert self.inputs.edit is not None
            self._clear("edited")
            bake(
                self.inputs.edit,
                self.inputs.base,
                self.folder.file("edited"),
                link_untouched=True,
                progress=self.progress,
            )

    def _rows(self) -> None:
        c = self.config
        pairs, told, pace = (
            learned_rows(c, self.inputs.base, self.edited, self.sets.prompts, self.progress)
            if self.trained is None
            else ([], Preferences(()), None)
        )
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        edit = self.inputs.edit if c.project else None
        kept = {} if edit is None else rows_kept_out(edit, self.inputs.base)
        standing = [] if edit is None else norms_behind(edit, self.inputs.base)
        Job.write(self.job.folder, self.edited, c, pairs, kept, standing)
        write_jsonl(self.folder.file("preferences.jsonl"), (row.to_json() for row in told.rows))
        write_json(
            self.folder.file("rows.json"), {**told.to_json(), "pairs": len(pairs), "seconds_per_token": pace}
        )

    def _train(self) -> None:
        if self.trained is not None:
            check_adapter(self.trained, Checkpoint.open(self.edited))
            return
        rows = read_json(self.folder.file("rows.json"))
        self._say_rows(rows)
        self._say_estimate(rows["seconds_per_token"])
        self.job.drop_other_checkpoints()
        if self.launcher is None:
            train(self.job, self.progress)
            # The trainer and its model hold each other.
            gc.collect()
        else:
            launch(self.job.folder, self.launcher, self.processes)

    def _say_rows(self, rows: Mapping[str, Any]) -> None:
        left = "; ".join(f"{count:,} left out: {why}" for why, count in rows["left_out"].items())
        self.tell(f"{rows['pairs']:,} rows to learn from{f' ({left})' if left else ''}")

    def _say_estimate(self, pace: float) -> None:
        count = self.processes or 1
        found = estimate(
            self.config,
            machine_of(self.config),
            architecture_in(Checkpoint.open(self.edited)),
            self.job.pairs,
            seconds_per_token=pace,
            processes=count,
            shards=count if self.launcher in SHARDED else 1,
        )
        write_json(self.folder.file("estimate.json"), found.to_json())
        self.tell(str(found))
        if self.config.warmup_steps >= found.steps:
            self.tell(
                f"the warm-up takes {self.config.warmup_steps} steps and there are {found.steps}: the learning rate never comes to "
                f"{self.config.learning_rate:g}; lower --warmup-steps"
            )

    def _merge(self) -> None:
        self._clear(self.healed.name)
        kept_out = self.job.kept_out
        changed = merge_learned(self.learned, self.edited, self.healed, rows=kept_out, progress=self.progress)
        found = receipt_of(self.inputs, self.learned, self.edited, self.healed, kept_out, self.progress)
        write_json(self.folder.file("receipt.json"), {"changed": len(changed), **found})

    def _clear(self, name: str) -> None:
        """What an earlier run with other inputs wrote there."""
        shutil.rmtree(self.folder.file(name), ignore_errors=True)

    def _measure(self) -> None:
        folders = dict(zip(MODELS, (self.inputs.base, self.edited, self.healed), strict=True))
        judge = open_judge(self.config.judge)
        measures, rows = measure_all(folders, self.sets, judge, self.config, self.progress)
        write_json(self.folder.file("measures.json"), {"judge": describe(judge), "models": measures})
        write_jsonl(self.folder.file("completions.jsonl"), rows)

    def _report(self) -> None:
        summary = self._summary()
        write_json(self.folder.file("summary.json"), summary)
        rows = read_jsonl(self.folder.file("completions.jsonl"))
        pages = {"report.html": render_healing(summary, rows)}
        if self.config.merge:
            pages[f"{self.healed.name}/README.md"] = render_healing_card(summary)
        for name, text in pages.items():
            with write_whole(self.folder.file(name)) as path:
                path.write_text(text, encoding="utf-8")

    def _summary(self) -> dict[str, Any]:
        measured = read_json(self.folder.file("measures.json"))
        models = measured["models"]
        outcome = outcome_of(models)
        edit = self.inputs.edit
        behaviour = str(edit.about.get("behaviour", "refusal")) if edit is not None else "refusal"
        losses = None if self.trained is not None else read_json(self.job.folder / "losses.json")
        seconds = self.folder.seconds()
        return {
            "format": "vectomy-healing",
            "version": 1,
            "behaviour": behaviour,
            "model": plain_source(self.inputs.name),
            "command": self.command,
            "config": self.config.model_dump(mode="json"),
            "edit": None if edit is None else {"sha256": edit.sha256, "about": edit.about},
            "rows": read_json(self.folder.file("rows.json")),
            "training": losses,
            "learned": _where(self.folder, self.healed, self.config.merge),
            "receipt": read_json(self.folder.file("receipt.json")),
            "judge": measured["judge"],
            "models": list(MODELS),
            "measures": models,
            "outcome": outcome,
            "sentence": sentence_of(behaviour, models, outcome),
            "seconds": {stage: seconds[stage] for stage in STAGES if stage in seconds},
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
