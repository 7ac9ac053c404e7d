"""Logits from last hidden states are the model's own, scaled and capped as it does it."""

import pytest
import torch
from zoo import ZOO, zoo_model, zoo_tokens

from vectomy.core.errors import ModelError
from vectomy.models.head import logits_of

TIER = "zoo"

# Of random weights, logits are too small for a cap to show: it is lowered. The others scale theirs.
SCALED = {
    "gemma2": {"final_logit_softcapping": 0.5},
    "gemma3_text": {"final_logit_softcapping": 0.5},
    "gemma3n_text": {"final_logit_softcapping": 0.5},
    "vaultgemma": {"final_logit_softcapping": 0.5},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "granitemoe": {"logits_scaling": 8.0},
    "granitemoeshared": {"logits_scaling": 8.0},
    "granitemoehybrid": {"logits_scaling": 8.0},
    "falcon_h1": {"lm_head_multiplier": 3.0},
    "nanochat": {"final_logit_softcapping": 0.5},
}


@pytest.mark.parametrize(
    "label", [label for label in SCALED if label in ZOO] + ["llama", "gpt2", "qwen3_moe"]
)
def test_logits_are_the_model_s_own(label: str) -> None:
    changes = SCALED.get(label, {})
    model = zoo_model(label)
    for name, value in changes.items():
        setattr(model.config, name, value)
        # Some read their configuration once.
        if hasattr(model, name):
            setattr(model, name, value)
    ids = zoo_tokens()
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        plain = model.get_output_embeddings()(hidden)
    assert bool(changes) == ((plain - own).abs().max() > 0.01 * own.abs().max()).item()
    states = hidden[:, 2:].reshape(-1, hidden.shape[-1]).requires_grad_()
    found = logits_of(model, states)
    torch.testing.assert_close(found.detach(), own[:, 2:].flatten(0, 1), rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    assert states.grad is not None
    assert states.grad.any()
    # What stood in for the base model is gone.
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits.detach(), own)


@pytest.mark.parametrize("label", [label for label in ZOO if not label.startswith("llama4")])
def test_they_are_on_every_architecture(label: str) -> None:
    """Llama 4's base model is the whole of it, and gives no last hidden states."""
    model, ids = zoo_model(label), zoo_tokens()
    with torch.no_grad():
        own = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(logits_of(model, hidden), own, rtol=1e-4, atol=1e-5)


def test_a_model_that_does_not_go_on_from_hidden_states_is_refused() -> None:
    model = zoo_model("llama")

    def forward(**inputs: object) -> None:
        raise TypeError("no such input")

    model.forward = forward
    with pytest.raises(ModelError, match="'llama' does not take last hidden states"):
        logits_of(model, torch.zeros(2, model.config.hidden_size))


def test_memory_that_runs_out_is_not_taken_for_such_a_model() -> None:
    model = zoo_model("llama")

    def run_out(**inputs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.forward = run_out
    with pytest.raises(torch.OutOfMemoryError):
        logits_of(model, torch.zeros(2, model.config.hidden_size))


def test_no_block_runs_to_find_out() -> None:
    """The first call may come while a pass of the caller's is paused or goes on in the middle of
    the model.
    """
    model = zoo_model("gemma2")
    for block in model.model.layers:
        block.register_forward_pre_hook(lambda *args: pytest.fail("a block ran"))
    logits_of(model, torch.zeros(2, model.config.hidden_size))
