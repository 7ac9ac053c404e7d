"""Both sets projected on a direction and in their principal planes, against the hidden states."""

import math
from itertools import pairwise

import pytest
import tiny_chat
import torch
from tiny import LAYERS
from tiny_chat import DAY, NIGHT

from vectomy.metrics.set_separation import PLANES, _spread_layers, separation

TIER = "chat"

POSITIVE, NEGATIVE = tiny_chat.prompts(NIGHT, 5), tiny_chat.prompts(DAY, 6)
DIRECTION = torch.linspace(-1, 2, 32)


def find_taught_direction() -> torch.Tensor:
    """The projected difference of means of the taught model at layer 3, on other prompts."""
    chat, means = tiny_chat.chat(), []
    for prompts in (tiny_chat.prompts(NIGHT, 24, 3), tiny_chat.prompts(DAY, 24, 3)):
        rows = [
            tiny_chat.raw(chat, ids, output_hidden_states=True).hidden_states for ids in chat.tokens(prompts)
        ]
        means.append(torch.stack([row[3][0, -1] for row in rows]).mean(0))
    unit = means[1] / means[1].norm()
    return (means[0] - means[1]) - (means[0] - means[1]) @ unit * unit


def test_separation_is_that_of_the_projected_hidden_states() -> None:
    chat = tiny_chat.chat()
    found = separation(chat, 3 * DIRECTION, "resid_pre", 2, -1, POSITIVE, NEGATIVE, 40)
    unit = DIRECTION / DIRECTION.norm()
    for layer in range(LAYERS):
        sides = []
        for prompts in (POSITIVE, NEGATIVE):
            rows = [
                tiny_chat.raw(chat, ids, output_hidden_states=True).hidden_states
                for ids in chat.tokens(prompts)
            ]
            sides.append(torch.stack([row[layer][0, -1] @ unit for row in rows]))
        row = found.layers[layer]
        assert row.layer == layer
        assert row.positive_mean == pytest.approx(float(sides[0].mean()), abs=1e-4)
        assert row.negative_std == pytest.approx(float(sides[1].std()), abs=1e-4)
        pairs = [(a > b) + 0.5 * (a == b) for a in sides[0].tolist() for b in sides[1].tolist()]
        if layer:
            assert row.auroc == pytest.approx(math.fsum(pairs) / len(pairs))
        if layer == 2:
            assert found.positive == pytest.approx(sides[0].tolist(), abs=1e-4)


def test_separation_on_planted_data() -> None:
    """Before any attention the last token is the same for all: 0.5. The taught direction tells the
    sides apart wholly.
    """
    chat, direction = tiny_chat.chat(), find_taught_direction()
    layers = separation(chat, direction, "resid_pre", 3, -1, POSITIVE, NEGATIVE, 4096).layers
    assert layers[0].auroc == pytest.approx(0.5, abs=0.25)
    assert layers[3].auroc > 0.95
    swapped = separation(chat, -direction, "resid_pre", 3, -1, POSITIVE, NEGATIVE, 4096).layers
    assert swapped[3].auroc == pytest.approx(1 - layers[3].auroc)


@pytest.mark.unit
@pytest.mark.parametrize(("n_layers", "chosen"), [(1, 0), (6, 2), (12, 0), (13, 12), (30, 21), (80, 79)])
def test_planes_are_of_layers_from_first_to_last_and_of_the_chosen_one(n_layers: int, chosen: int) -> None:
    layers = _spread_layers(n_layers, chosen)
    assert chosen in layers
    assert layers == sorted(set(layers))
    assert len(layers) == min(n_layers, PLANES)
    assert (layers[0], layers[-1]) == (0, n_layers - 1)
    gaps = [after - before for before, after in pairwise(layers)]
    assert max(gaps, default=0) <= math.ceil((n_layers - 1) / (PLANES - 2))


def test_each_plane_is_what_the_run_that_chose_its_layer_keeps() -> None:
    chat = tiny_chat.chat()
    planes = separation(chat, DIRECTION, "resid_pre", 2, -1, POSITIVE, NEGATIVE, 4096).planes
    assert [plane.layer for plane in planes] == list(range(LAYERS))
    for layer in (1, 2):
        own = separation(chat, DIRECTION, "resid_pre", layer, -1, POSITIVE, NEGATIVE, 4096).pca
        assert own is not None
        assert planes[layer].direction == pytest.approx(own.direction, abs=1e-6)
        for side in ("positive", "negative"):
            stored, exact = (torch.tensor(getattr(plane, side)) for plane in (planes[layer], own))
            assert stored.allclose(exact, rtol=1e-3)
