"""Train a job to its end: load, add the adapter, project, step, save.

Runs in one process, or in each of several under `accelerate launch`. A killed job resumes from its
last whole checkpoint.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
from transformers import PrinterCallback

from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.checkpoint.lora import LORA_TENSORS
from vectomy.core.errors import ModelError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.core.results import LossRow
from vectomy.core.run_folder import read_json, write_json, write_whole
from vectomy.core.tensor_file import read_tensors
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.job import ADAPTER, RECORD, WEIGHTS, Job, find_last_checkpoint
from vectomy.healing.machine import Machine, is_sharded, resolve_machine
from vectomy.healing.objectives import build_arguments, build_trainer, score_answers_only
from vectomy.healing.projection import (
    PreservedOutput,
    preserve_writer_outputs,
    project_adapter,
    project_adapter_outputs,
    restore_weights,
)
from vectomy.healing.remedies import explain_out_of_memory
from vectomy.healing.trainable_model import freeze_modules, load_for_training, make_lora_config
from vectomy.healing.training_progress import ProgressReporter
from vectomy.models.quiet import quiet

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What losses.json says of a training."""

    steps: int
    history: list[JsonObject]
    """The trainer's rows, one a logged step: loss, learning rate, gradient norm, ..."""
    protected_modules: list[str]
    """Modules whose output was projected."""
    machine: Machine
    parameters: int
    """Trained parameters."""
    identity: str

    def to_json(self) -> JsonObject:
        values = asdict(self)
        values["kept_out"] = values.pop("protected_modules")
        return values


def train(job: Job, progress: Progress = silent) -> TrainingResult:
    """Train to the end, resuming where a killed run stopped.

    Raises:
        ModelError: the model does not load, memory runs out (the message names the setting to
            change), or the loss is not finite.
        ArtifactError: the folder holds checkpoints of another job.
    """
    config = job.config
    machine = resolve_machine(config)
    full = machine.method == "full"
    directions = job.protected_directions
    if full and directions and is_sharded():
        raise ModelError(
            "full training cannot protect the removed directions while the weights are divided over "
            "processes; use --method lora, --launch ddp or zero2, or --no-project"
        )
    job.check_checkpoints()
    with explain_out_of_memory(config, machine), quiet(), _silence_libraries(), score_answers_only():
        # Before the model is loaded: with ZeRO-3 the arguments decide how it is sharded.
        options = {**machine.arguments(), "disable_tqdm": True}
        arguments = build_arguments(config, str(job.checkpoints), options)
        model, tokenizer = load_for_training(job.model, config, machine)
        reference = _load_reference(job.model, config, machine)
        with ExitStack() as hooks:
            preserved: Mapping[str, PreservedOutput] = {}
            if full:
                freeze_modules(model, job)
                preserved = hooks.enter_context(preserve_writer_outputs(model, directions))
            adapter = None if full else make_lora_config(config)
            reporter = ProgressReporter(progress)
            trainer = build_trainer(
                config, model, reference, tokenizer, job.pairs, arguments, adapter, [reporter]
            )
            protected = (
                list(preserved)
                if full
                else hooks.enter_context(project_adapter_outputs(trainer.model, directions))
            )
            trainer.remove_callback(PrinterCallback)
            last = find_last_checkpoint(job.checkpoints)
            if last is not None:
                _restore_token_count(trainer, last)
            with reporter.show(trainer):
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
        _check_finite(trainer.state.log_history)
        return _save(trainer, job, machine, preserved, protected)


def _restore_token_count(trainer: Any, checkpoint: Path) -> None:
    """TRL counts tokens in memory; without this a resumed training would count from 0."""
    rows = read_json(checkpoint / "trainer_state.json").get("log_history", [])
    counts = [row["num_tokens"] for row in rows if "num_tokens" in row]
    if counts:
        trainer._total_train_tokens = int(counts[-1])


@contextmanager
def _silence_libraries() -> Iterator[None]:
    """No progress bars of datasets, and no warnings about names that transformers and TRL use
    internally.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        disabled = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if not disabled:
                datasets.enable_progress_bars()


def _load_reference(model: Path, config: HealConfig, machine: Machine) -> Any:
    """The reference model of DPO and IPO; None where the model without its adapter is the
    reference.
    """
    if machine.method != "full" or config.objective not in ("dpo", "ipo"):
        return None
    return load_for_training(model, config, machine)[0]


def _save(
    trainer: Any,
    job: Job,
    machine: Machine,
    preserved: Mapping[str, PreservedOutput],
    protected: Sequence[str],
) -> TrainingResult:
    """Write the trained part without anything along the protected directions, and the loss curve.
    The first process writes.
    """
    full = machine.method == "full"
    folder = job.folder / (WEIGHTS if full else ADAPTER)
    if full:
        restore_weights(trainer.accelerator.unwrap_model(trainer.model), job.protected_directions, preserved)
    # All processes take part where parameters are sharded.
    trainer.save_model(str(folder))
    result = TrainingResult(
        steps=trainer.state.global_step,
        history=[row for row in trainer.state.log_history if "loss" in row],
        protected_modules=sorted(protected),
        machine=machine,
        parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        identity=job.identity,
    )
    if trainer.is_world_process_zero():
        if not full:
            _project_file(folder / LORA_TENSORS, job)
        (folder / "training_args.bin").unlink(missing_ok=True)
        write_json(folder / RECORD, {"base": fingerprint(Checkpoint.open(job.model))})
        write_json(job.folder / "losses.json", result.to_json())
    return result


def _project_file(file: Path, job: Job) -> None:
    tensors = project_adapter(read_tensors(file)[0], job.protected_directions)
    with write_whole(file) as path:
        safetensors.torch.save_file(tensors, str(path), metadata={"format": "pt"})


def _check_finite(history: Sequence[JsonObject]) -> None:
    for row in map(LossRow.from_json, history):
        if row.loss is not None and not math.isfinite(row.loss):
            raise ModelError(
                f"the loss is {row.loss} at step {row.step}: training has diverged; lower "
                "--learning-rate, or use --dtype float32"
            )
