"""Train a job to its end: load, wrap, keep out, step, save. One process of it, alone or beside
others under `accelerate launch`.

A job is a folder: job.json (model, configuration), pairs.jsonl, kept_out.safetensors, and what
training makes of it: checkpoints/, losses.json, and adapter/ or weights/. A killed job goes on from
its last whole checkpoint.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
import torch
from peft import LoraConfig
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PrinterCallback, TrainerCallback

from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.core.errors import ArtifactError, ModelError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.healing.heal_config import HealConfig, parse_heal
from vectomy.healing.machine import Machine, machine_of, sharded
from vectomy.healing.objectives import arguments_of, labelled_alone, trainer_of
from vectomy.healing.pairs import Pair, read_pairs, write_pairs
from vectomy.healing.projection import (
    frozen_writers,
    keep_adapter_out,
    keep_weights_out,
    project_adapter,
    restore_weights,
)
from vectomy.healing.remedies import named_memory
from vectomy.models.loading import loading
from vectomy.models.quiet import quiet
from vectomy.models.weights import auto_class

__all__ = ["ADAPTER", "RECORD", "WEIGHTS", "Job", "train", "trained_by"]

ADAPTER, WEIGHTS, RECORD = "adapter", "weights", "vectomy.json"
MEASURED_BY = (
    "merge",
    "positive_test",
    "negative_test",
    "test_limit",
    "judge",
    "answer_tokens",
    "tasks",
    "task_limit",
    "batch_tokens",
    "report_to",
)
TENSORS, STATE = "adapter_model.safetensors", "trainer_state.json"


@dataclass(frozen=True)
class Job:
    """A folder that holds all that training reads."""

    folder: Path

    @classmethod
    def write(
        cls,
        folder: Path,
        model: Path,
        config: HealConfig,
        pairs: Sequence[Pair],
        kept_out: Mapping[str, Tensor],
        standing: Sequence[str] = (),
    ) -> Job:
        """`kept_out` are rows by module (projection.py), `standing` modules that full training
        leaves as they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_pairs(folder / "pairs.jsonl", pairs)
        with write_whole(folder / "kept_out.safetensors") as path:
            # Rows of several modules may be one tensor, which safetensors refuses.
            safetensors.torch.save_file({name: rows.clone() for name, rows in kept_out.items()}, str(path))
        values = {
            "model": os.path.relpath(model.resolve(), folder.resolve()),
            "config": config.model_dump(mode="json"),
            "standing": sorted(standing),
        }
        write_json(folder / "job.json", values)
        return cls(folder)

    @property
    def config(self) -> HealConfig:
        return parse_heal(dict(read_json(self.folder / "job.json")["config"]))

    @property
    def model(self) -> Path:
        return (self.folder / read_json(self.folder / "job.json")["model"]).resolve()

    @property
    def standing(self) -> list[str]:
        return list(read_json(self.folder / "job.json")["standing"])

    @property
    def pairs(self) -> list[Pair]:
        return read_pairs(self.folder / "pairs.jsonl")

    @property
    def kept_out(self) -> dict[str, Tensor]:
        """What to keep what is learned out of, by module; empty where that was not asked for."""
        return dict(safetensors.torch.load_file(self.folder / "kept_out.safetensors"))

    @property
    def identity(self) -> str:
        """Of all that decides what training gives."""
        files = [sha256_file(self.folder / name) for name in ("pairs.jsonl", "kept_out.safetensors")]
        return hash_of([files, trained_by(self.config), fingerprint(Checkpoint.open(self.model))])

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def checkpointed(self) -> str | None:
        """The identity of the job whose checkpoints are here; None without any."""
        file = self.checkpoints / "job.json"
        return str(read_json(file)["identity"]) if file.exists() else None

    def drop_other_checkpoints(self) -> None:
        """Checkpoints of a job with other inputs go; nobody may be training here."""
        if self.checkpointed not in (None, self.identity):
            shutil.rmtree(self.checkpoints)


def trained_by(config: HealConfig) -> dict[str, Any]:
    """The settings that training depends on; the others say how its result is measured and where it
    goes.
    """
    return config.model_dump(mode="json", exclude=set(MEASURED_BY))


def train(job: Job, progress: Progress = silent) -> dict[str, Any]:
    """Train to the end, or go on where a killed run was; give the losses and what was trained.

    Raises:
        ModelError: the model does not load, memory runs out (the message names the setting to
            change), or the loss is not finite.
        ArtifactError: the folder holds checkpoints of another job.
    """
    config = job.config
    machine = machine_of(config)
    if machine.method == "full" and job.kept_out and sharded():
        raise ModelError(
            "the weights are divided over processes, where full training cannot be kept out of the removed directions; use --method lora, "
            "--launch ddp or zero2, or --no-project"
        )
    checkpoints = job.checkpoints
    _check_same(job)
    more = {**machine.arguments(), "disable_tqdm": True}
    with named_memory(config, machine), quiet(), _still(), labelled_alone():
        # Before the model: ZeRO-3 shards it while it is loaded.
        arguments = arguments_of(config, str(checkpoints), more)
        model, tokenizer = _loaded(job.model, config, machine)
        reference = (
            _loaded(job.model, config, machine)[0]
            if machine.method == "full" and config.objective in ("dpo", "ipo")
            else None
        )
        with ExitStack() as held:
            kept = _trainable(held, model, job, machine)
            adapter = None if machine.method == "full" else _lora(config)
            told = _Told(progress)
            trainer = trainer_of(config, model, reference, tokenizer, job.pairs, arguments, adapter, [told])
            out_of = (
                held.enter_context(keep_adapter_out(trainer.model, job.kept_out)) if adapter else list(kept)
            )
            trainer.remove_callback(PrinterCallback)
            last = last_checkpoint(checkpoints)
            with told.shown(trainer):
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
        _check_finite(trainer.state.log_history)
        return _saved(trainer, job, machine, kept, out_of)


@contextmanager
def _still() -> Iterator[None]:
    """No bars of datasets, and no warnings of names that transformers and TRL still use among
    themselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        bars = datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            if not bars:
                datasets.enable_progress_bars()


def _loaded(path: Path, config: HealConfig, machine: Machine) -> tuple[Any, Any]:
    """The model to train, on no device yet where a launcher decides that."""
    more: dict[str, Any] = {}
    if machine.method == "qlora":
        from transformers import BitsAndBytesConfig

        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, machine.dtype),
        )
        more["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    with loading(str(path)):
        trust = config.runtime.trust_remote_code
        known = AutoConfig.from_pretrained(path, trust_remote_code=trust, local_files_only=True)
        model = auto_class(known).from_pretrained(
            path,
            dtype=getattr(torch, machine.dtype),
            attn_implementation=machine.attention,
            trust_remote_code=trust,
            local_files_only=True,
            **more,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust, local_files_only=True)
    model.config.use_cache = False
    return model, tokenizer


def _lora(config: HealConfig) -> LoraConfig:
    modules = config.target_modules
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
        target_modules=modules[0] if len(modules) == 1 and modules[0] == "all-linear" else list(modules),
    )


def _trainable(held: ExitStack, model: Any, job: Job, machine: Machine) -> dict[str, Any]:
    """Full training: which weights stand still, and what the writers go on to write along the
    removed directions.
    """
    if machine.method != "full":
        return {}
    model.requires_grad_(True)
    rows = job.kept_out
    for name in (*frozen_writers(model, rows), *job.standing):
        model.get_submodule(name).requires_grad_(False)
    return held.enter_context(keep_weights_out(model, rows))


def _saved(
    trainer: Any, job: Job, machine: Machine, kept: dict[str, Any], out_of: list[str]
) -> dict[str, Any]:
    """What was trained, with nothing along the directions in it, and the curve; written by one
    process.
    """
    folder = job.folder / (WEIGHTS if machine.method == "full" else ADAPTER)
    if machine.method == "full":
        restore_weights(trainer.accelerator.unwrap_model(trainer.model), job.kept_out, kept)
    # Every process takes part where parameters are sharded.
    trainer.save_model(str(folder))
    history = [row for row in trainer.state.log_history if "loss" in row]
    found = {
        "steps": trainer.state.global_step,
        "history": history,
        "kept_out": sorted(out_of),
        "machine": vars(machine),
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "identity": job.identity,
    }
    if trainer.is_world_process_zero():
        if machine.method != "full":
            file = folder / TENSORS
            tensors = project_adapter(safetensors.torch.load_file(file), job.kept_out)
            with write_whole(file) as path:
                safetensors.torch.save_file(tensors, str(path), metadata={"format": "pt"})
        (folder / "training_args.bin").unlink(missing_ok=True)
        write_json(folder / RECORD, {"base": fingerprint(Checkpoint.open(job.model))})
        write_json(job.folder / "losses.json", found)
    return found


def _check_same(job: Job) -> None:
    """Checkpoints belong to one job; those of another would be gone on from in silence."""
    found, identity = job.checkpointed, job.identity
    if found not in (None, identity):
        raise ArtifactError(
            f"{job.checkpoints} holds checkpoints of a training with other inputs; delete it, or choose another --out"
        )
    if found is None and int(os.environ.get("RANK", "0")) == 0:
        write_json(job.checkpoints / "job.json", {"identity": identity})


def last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole: the state of the trainer is written last."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((path / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return path
    return None


def _check_finite(history: list[dict[str, Any]]) -> None:
    for row in history:
        if not math.isfinite(row.get("loss", 0.0)):
            raise ModelError(
                f"the loss is {row['loss']} at step {row.get('step')}: training has diverged; lower --learning-rate, or use --dtype float32"
            )


class _Told(TrainerCallback):
    """Steps told to a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._advance: Callable[[int], None] = lambda count: None
        self._done = 0

    @contextmanager
    def shown(self, trainer: Any) -> Iterator[None]:
        """A bar for the length of the training, on the first process."""
        total = steps_of(trainer)
        progress = self._progress if trainer.is_world_process_zero() else silent
        with progress("training", total, "steps") as update:
            self._advance = update
            yield

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The first step after a resume stands for those before it.
        self._advance(state.global_step - self._done)
        self._done = state.global_step


def steps_of(trainer: Any) -> int:
    """Optimiser steps in all."""
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    batch = (
        trainer.args.per_device_train_batch_size
        * trainer.args.gradient_accumulation_steps
        * trainer.args.world_size
    )
    return max(1, math.ceil(len(trainer.train_dataset) / batch * trainer.args.num_train_epochs))
