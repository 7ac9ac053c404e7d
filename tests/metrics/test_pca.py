"""The principal plane of two sets of activations, against an eigendecomposition of their
covariance.
"""

from __future__ import annotations

import math

import pytest
import tiny_chat
import torch
from tiny_chat import DAY, NIGHT

from vectomy.metrics.pca import principal_components
from vectomy.metrics.set_separation import separation

TIER = "unit"


def sets(count: int = 40, width: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(3)
    shape = torch.linspace(3, 0.1, width)
    positive, negative = (torch.randn(count + extra, width, generator=made) * shape for extra in (0, 7))
    positive = positive + 4 * torch.eye(width)[1]
    return positive, negative, torch.eye(width)[1]


def test_the_plane_is_that_of_the_two_largest_eigenvectors() -> None:
    positive, negative, direction = sets()
    found = principal_components(positive, negative, direction)
    together = torch.cat([positive, negative]).double()
    centred = together - together.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    assert found["explained"] == pytest.approx((values.flip(0)[:2] / values.sum()).tolist())
    placed = torch.tensor(found["positive"] + found["negative"], dtype=torch.float64)
    for axis in range(2):
        vector = vectors[:, -1 - axis]
        expected = centred @ vector
        sign = math.copysign(1, float(expected @ placed[:, axis]))
        torch.testing.assert_close(placed[:, axis], sign * expected)
        assert found["direction"][axis] == pytest.approx(sign * float(vector @ direction.double()))


def test_the_positive_set_lies_on_the_side_of_larger_numbers() -> None:
    positive, negative, direction = sets()
    for one, other in ((positive, negative), (negative, positive)):
        found = principal_components(one, other, direction)
        for axis in range(2):
            means = [
                sum(place[axis] for place in found[side]) / len(found[side])
                for side in ("positive", "negative")
            ]
            assert means[0] > means[1]


def test_level_means_leave_the_sign_to_the_largest_loading() -> None:
    """The same points on both sides: whatever sign the decomposition comes with, the axes are those
    of the loadings.
    """
    positive, _, direction = sets()
    found = principal_components(positive, positive.flip(0), direction)
    for reflected in (-positive, positive):
        again = principal_components(reflected, reflected.flip(0), direction)
        assert again["direction"] == pytest.approx(found["direction"])


def test_a_planted_direction_is_the_first_axis() -> None:
    noise = 0.1 * torch.randn(60, 20, generator=torch.Generator().manual_seed(1))
    planted = torch.nn.functional.normalize(torch.arange(1.0, 21.0), dim=0)
    found = principal_components(noise[:30] + 5 * planted, noise[30:], planted)
    assert found["direction"][0] == pytest.approx(1, abs=1e-3)
    assert found["explained"][0] > 0.95


def test_points_without_extent_have_no_coordinates_there() -> None:
    direction = torch.tensor([1.0, 0.0, 0.0])
    line = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    found = principal_components(line[1:], line[:1], direction)
    assert [place[0] for place in found["positive"] + found["negative"]] == pytest.approx([0, 1, -1])
    assert [place[1] for place in found["positive"]] == [0, 0]
    assert found["explained"] == pytest.approx([1, 0])
    point = principal_components(line[:1], line[:1], direction)
    assert point == {"positive": [[0, 0]], "negative": [[0, 0]], "explained": [0, 0], "direction": [0, 0]}
    assert principal_components(line / 0, line, direction) is None


@pytest.mark.chat
def test_separation_has_the_plane_of_the_hidden_states() -> None:
    chat, direction = tiny_chat.chat(), torch.linspace(-1, 2, 32)
    prompts = tiny_chat.prompts(NIGHT, 5), tiny_chat.prompts(DAY, 6)
    rows = [
        torch.stack(
            [
                tiny_chat.raw(chat, ids, output_hidden_states=True).hidden_states[2][0, -1]
                for ids in chat.tokens(side)
            ]
        )
        for side in prompts
    ]
    expected = principal_components(*rows, direction / direction.norm())
    for batch_tokens in (40, 4096):
        found = separation(chat, 3 * direction, "resid_pre", 2, -1, *prompts, batch_tokens).pca
        assert found is not None
        assert found.explained == pytest.approx(expected["explained"], abs=1e-4)
        assert found.direction == pytest.approx(expected["direction"], abs=1e-3)
        for side in ("positive", "negative"):
            assert torch.tensor(getattr(found, side)).allclose(torch.tensor(expected[side]), atol=1e-3)
