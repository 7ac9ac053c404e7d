"""Capture reads the stream itself: transformers' own hidden states, the sums that make resid_mid,
and nothing is left.
"""

import pytest
import torch
from tiny import LAYERS, MODEL_TYPES, WIDTH, hooked, load, logits, tokens, unit

from vectomy.core.errors import ArchitectureError
from vectomy.core.types import SITES
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import add, intervene

TIER = "tiny"

EXACT = {"rtol": 0, "atol": 0}
SUMS = {"rtol": 1e-5, "atol": 1e-5}


@torch.no_grad()
def run(model, **options):
    """A pass; one with output_hidden_states needs a copy, since transformers leaves hooks of its
    own.
    """
    return model(tokens(), **options)


def recorded(modules: dict) -> tuple[dict, list]:
    """Outputs of modules by hooks of the test's own."""
    kept, handles = {}, []
    for name, module in modules.items():
        handles.append(module.register_forward_hook(lambda _m, _a, out, name=name: kept.update({name: out})))
    return kept, handles


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_resid_pre_is_the_hidden_state_of_transformers(tiny_of, model_type: str) -> None:
    model = load(tiny_of(model_type).folder)
    with capture(model) as stream:
        hidden = run(model, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        torch.testing.assert_close(stream["resid_pre", layer], hidden[layer], **EXACT)
        if layer:
            torch.testing.assert_close(stream["resid_post", layer - 1], hidden[layer], **EXACT)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_last_resid_post_is_before_the_final_norm(tiny_of, model_type: str) -> None:
    model = load(tiny_of(model_type).folder)
    with capture(model, ["resid_post"], layers=[LAYERS - 1]) as stream:
        hidden = run(model, output_hidden_states=True).hidden_states
    last = stream["resid_post", LAYERS - 1]
    assert not torch.allclose(last, hidden[-1], atol=0.1)
    torch.testing.assert_close(model.model.norm(last), hidden[-1], **SUMS)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_each_site_is_the_one_before_plus_what_the_writer_adds(tiny_of, model_type: str) -> None:
    model = tiny_of(model_type).model
    blocks = model.model.layers
    kept, handles = recorded(
        {("attention", n): block.self_attn.o_proj for n, block in enumerate(blocks)}
        | {("mlp", n): block.mlp.down_proj for n, block in enumerate(blocks)}
    )
    with capture(model) as stream:
        run(model)
    for handle in handles:
        handle.remove()
    for layer in range(LAYERS):
        mid = stream["resid_pre", layer] + kept["attention", layer]
        torch.testing.assert_close(stream["resid_mid", layer], mid, **SUMS)
        torch.testing.assert_close(stream["resid_post", layer], mid + kept["mlp", layer], **SUMS)
        assert (stream["resid_mid", layer] - stream["resid_pre", layer]).abs().max() > 0.05


def test_only_the_asked_sites_layers_and_positions_are_kept(tiny_of) -> None:
    model = tiny_of().model
    with capture(model) as everything:
        run(model)
    with capture(model, ["resid_mid", "resid_pre"], iter([2, 0]), positions=[-1, 0, -2]) as stream:
        run(model)
    assert set(stream) == {(site, layer) for site in ("resid_mid", "resid_pre") for layer in (0, 2)}
    for point, value in stream.items():
        assert torch.equal(value, everything[point][:, [-1, 0, -2]])


def test_the_latest_pass_is_kept_and_belongs_to_the_caller(tiny_of) -> None:
    model = tiny_of().model
    with capture(model, ["resid_pre"], [1]) as stream:
        model(tokens(seed=8))
        first = stream["resid_pre", 1]
        run(model)
    assert not torch.equal(stream["resid_pre", 1], first)
    assert not first.requires_grad
    with capture(model, ["resid_pre"], [1]) as again:
        # In the middle of block 1: were the value the stream itself, the residual would be zero
        # from here on.
        def spoil(*_) -> None:
            again["resid_pre", 1].zero_()

        handle = model.model.layers[1].self_attn.register_forward_hook(spoil)
        after = logits(model)
    handle.remove()
    assert torch.equal(after, logits(model))


def test_consume_gets_each_value_in_stream_order_and_nothing_is_kept(tiny_of) -> None:
    model, seen = tiny_of().model, []
    with capture(
        model, consume=lambda point, value: seen.append((point, value.shape)), positions=[-1]
    ) as stream:
        run(model)
    assert stream == {}
    assert seen == [((site, layer), (3, 1, WIDTH)) for layer in range(LAYERS) for site in SITES]


def test_capture_within_an_edit_sees_the_changed_stream(tiny_of) -> None:
    tiny, vector = tiny_of(), 5 * unit()
    with capture(tiny.model, layers=[2]) as before:
        run(tiny.model)
    changes = {(site, 2): add(vector) for site in SITES}
    with intervene(tiny.model, changes), capture(tiny.model, layers=[2]) as after:
        run(tiny.model)
    torch.testing.assert_close(after["resid_pre", 2], before["resid_pre", 2] + vector, **SUMS)
    with intervene(tiny.model, {("resid_mid", 2): add(vector)}), capture(tiny.model, layers=[2]) as after:
        run(tiny.model)
    torch.testing.assert_close(after["resid_mid", 2], before["resid_mid", 2] + vector, **SUMS)
    with intervene(tiny.model, {("resid_post", 2): add(vector)}), capture(tiny.model, layers=[2]) as after:
        run(tiny.model)
    torch.testing.assert_close(after["resid_post", 2], before["resid_post", 2] + vector, **SUMS)


def test_capture_changes_nothing_and_leaves_no_hook(tiny_of) -> None:
    model = load(tiny_of().folder)
    with capture(model):
        assert hooked(model)
        assert torch.equal(logits(model), logits(tiny_of().model))
    assert not hooked(model)


def test_hooks_go_when_the_block_or_the_forward_pass_fails(tiny_of) -> None:
    model = load(tiny_of().folder)
    with pytest.raises(ZeroDivisionError), capture(model):
        raise ZeroDivisionError
    assert not hooked(model)

    def stop(_point, _value) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), capture(model, consume=stop):
        run(model)
    assert not hooked(model)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("sites", "layers", "message"),
    [
        (["resid_pre"], [0, LAYERS], "layers 0 to 3"),
        (["resid_pre"], [-1], "layers 0 to 3"),
        (["resid_pre", "resid_last"], [0], "no site 'resid_last'"),
    ],
)
def test_an_unknown_point_is_named_and_leaves_no_hook(
    tiny_of, sites: list, layers: list, message: str
) -> None:
    model = load(tiny_of().folder)
    with pytest.raises(ArchitectureError, match=message), capture(model, sites, layers):
        pass
    assert not hooked(model)


def test_hooks_of_an_edit_go_when_the_block_fails(tiny_of) -> None:
    model = load(tiny_of().folder)
    edit = Edit.ablation(tiny_of().folder, unit(), norm="column")
    with edit.hooks(model):
        assert len(hooked(model)) == 1 + 2 * LAYERS
    with pytest.raises(ZeroDivisionError), edit.hooks(model):
        raise ZeroDivisionError
    assert not hooked(model)
    assert torch.equal(logits(model), logits(tiny_of().model))
