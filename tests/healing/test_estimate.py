"""The estimate before a training: parameters, steps and memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from healed import damaged, quick, trained
from peft import LoraConfig, get_peft_model
from tiny import Tiny
from transformers import AutoModelForCausalLM

from vectomy.architecture import architecture_of
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.healing.estimate import estimate
from vectomy.healing.machine import resolve_machine
from vectomy.healing.pairs import Pair

TIER = "chat"


def test_the_estimate_counts_what_peft_trains_and_the_steps_that_are_taken(
    tmp_path: Path, tiny_of: Any
) -> None:
    made = trained(tmp_path, epochs=1.0)
    losses = json.loads((tmp_path / "losses.json").read_text())
    arch = architecture_in(Checkpoint.open(damaged()))
    found = estimate(made.config, resolve_machine(made.config), arch, made.pairs, seconds_per_token=1e-3)
    assert (found.steps, found.trained) == (losses["steps"], losses["parameters"])
    assert found.seconds is not None
    assert found.tokens == sum(pair.tokens for pair in made.pairs)
    more = estimate(
        quick(gradient_checkpointing=True),
        resolve_machine(made.config),
        arch,
        made.pairs,
        seconds_per_token=1e-3,
    )
    assert more.seconds is not None
    assert more.seconds > found.seconds
    assert more.memory["activations"] < found.memory["activations"]
    full = estimate(quick(method="full"), resolve_machine(quick(method="full")), arch, made.pairs)
    tiny: Tiny = tiny_of("llama")
    assert full.trained > found.trained
    assert architecture_of(tiny.model).d_model == arch.d_model
    assert "GiB" in str(found)


def kept_for_backward(dropout: float, batch: torch.Tensor) -> int:
    """Bytes that a forward pass in bfloat16 under autocast keeps, with adapters on every matrix,
    beside the weights.
    """
    model = AutoModelForCausalLM.from_pretrained(damaged(), dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear")).train()
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            # Held on to, for another tensor would take the place of one that is gone.
            kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model.base_model.model.model(batch)
    return sum(size for size, _ in kept.values())


def test_the_estimate_counts_what_dropout_keeps_of_every_adapters_input() -> None:
    arch = architecture_in(Checkpoint.open(damaged()))
    pair = Pair(tuple(range(60)), tuple(range(68)))
    batch = torch.randint(0, arch.vocab, (8, 128))

    def estimated(dropout: float) -> int:
        config = quick(objective="sft", dropout=dropout, dtype="bfloat16", micro_batch=8, max_length=128)
        return estimate(config, resolve_machine(config), arch, [pair]).memory["activations"]

    measured = kept_for_backward(0.1, batch) - kept_for_backward(0.0, batch)
    # The first of four blocks reads embeddings, which no gradient goes to: three of its inputs are
    # not kept.
    assert estimated(0.1) - estimated(0.0) == pytest.approx(measured, rel=0.12)
