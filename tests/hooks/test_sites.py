"""What attention, MLP and heads give, read and changed; the logits; sites that a model lacks."""

import pytest
import torch
from tiny import LAYERS, MODEL_TYPES, VOCAB, hooked, load, logits, tokens, unit

import vectomy
from vectomy.core.errors import ArchitectureError
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import ablate, intervene

TIER = "tiny"

SUMS = {"rtol": 1e-5, "atol": 1e-5}
PARTS = ["attn_out", "mlp_out", "head_z", "logits"]


def run(model) -> None:
    with torch.no_grad():
        model(tokens())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_parts_add_up_to_the_stream_and_the_heads_to_attention(tiny_of, model_type: str) -> None:
    model = tiny_of(model_type).model
    with capture(model, ["resid_pre", "resid_mid", "resid_post", *PARTS]) as values:
        run(model)
    for layer in range(LAYERS):
        mid = values["resid_pre", layer] + values["attn_out", layer]
        torch.testing.assert_close(values["resid_mid", layer], mid, **SUMS)
        torch.testing.assert_close(values["resid_post", layer], mid + values["mlp_out", layer], **SUMS)
        heads = values["head_z", layer]
        assert heads.shape == (3, 7, 4, 8)
        output = model.model.layers[layer].self_attn.o_proj.weight.unflatten(1, (4, 8))
        total = torch.einsum("bphd,ohd->bpo", heads, output)
        torch.testing.assert_close(total, values["attn_out", layer], **SUMS)
    assert torch.equal(values["logits", -1], logits(model))


def test_a_head_is_read_and_changed_alone(tiny_of) -> None:
    """Zeroing a head's value vectors zeroes its z alone; so does an intervention at its z."""
    model = load(tiny_of("qwen2", num_key_value_heads=4).folder)

    def cut(z: torch.Tensor) -> torch.Tensor:
        z = z.clone()
        z[:, :, 2] = 0
        return z

    with intervene(model, {("head_z", 1): cut}):
        by_hook = logits(model)
    with torch.no_grad():
        attention = model.model.layers[1].self_attn
        attention.v_proj.weight[16:24] = 0
        attention.v_proj.bias[16:24] = 0
    with capture(model, ["head_z"], [1]) as values:
        torch.testing.assert_close(logits(model), by_hook, rtol=1e-4, atol=1e-4)
    z = values["head_z", 1]
    assert float(z[:, :, 2].abs().max()) == 0
    assert float(z[:, :, [0, 1, 3]].abs().amin(dim=(0, 1, 3)).max()) > 0
    assert (by_hook - logits(tiny_of("qwen2", num_key_value_heads=4).model)).abs().max() > 0.05


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_a_part_is_changed_as_its_writer_is_by_an_edit(tiny_of, site: str) -> None:
    """Ablation at the output of a part is the edit of that part's weights."""
    tiny, component = tiny_of(), {"attn_out": "attention", "mlp_out": "mlp"}[site]
    edit = vectomy.Edit.ablation(tiny.folder, unit()).only(layers=[2], components=[component])
    with edit.hooks(tiny.model):
        expected = logits(tiny.model)
    with intervene(tiny.model, {(site, 2): ablate(unit())}):
        torch.testing.assert_close(logits(tiny.model), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(tiny.model)).abs().max() > 0.05


def test_positions_and_layers_of_parts_and_of_logits(tiny_of) -> None:
    model = tiny_of().model
    with capture(model, PARTS) as everything:
        run(model)
    with capture(model, PARTS, layers=2, positions=[-1, 0]) as values:
        run(model)
    assert set(values) == {("logits", -1), *((site, 2) for site in PARTS[:3])}
    assert values["logits", -1].shape == (3, 2, VOCAB)
    assert all(torch.equal(value, everything[point][:, [-1, 0]]) for point, value in values.items())
    assert not hooked(model)


@pytest.mark.zoo
def test_a_layer_without_the_part_says_what_it_has() -> None:
    from zoo import zoo_model

    mamba, opt = zoo_model("mamba"), zoo_model("opt")
    with pytest.raises(ArchitectureError, match="no attention and so no attn_out: it has ssm; choose other"):
        capture(mamba, ["attn_out"]).__enter__()
    assert not hooked(mamba)
    # Its MLP takes all tokens in one list; what is captured has rows and positions.
    with capture(opt, ["resid_pre", "attn_out", "mlp_out", "resid_post"], [1]) as values, torch.no_grad():
        opt(tokens())
    total = values["resid_pre", 1] + values["attn_out", 1] + values["mlp_out", 1]
    torch.testing.assert_close(values["resid_post", 1], total, **SUMS)
    with intervene(opt, {("mlp_out", 1): torch.zeros_like}):
        with capture(opt, ["mlp_out"], [1]) as values, torch.no_grad():
            opt(tokens())
        assert float(values["mlp_out", 1].abs().max()) == 0


def test_hooks_of_others_stay_and_see_what_they_saw(tiny_of) -> None:
    """A hook registered before ours and one after it both run, and both are there afterwards."""
    model, seen = load(tiny_of().folder), []
    block = model.model.layers[2]
    first = block.register_forward_hook(lambda _m, _a, out: seen.append(("first", out.clone())))
    with capture(model, ["resid_post"], [2]) as values:
        second = block.register_forward_hook(lambda _m, _a, out: seen.append(("second", out.clone())))
        run(model)
    with intervene(model, {("resid_post", 2): ablate(unit())}):
        run(model)
    assert len(block._forward_hooks) == 2
    names = [name for name, _ in seen]
    assert names == ["first", "second", "first", "second"]
    assert all(torch.equal(value, values["resid_post", 2]) for _, value in seen[:3])
    first.remove()
    second.remove()
    assert not hooked(model)
    assert torch.equal(logits(model), logits(tiny_of().model))
