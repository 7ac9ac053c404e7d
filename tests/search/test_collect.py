"""Collected statistics are those of the stream that transformers itself reports, however the
prompts are batched.
"""

from functools import cache
from typing import Any

import pytest
import tiny_chat
import torch
from tiny import LAYERS, WIDTH, hooked
from tiny_chat import NIGHT

from vectomy.core.errors import ActivationError, PromptError, UsageError
from vectomy.data.prompts import Prompt
from vectomy.hooks.capture import capture
from vectomy.models import load_model
from vectomy.search.collect import collect

TIER = "chat"

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# Lengths 6 to 13, so that batches are padded.
PROMPTS = [
    *tiny_chat.prompts(NIGHT, 4),
    *(Prompt(" ".join(["show", *["the"] * n, "owl"]), "be brief" if n % 2 else None) for n in range(6)),
]


@cache
def expected() -> torch.Tensor:
    """prompt x layer x position x d_model: resid_pre of every layer at the last two tokens, one
    prompt at a time.
    """
    chat = tiny_chat.chat()
    rows = []
    for ids in chat.tokens(PROMPTS):
        hidden = tiny_chat.raw(chat, ids, output_hidden_states=True).hidden_states
        rows.append(torch.stack([layer[0, -2:] for layer in hidden[:LAYERS]]))
    return torch.stack(rows)


@pytest.mark.parametrize("batch_tokens", [1, 30, 4096])
def test_statistics_are_those_of_output_hidden_states(batch_tokens: int) -> None:
    found = collect(
        tiny_chat.chat(),
        PROMPTS,
        sites=["resid_pre"],
        positions=[-2, -1],
        covariance=True,
        samples=True,
        batch_tokens=batch_tokens,
    )
    direct = expected().double()
    assert found.count == len(PROMPTS)
    torch.testing.assert_close(found.mean[0], direct.mean(0), **CLOSE)
    torch.testing.assert_close(found.samples[:, 0], expected(), **CLOSE)
    centred = direct - direct.mean(0)
    covariance = torch.einsum("blpi,blpj->lpij", centred, centred) / len(PROMPTS)
    torch.testing.assert_close(found.covariance[0], covariance, rtol=1e-4, atol=1e-4)


def test_positions_are_kept_in_the_order_that_is_asked() -> None:
    mean = collect(tiny_chat.chat(), PROMPTS, sites=["resid_pre"], positions=[-1, -2]).mean
    torch.testing.assert_close(mean[0], expected().double().mean(0).flip(1), **CLOSE)


def test_resid_post_of_a_layer_is_resid_pre_of_the_next_and_mid_lies_between() -> None:
    found = collect(tiny_chat.chat(), PROMPTS, sites=["resid_post", "resid_mid", "resid_pre"])
    post, mid, pre = found.mean
    torch.testing.assert_close(post[:-1], pre[1:])
    assert found.sites == ("resid_post", "resid_mid", "resid_pre")
    assert not torch.allclose(mid, pre)
    assert not torch.allclose(mid, post)


def test_the_last_resid_post_is_before_the_final_norm() -> None:
    chat = tiny_chat.chat()
    post = collect(chat, PROMPTS[:1], sites=["resid_post"]).mean[0, -1, 0].float()
    normed = tiny_chat.raw(chat, chat.tokens(PROMPTS[:1])[0], output_hidden_states=True).hidden_states[-1][
        0, -1
    ]
    assert not torch.allclose(post, normed, atol=0.1)
    torch.testing.assert_close(chat.model.model.norm(post), normed, **CLOSE)


def test_nothing_is_kept_that_was_not_asked_for() -> None:
    found = collect(tiny_chat.chat(), PROMPTS)
    assert found.covariance is None
    assert found.samples is None
    assert found.mean.shape == (3, LAYERS, 1, WIDTH)
    assert found.mean.dtype == torch.float64


@pytest.mark.parametrize(("layer", "value"), [(0, float("nan")), (2, float("inf"))])
def test_damaged_weights_are_named_by_site_and_layer(layer: int, value: float) -> None:
    """The MLP of `layer` is broken: resid_pre is whole up to that layer and broken from the next
    on.
    """
    chat = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    chat.model.get_submodule(f"model.layers.{layer}.mlp.down_proj").weight.fill_(value)
    with pytest.raises(ActivationError, match=f"resid_pre of layer {layer + 1} contain NaN"):
        collect(chat, PROMPTS, sites=["resid_pre"])
    with pytest.raises(ActivationError, match=f"resid_post of layer {layer} contain NaN"):
        collect(chat, PROMPTS)


def test_a_damaged_attention_is_seen_before_the_mlp() -> None:
    chat = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    chat.model.get_submodule("model.layers.1.self_attn.o_proj").weight[0, 0] = float("nan")
    with pytest.raises(ActivationError, match="resid_mid of layer 1 "):
        collect(chat, PROMPTS)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts; give a list"),
        (PROMPTS[:2], r"the shortest of \d prompts has \d tokens, but positions \[-40\]"),
    ],
    ids=["none", "short"],
)
def test_too_few_tokens_for_the_positions_are_refused(prompts: list[Prompt], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        collect(tiny_chat.chat(), prompts, positions=[-40])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("sites", [["attn_out", "mlp_out"], ["head_z"], ["logits"]])
def test_parts_heads_and_logits_are_collected_as_capture_reads_them(sites: list[str], packed: bool) -> None:
    chat, places = tiny_chat.chat(), [-2, -1]
    stats = collect(
        chat, PROMPTS[:5], sites=sites, positions=places, samples=True, covariance=True, packed=packed
    )
    for row, ids in enumerate(chat.tokens(PROMPTS[:5])):
        with capture(chat, sites, positions=places) as values:
            tiny_chat.raw(chat, ids)
        for (site, layer), value in values.items():
            index = 0 if site == "logits" else layer
            own = stats.samples[row, sites.index(site), index]
            torch.testing.assert_close(own, value[0].flatten(1), rtol=1e-4, atol=1e-4)
    samples = stats.samples.double()
    torch.testing.assert_close(stats.mean, samples.mean(0))
    centred = samples - samples.mean(0)
    spread = torch.einsum("nslpi,nslpj->slpij", centred, centred) / len(samples)
    torch.testing.assert_close(stats.covariance, spread)


def test_sites_of_different_widths_are_collected_one_by_one() -> None:
    for sites in (["resid_pre", "logits"], ["logits", "head_z"]):
        with pytest.raises(UsageError, match="another width"):
            collect(tiny_chat.chat(), PROMPTS[:2], sites=sites)


def test_collecting_leaves_no_hook_also_after_an_error() -> None:
    chat = load_model(tiny_chat.folder(), device="cpu", dtype="float32")
    collect(chat, PROMPTS[:2])
    assert not hooked(chat.model)
    chat.model.model.layers[1].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(ActivationError):
        collect(chat, PROMPTS[:2])
    assert not hooked(chat.model)


@pytest.mark.parametrize("positions", [(-1,), (-2, -1)])
def test_packs_give_the_statistics_of_ordinary_rows(positions: tuple[int, ...]) -> None:
    chat, prompts = (
        tiny_chat.chat(),
        [*tiny_chat.prompts(tiny_chat.NIGHT, 9), *tiny_chat.prompts(tiny_chat.DAY, 4)],
    )
    wanted: dict[str, Any] = {"positions": positions, "covariance": True, "samples": True}
    block, widths = chat.model.get_submodule(chat.architecture.block(0)), []
    handle = block.register_forward_hook(lambda _m, _a, output: widths.append(tuple(output.shape[:2])))
    plain = collect(chat, prompts, **wanted)
    ordinary = sum(rows * width for rows, width in widths)
    widths.clear()
    packed = collect(chat, prompts, packed=True, **wanted)
    handle.remove()
    # The last pass; the ones before compare a pack with ordinary rows.
    assert widths[-1][0] == 1
    assert widths[-1][1] < 0.9 * ordinary
    assert packed.count == plain.count
    for one, other in (
        (packed.mean, plain.mean),
        (packed.covariance, plain.covariance),
        (packed.samples, plain.samples),
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_positions_that_all_prompts_share_are_not_packed_apart() -> None:
    """With as many positions as the shortest prompt has tokens, the shared beginning is asked for
    too.
    """
    chat, prompts = tiny_chat.chat(), tiny_chat.prompts(tiny_chat.NIGHT, 3)
    every = tuple(range(-min(map(len, chat.tokens(prompts))), 0))
    one, other = (collect(chat, prompts, positions=every, packed=packed) for packed in (True, False))
    torch.testing.assert_close(one.mean, other.mean)
