"""The model of a job, ready for training: precision, quantisation, LoRA, frozen weights."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from vectomy.core.json_value import JsonObject
from vectomy.healing.heal_config import HealConfig
from vectomy.healing.job import Job
from vectomy.healing.machine import Machine
from vectomy.healing.projection import find_composite_writers
from vectomy.models.loading import loading
from vectomy.models.weights import auto_class

__all__ = ["freeze_modules", "load_for_training", "make_lora_config"]


def load_for_training(
    path: Path, config: HealConfig, machine: Machine
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer. The model is on no device yet where a launcher places it.

    Raises:
        ModelError: the model does not load.
    """
    options: JsonObject = {}
    if machine.method == "qlora":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, machine.dtype),
        )
        options["device_map"] = {"": int(os.environ.get("LOCAL_RANK", "0"))}
    with loading(str(path)):
        trust = config.runtime.trust_remote_code
        model_config = AutoConfig.from_pretrained(path, trust_remote_code=trust, local_files_only=True)
        model: PreTrainedModel = auto_class(model_config).from_pretrained(
            path,
            dtype=getattr(torch, machine.dtype),
            attn_implementation=machine.attention,
            trust_remote_code=trust,
            local_files_only=True,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust, local_files_only=True)
    model.config.use_cache = False
    return model, tokenizer


def make_lora_config(config: HealConfig) -> LoraConfig:
    """PEFT's configuration of the adapter."""
    modules = config.target_modules
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        task_type="CAUSAL_LM",
        target_modules=modules[0] if modules == ("all-linear",) else list(modules),
    )


def freeze_modules(model: PreTrainedModel, job: Job) -> None:
    """Full training: train every weight but those of the job's frozen modules and of writers that
    cannot be projected.
    """
    model.requires_grad_(True)
    for name in (*find_composite_writers(model, job.protected_directions), *job.frozen_modules):
        model.get_submodule(name).requires_grad_(False)
