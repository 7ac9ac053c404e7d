"""A training job as a folder: all inputs of a training and all that it writes.

job.json                   model, configuration, frozen modules
pairs.jsonl                token ids to train on
kept_out.safetensors       protected directions by module
checkpoints/               of the trainer; a killed job resumes from the last whole one
losses.json                loss curve and what was trained
adapter/ or weights/       the result
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.core.errors import ArtifactError
from vectomy.core.run_folder import hash_of, read_json, sha256_file, write_json, write_whole
from vectomy.core.tensor_file import read_tensors
from vectomy.core.text_file import read_text
from vectomy.healing.heal_config import HealConfig, parse_heal
from vectomy.healing.pairs import Pair, read_pairs, write_pairs

__all__ = ["ADAPTER", "RECORD", "WEIGHTS", "Job", "find_last_checkpoint", "training_settings"]

ADAPTER, WEIGHTS, RECORD = "adapter", "weights", "vectomy.json"
DIRECTIONS = "kept_out.safetensors"
TRAINER_STATE = "trainer_state.json"
# Settings that decide how the result is measured and where it goes, not what training gives.
NOT_TRAINING = (
    "merge",
    "positive_test",
    "negative_test",
    "test_limit",
    "judge",
    "answer_tokens",
    "tasks",
    "task_limit",
    "batch_tokens",
    "threads",
    "report_to",
)


@dataclass(frozen=True)
class Job:
    """The folder of a job."""

    folder: Path

    @classmethod
    def write(
        cls,
        folder: Path,
        model: Path,
        config: HealConfig,
        pairs: Sequence[Pair],
        protected_directions: Mapping[str, Tensor],
        frozen_modules: Sequence[str] = (),
    ) -> Job:
        """Write the inputs of a training.

        Args:
            model: the folder of the model to train.
            protected_directions: k x d_model orthonormal rows by module (projection.py); empty
                without projection.
            frozen_modules: modules that full training leaves as they are.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_pairs(folder / "pairs.jsonl", pairs)
        with write_whole(folder / DIRECTIONS) as path:
            # Several modules may share one tensor, which safetensors refuses.
            tensors = {name: rows.clone() for name, rows in protected_directions.items()}
            safetensors.torch.save_file(tensors, str(path))
        values = {
            "model": os.path.relpath(model.resolve(), folder.resolve()),
            "config": config.model_dump(mode="json"),
            "standing": sorted(frozen_modules),
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
    def frozen_modules(self) -> list[str]:
        return list(read_json(self.folder / "job.json")["standing"])

    @property
    def pairs(self) -> list[Pair]:
        return read_pairs(self.folder / "pairs.jsonl")

    @property
    def protected_directions(self) -> dict[str, Tensor]:
        """Directions that training must not write along, by module; empty without projection."""
        return read_tensors(self.folder / DIRECTIONS)[0]

    @property
    def identity(self) -> str:
        """Hash of everything that decides the result of the training."""
        files = [sha256_file(self.folder / name) for name in ("pairs.jsonl", DIRECTIONS)]
        return hash_of([files, training_settings(self.config), fingerprint(Checkpoint.open(self.model))])

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def checkpoint_identity(self) -> str | None:
        """The identity of the job that wrote the checkpoints here; None without checkpoints."""
        file = self.checkpoints / "job.json"
        return str(read_json(file)["identity"]) if file.exists() else None

    def check_checkpoints(self) -> None:
        """Claim the checkpoint folder for this job.

        Raises:
            ArtifactError: it holds checkpoints of another job; otherwise training would silently
                resume from them.
        """
        stored, identity = self.checkpoint_identity, self.identity
        if stored not in (None, identity):
            raise ArtifactError(
                f"{self.checkpoints} holds checkpoints of a training with other inputs; delete it, or choose "
                "another --out"
            )
        if stored is None and int(os.environ.get("RANK", "0")) == 0:
            write_json(self.checkpoints / "job.json", {"identity": identity})

    def drop_other_checkpoints(self) -> None:
        """Delete checkpoints of a job with other inputs. No training may be running here."""
        if self.checkpoint_identity not in (None, self.identity):
            shutil.rmtree(self.checkpoints)


def training_settings(config: HealConfig) -> dict[str, object]:
    """The settings that decide the result of a training."""
    # Hashes made before models could be quantised stay valid.
    usual = {"load_in"} if config.runtime.load_in is None else set()
    return config.model_dump(mode="json", exclude={*NOT_TRAINING, *usual})


def find_last_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written whole: the trainer writes its state last."""
    paths = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    for path in sorted(paths, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads(read_text(path / TRAINER_STATE))
        except (OSError, ValueError, RecursionError):
            continue
        return path
    return None
