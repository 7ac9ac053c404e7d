"""An independent oracle of capture: TransformerLens reads the same stream from the same weights and
tokens.

The package is in the optional extra `oracle`; without it this file is skipped.
`build_bridge_from_module` wraps a model in memory; `boot_transformers` would look a tokenizer up on
the Hub.
"""

import pytest
import torch
from tiny import LAYERS, load, logits, tokens, unit

from vectomy.core.types import SITES
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import ablate, intervene

TIER = "tiny"

builder = pytest.importorskip(
    "transformer_lens.model_bridge.sources._bridge_builder",
    reason="transformer_lens is not installed (pip install 'vectomy[oracle]')",
)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def lens(tiny_of):
    """A bridge around a copy of the tiny llama, since the bridge replaces modules in place."""
    model = load(tiny_of().folder)
    return builder.build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config)


def cached(lens) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return lens.run_with_cache(tokens())[1]


def test_both_run_the_same_function(tiny_of, lens) -> None:
    with torch.no_grad():
        torch.testing.assert_close(lens(tokens()), logits(tiny_of().model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("site", SITES)
def test_capture_reads_the_stream_that_transformer_lens_reads(tiny_of, lens, site: str, layer: int) -> None:
    model, cache = tiny_of().model, cached(lens)
    with capture(model) as stream, torch.no_grad():
        model(tokens())
    torch.testing.assert_close(stream[site, layer], cache[f"blocks.{layer}.hook_{site}"], **CLOSE)
    others = [
        value for point, value in stream.items() if point not in {(site, layer), *same_place(site, layer)}
    ]
    assert all((value - stream[site, layer]).abs().max() > 0.05 for value in others)


def same_place(site: str, layer: int) -> set[tuple[str, int]]:
    """resid_post of a block is resid_pre of the next."""
    return {"resid_post": {("resid_pre", layer + 1)}, "resid_pre": {("resid_post", layer - 1)}}.get(
        site, set()
    )


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_an_intervention_is_a_hook_of_transformer_lens(tiny_of, lens, site: str) -> None:
    change = ablate(unit())
    with torch.no_grad():
        expected = lens.run_with_hooks(
            tokens(), fwd_hooks=[(f"blocks.2.hook_{site}", lambda x, hook: change(x))]
        )
    with intervene(tiny_of().model, {(site, 2): change}):
        found = logits(tiny_of().model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - logits(tiny_of().model)).abs().max() > 0.05


@pytest.mark.parametrize("layer", range(LAYERS))
def test_parts_and_heads_are_those_that_transformer_lens_reads(tiny_of, lens, layer: str) -> None:
    model, cache = tiny_of().model, cached(lens)
    with capture(model, ["attn_out", "mlp_out", "head_z"], [layer]) as values, torch.no_grad():
        model(tokens())
    for site, name in (("attn_out", "hook_attn_out"), ("mlp_out", "hook_mlp_out"), ("head_z", "attn.hook_z")):
        theirs = cache[f"blocks.{layer}.{name}"]
        torch.testing.assert_close(values[site, layer], theirs.reshape(values[site, layer].shape), **CLOSE)


def test_hooks_of_transformer_lens_and_ours_run_in_one_model(tiny_of, lens) -> None:
    """The bridge replaces modules of the model that it wraps, and ours run on that model."""
    model, change = lens.original_model, ablate(unit())
    seen = {}
    with capture(model, ["resid_post"], [2]) as values, torch.no_grad():
        theirs = lens.run_with_hooks(
            tokens(), fwd_hooks=[("blocks.1.hook_resid_post", lambda x, hook: change(x))]
        )
    with intervene(tiny_of().model, {("resid_post", 1): change}):
        expected = logits(tiny_of().model)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)
    with intervene(tiny_of().model, {("resid_post", 1): change}), capture(tiny_of().model) as own:
        logits(tiny_of().model)
    torch.testing.assert_close(values["resid_post", 2], own["resid_post", 2], **CLOSE)
    with intervene(model, {("resid_post", 1): change}), torch.no_grad():
        lens.run_with_hooks(
            tokens(), fwd_hooks=[("blocks.2.hook_resid_post", lambda x, hook: seen.update(x=x.clone()))]
        )
    torch.testing.assert_close(seen["x"], own["resid_post", 2], **CLOSE)
    with torch.no_grad():
        torch.testing.assert_close(lens(tokens()), logits(tiny_of().model), rtol=1e-4, atol=1e-4)
