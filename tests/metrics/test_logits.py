"""First-token scores against arithmetic by hand and torch; the tokens of a behaviour are the
planted ones or refused.
"""

import math

import pytest
import torch

from vectomy.core.errors import SelectionError
from vectomy.metrics.logits import behaviour_tokens, log_odds
from vectomy.models.label_scores import kl_divergence

TIER = "unit"

VOCAB = 12


def rows(*probabilities: dict[int, float]) -> torch.Tensor:
    """Log-probabilities; what is left of 1 is spread over the tokens that are not named."""
    out = torch.empty(len(probabilities), VOCAB)
    for row, named in zip(out, probabilities, strict=True):
        row.fill_((1 - sum(named.values())) / (VOCAB - len(named)))
        for token, value in named.items():
            row[token] = value
    return out.log()


def random_rows(count: int, seed: int) -> torch.Tensor:
    return (3 * torch.randn(count, VOCAB, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


# log odds


@pytest.mark.parametrize(
    ("named", "mass"),
    [({3: 0.5}, 0.5), ({3: 0.7, 4: 0.2}, 0.9), ({3: 0.01}, 0.01), ({3: 0.2, 4: 0.1, 5: 0.6}, 0.9)],
)
def test_log_odds_are_those_of_the_summed_mass(named: dict[int, float], mass: float) -> None:
    found = log_odds(rows(named), sorted(named))
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(math.log(mass / (1 - mass)), abs=1e-5)


def test_log_odds_stay_finite_at_the_ends() -> None:
    """Arditi's epsilon of 1e-8 bounds them: log(1e8) = 18.4."""
    certain = torch.full((2, VOCAB), -math.inf)
    certain[0, 3], certain[1, 4] = 0.0, 0.0
    found = log_odds(certain, [3])
    assert found.tolist() == pytest.approx([math.log(1e8), -math.log(1e8)], rel=1e-6)


def test_a_mass_that_rounding_takes_above_one_is_one() -> None:
    above = torch.log(torch.tensor([[0.5000002, 0.5000002] + [0.0] * (VOCAB - 2)]))
    assert float(log_odds(above, [0, 1])) == pytest.approx(math.log(1e8), rel=1e-6)


# KL


def test_kl_is_torchs_and_never_negative() -> None:
    base, edited = random_rows(200, 1), random_rows(200, 2)
    found = kl_divergence(base, edited)
    expected = torch.nn.functional.kl_div(edited, base, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()
    assert not torch.allclose(found, kl_divergence(edited, base))


def test_kl_by_hand() -> None:
    base, edited = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(kl_divergence(base, edited)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_kl_of_equal_ones_is_zero_and_rounding_never_takes_it_below() -> None:
    base = random_rows(500, 3)
    assert not kl_divergence(base, base).any()
    near = (base.exp() + 1e-8).log().log_softmax(-1)
    assert (kl_divergence(base, near) >= 0).all()


def test_kl_takes_impossible_tokens() -> None:
    """0 log 0 is 0; what the base gives and the edit does not is infinitely far."""
    never, possible = torch.tensor([[-math.inf, 0.0]]), torch.tensor([[0.5, 0.5]]).log()
    assert float(kl_divergence(never, possible)) == pytest.approx(math.log(2))
    assert float(kl_divergence(never, never)) == 0.0
    assert float(kl_divergence(possible, never)) == math.inf


def test_a_broken_edit_is_not_at_distance_zero() -> None:
    """NaN from an edited model must not pass for a perfect one."""
    assert math.isnan(kl_divergence(random_rows(1, 1), torch.full((1, VOCAB), math.nan)))


# The tokens of a behaviour


def test_the_planted_tokens_are_found_and_no_others() -> None:
    """Half the refusals open with token 2 and half with 5; token 7 opens answers of either kind, 9
    only the others.
    """
    positive = rows(*[{2: 0.7, 7: 0.1}] * 10, *[{5: 0.8, 7: 0.1}] * 10)
    negative = rows(*[{9: 0.6, 7: 0.3}] * 20)
    assert sorted(behaviour_tokens(positive, negative)) == [2, 5]


def test_a_token_that_adds_nothing_is_left_out() -> None:
    positive = rows(*[{2: 0.7, 4: 0.2}] * 10)
    assert behaviour_tokens(positive, rows(*[{9: 0.9}] * 10)) == [2]


def test_tokens_together_may_do_what_none_does_alone() -> None:
    """0.4 + 0.3 is above one half on the positive side; their sum is below it on the other."""
    positive = rows(*[{2: 0.55}] * 5, *[{2: 0.4, 5: 0.3}] * 5)
    negative = rows(*[{2: 0.1, 5: 0.05}] * 10)
    assert behaviour_tokens(positive, negative) == [2, 5]


def test_sides_of_unequal_size_count_alike() -> None:
    """Of 4 positives half, of 40 negatives all on their side is 75%, which is just enough."""
    positive = rows(*[{2: 0.9}] * 2, *[{6: 0.9}] * 2)
    negative = rows(*[{6: 0.9}] * 40)
    assert behaviour_tokens(positive, negative) == [2]


ALIKE = {"equal": (random_rows(10, 1), random_rows(10, 1)), "uniform": (rows(*[{}] * 5), rows(*[{}] * 5))}
ALIKE["one opening"] = (rows(*[{2: 0.95}] * 9), rows(*[{2: 0.94}] * 9))
ALIKE["reversed"] = (rows(*[{2: 0.01}] * 9), rows(*[{2: 0.9}] * 9))


@pytest.mark.parametrize("case", ALIKE)
def test_sides_that_open_alike_are_refused(case: str) -> None:
    with pytest.raises(SelectionError, match="--behaviour-tokens"):
        behaviour_tokens(*ALIKE[case])
