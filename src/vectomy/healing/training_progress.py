"""The steps of a trainer as a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vectomy.core.progress import Progress, silent

__all__ = ["ProgressReporter", "count_steps"]


class ProgressReporter(TrainerCallback):
    """Reports the steps of a trainer to a `Progress`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._update: Callable[[int], None] = lambda count: None
        self._done = 0

    @contextmanager
    def show(self, trainer: Trainer) -> Iterator[None]:
        """Show a bar during the block, on the first process."""
        progress = self._progress if trainer.is_world_process_zero() else silent
        with progress("training", count_steps(trainer), "steps") as update:
            self._update = update
            yield

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After a resume the first step also reports the steps before it.
        self._update(state.global_step - self._done)
        self._done = state.global_step


def count_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole training."""
    args: Any = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    dataset: Any = trainer.train_dataset
    return max(1, math.ceil(len(dataset) / batch * args.num_train_epochs))
