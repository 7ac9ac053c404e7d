"""SFT, DPO, IPO and ORPO as TRL trainers over token ids.

TRL would render and tokenise rows itself. Ours are the exact ids that the model reads when prompted
(pairs.py), so TRL's data preparation is skipped; losses, reference model, sharding and logging are
TRL's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer import utils as trl_utils

from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.pairs import Pair

__all__ = ["build_arguments", "build_trainer", "score_answers_only"]

IGNORED = -100


def build_arguments(config: HealConfig, out: str, options: Mapping[str, object]) -> Any:
    """TRL's arguments for the objective; `options` are those that the machine decides."""
    shared: dict[str, Any] = {
        "output_dir": out,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "warmup_steps": config.warmup_steps,
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_checkpointing": config.gradient_checkpointing,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm,
        "max_length": config.max_length,
        "seed": config.seed,
        "save_steps": config.save_steps,
        "save_total_limit": 2,
        "logging_steps": config.logging_steps,
        # A non-finite loss must be seen, not replaced by the mean of the others.
        "logging_nan_inf_filter": False,
        "report_to": config.report_to,
        **options,
    }
    if config.objective == "sft":
        return SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True})
    # TRL disables all dropout by default, also that of the adapter, which the recipe uses.
    shared["disable_dropout"] = config.dropout == 0
    if config.objective == "orpo":
        return ORPOConfig(**shared, beta=config.beta, remove_unused_columns=False)
    losses = ["ipo" if config.objective == "ipo" else "sigmoid"]
    weights = [1.0]
    if config.chosen_weight:
        losses, weights = [*losses, "sft"], [*weights, config.chosen_weight]
    return DPOConfig(**shared, beta=config.beta, loss_type=losses, loss_weights=weights)


def build_trainer(
    config: HealConfig,
    model: Any,
    reference: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    arguments: Any,
    adapter: Any,
    callbacks: Sequence[Any],
) -> Any:
    """The trainer of the objective; `adapter` is a LoraConfig, or None to train the weights."""
    shared: JsonObject = {
        "model": model,
        "args": arguments,
        "processing_class": tokenizer,
        "peft_config": adapter,
        "callbacks": list(callbacks),
    }
    if config.objective == "sft":
        return SFTTrainer(train_dataset=Dataset.from_list([_make_sft_row(pair) for pair in pairs]), **shared)
    if config.objective == "orpo":
        return _TokenORPOTrainer(
            train_dataset=Dataset.from_list([_make_orpo_row(pair) for pair in pairs]), **shared
        )
    rows = [
        {
            "prompt_ids": list(pair.prompt),
            "chosen_ids": list(pair.chosen),
            "rejected_ids": list(pair.rejected),
        }
        for pair in pairs
    ]
    return _TokenDPOTrainer(train_dataset=Dataset.from_list(rows), ref_model=reference, **shared)


@contextmanager
def score_answers_only() -> Iterator[None]:
    """Compute logits only at positions of the answers on a CPU too, as TRL does with Triton.

    Without Triton, TRL also computes those of prompts and padding and masks them in the sum: the
    same loss, but the head takes more than twice the time.
    """
    original = getattr(trl_utils, "_use_triton", None)
    if original is None:
        yield
        return
    trl_utils._use_triton = lambda device: device.type == "cpu" or original(device)
    try:
        yield
    finally:
        trl_utils._use_triton = original


class _TokenDPOTrainer(DPOTrainer):
    """DPO and IPO on rows of token ids."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


class _TokenORPOTrainer(ORPOTrainer):
    """ORPO on rows of token ids."""

    def tokenize_row(self, feature: Mapping[str, JsonValue], model: Any = None) -> dict[str, list[int]]:
        return {name: value for name, value in feature.items() if isinstance(value, list)}


def _make_sft_row(pair: Pair) -> dict[str, list[int]]:
    labels = [IGNORED] * len(pair.prompt) + list(pair.chosen)
    return {"input_ids": [*pair.prompt, *pair.chosen], "labels": labels}


def _make_orpo_row(pair: Pair) -> dict[str, str | list[int]]:
    """TRL expects the texts before it tokenises rows; nothing reads them."""
    row: dict[str, str | list[int]] = {
        "prompt": "",
        "chosen": "",
        "rejected": "",
        "prompt_input_ids": list(pair.prompt),
        "prompt_attention_mask": [1] * len(pair.prompt),
    }
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row[f"{name}_input_ids"] = [*pair.prompt, *answer]
        row[f"{name}_attention_mask"] = [1] * (len(pair.prompt) + len(answer))
        row[f"{name}_labels"] = [IGNORED] * len(pair.prompt) + list(answer)
    return row
