"""Packed weights give the same outputs; hooks run, and the module is as before afterwards."""

import tiny_chat
import torch
from torch import nn

from vectomy.models.packed_linear import pack_linears

TIER = "chat"


def test_packed_layers_give_the_outputs_of_plain_ones_with_hooks() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        layers = nn.Sequential(nn.Linear(48, 80), nn.Linear(80, 32, bias=False)).to(dtype).eval()
        seen: list[int] = []
        layers[0].register_forward_hook(lambda _module, _args, output, seen=seen: seen.append(len(output)))
        inputs = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
        with torch.inference_mode():
            expected = layers(inputs)
            with pack_linears(layers, 8) as packed:
                assert packed
                assert "forward" in layers[0].__dict__
                torch.testing.assert_close(layers(inputs), expected, rtol=tolerance, atol=tolerance)
            assert "forward" not in layers[0].__dict__
            assert torch.equal(layers(inputs), expected)
        assert seen == [2, 2, 2]


def test_what_is_no_plain_layer_stays_as_it_is() -> None:
    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    layers = nn.Sequential(Scaled(8, 8), nn.Linear(8, 8).double(), nn.Linear(8, 8))
    layers[2].forward = lambda input: input
    with pack_linears(layers, 8) as packed:
        assert not packed


def test_answers_are_the_same_with_packed_weights() -> None:
    """At 12 tokens they are packed, at 11 they are not."""
    chat = tiny_chat.chat()
    tokens = chat.tokens([*tiny_chat.prompts(tiny_chat.DAY, 5), *tiny_chat.prompts(tiny_chat.NIGHT, 4)])
    packed, plain = chat.answer(tokens, 12, "auto"), chat.answer(tokens, 11, "auto")
    assert [answer[:11] for answer in packed] == plain
