"""Every estimator finds a planted direction, with its sign and length; each is better than the mean
where it claims so.

The sides are Gaussians in d dimensions whose means differ by LENGTH along a planted unit vector; n
samples a side give the difference of means a cosine of LENGTH / sqrt(LENGTH^2 + 2 d s^2 / n) with
the truth.
"""

import math

import pytest
import torch
from tiny import unit

from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.linalg import cosine, normalise
from vectomy.search.activation_stats import ActivationStats
from vectomy.search.estimators import (
    ESTIMATORS,
    NEEDS_SAMPLES,
    Directions,
    difference_of_means,
    explain_loud,
    fit_directions,
    is_loud,
    logistic_probe,
    masked,
    pca_of_differences,
    projected,
    standardised,
    winsorised_mean,
)

TIER = "unit"

D, N, LENGTH = 24, 400, 3.0
PLANTED = unit(7, D).double()


def sides(
    spread: torch.Tensor | float = 1.0, length: float = LENGTH, centre: torch.Tensor | None = None, n: int = N
) -> list[torch.Tensor]:
    """(positive, negative) samples: Gaussian noise around centre + length * planted, and around
    centre.
    """
    generator = torch.Generator().manual_seed(5)
    centre = 4 * unit(8, D).double() if centre is None else centre
    noise = [torch.randn(n, D, generator=generator, dtype=torch.float64) * spread for _ in range(2)]
    return [noise[0] + centre + length * PLANTED, noise[1] + centre]


def held(values: torch.Tensor, keep: bool = True) -> ActivationStats:
    """One site, one layer, one position."""
    shaped = values[:, None, None, None]
    return ActivationStats(
        ("resid_pre",), (-1,), len(values), shaped.mean(0), None, shaped.float() if keep else None
    )


def estimate(name: str, pair: list[torch.Tensor]) -> torch.Tensor:
    return ESTIMATORS[name](held(pair[0]), held(pair[1])).flatten()


def theory(spread: float = 1.0) -> float:
    return LENGTH / math.sqrt(LENGTH**2 + 2 * D * spread**2 / N)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_planted_direction_is_found_with_its_sign_and_length(name: str) -> None:
    centre = 4 * unit(8, D).double()
    # `projected` gives up the part along the negative mean, so the truth is planted beside it.
    aside = normalise(PLANTED - (PLANTED @ normalise(centre)) * normalise(centre))
    positive, negative = sides(centre=centre)
    positive = positive - LENGTH * PLANTED + LENGTH * aside
    found = estimate(name, [positive, negative])
    # The probe's penalty shrinks nothing here, but it weighs samples unevenly.
    assert float(cosine(found, aside)) > (0.95 if name == "logistic_probe" else 0.99 * theory())
    assert float(found.norm()) == pytest.approx(LENGTH, rel=0.1)


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - {"projected"}))
def test_swapping_the_sides_turns_the_direction_round(name: str) -> None:
    positive, negative = sides(centre=torch.zeros(D).double())
    there, back = estimate(name, [positive, negative]), estimate(name, [negative, positive])
    torch.testing.assert_close(there, -back, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_equal_sides_give_zero(name: str) -> None:
    positive, _ = sides()
    found = fit_directions(held(positive), held(positive.clone()), name)
    assert torch.equal(found.vectors, torch.zeros(1, 1, 1, D))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rounding_noise_is_no_direction_and_a_small_difference_is_one(name: str) -> None:
    """Template tokens before any attention are equal up to the order of additions."""
    _, negative = sides()
    noise = 1e-9 * PLANTED
    assert not fit_directions(held(negative + noise), held(negative), "difference_of_means").vectors.any()
    small = fit_directions(held(negative + 1e-3 * PLANTED), held(negative), name).vectors.flatten().double()
    if name != "logistic_probe":
        assert float(cosine(small, PLANTED)) > (0.9 if name != "projected" else 0.8)


def test_difference_of_means_is_exactly_that() -> None:
    positive, negative = sides()
    torch.testing.assert_close(
        estimate("difference_of_means", [positive, negative]),
        positive.mean(0) - negative.mean(0),
        rtol=0,
        atol=1e-12,
    )


def test_projected_is_orthogonal_to_the_negative_mean_and_keeps_the_rest() -> None:
    positive, negative = sides()
    plain, found = (estimate(name, [positive, negative]) for name in ("difference_of_means", "projected"))
    n = normalise(negative.mean(0))
    assert abs(float(found @ n)) < 1e-12
    assert abs(float(plain @ n)) > 0.05
    torch.testing.assert_close(found, plain - (plain @ n) * n)


def test_winsorising_resists_outliers_where_the_mean_fails() -> None:
    """2% of one side lie 400 away along another axis: the mean's error there is 8, nearly three
    times the signal.
    """
    positive, negative = sides()
    outlier = normalise(unit(9, D).double() - (unit(9, D).double() @ PLANTED) * PLANTED)
    positive[: N // 50] += 400 * outlier
    plain, robust = (
        float(cosine(estimate(n, [positive, negative]), PLANTED))
        for n in ("difference_of_means", "winsorised_mean")
    )
    assert plain < 0.5
    assert robust > 0.97


@pytest.mark.parametrize("name", ["masked", "standardised", "projected"])
def test_a_loud_coordinate_owns_the_mean_and_not_the_estimators_for_it(name: str) -> None:
    """One coordinate lies at 4,000 times the median of the others, with a noise of 300: the mean
    of 400 samples is off by 21, seven times the signal. `projected` finds the direction, too:
    the loud coordinate is nearly the whole negative mean, along which it takes nothing.
    """
    positive, negative = sides()
    loud = torch.zeros(D).double()
    loud[3] = 1.0
    quiet = PLANTED - PLANTED[3] * loud
    generator = torch.Generator().manual_seed(1)
    pair = []
    for side in (positive, negative):
        noise = 300 * torch.randn(len(side), 1, generator=generator, dtype=torch.float64)
        pair.append(side - side[:, 3:4] * loud + (3000 + noise) * loud)
    for plain in ("difference_of_means", "winsorised_mean"):
        assert float(cosine(estimate(plain, pair), quiet)) < 0.5
    assert float(cosine(estimate(name, pair), quiet)) > 0.97
    assert is_loud(held(pair[1])).flatten().nonzero().flatten().tolist() == [3]


def test_a_coordinate_that_is_loud_in_the_later_layers_is_explained() -> None:
    """Early layers, from which no direction is taken, do not count."""
    means = torch.randn(1, 10, 1, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    early, late = means.clone(), means.clone()
    early[:, :2, :, 5] = late[:, 6:8, :, 5] = 4000.0
    notes = [
        explain_loud(ActivationStats(("resid_pre",), (-1,), 4, mean, None, None), "projected")
        for mean in (means, early, late)
    ]
    assert notes[:2] == [None, None]
    assert str(notes[2]).startswith(
        "coordinate 5 of the stream is more than 150 times the median in 2 of 6 layers"
    )


def test_without_a_loud_coordinate_masking_changes_nothing() -> None:
    positive, negative = sides()
    assert not is_loud(held(negative)).any()
    found = [estimate(name, [positive, negative]) for name in ("masked", "difference_of_means")]
    assert torch.equal(*found)


def test_standardising_finds_the_best_axis_where_coordinates_differ_in_noise() -> None:
    """With independent coordinates the best axis is difference over variance (Fisher 1936)."""
    spread = torch.logspace(-1, 1, D).double()
    pair = sides(spread=spread)
    separation = {}
    for name in ("difference_of_means", "standardised"):
        unit_axis = normalise(estimate(name, pair))
        means = [float((side @ unit_axis).mean()) for side in pair]
        separation[name] = (means[0] - means[1]) / float((pair[1] @ unit_axis).std())
    best = LENGTH * float((PLANTED / spread).norm())
    assert separation["standardised"] > 3 * separation["difference_of_means"]
    assert separation["standardised"] == pytest.approx(best, rel=0.35)


def test_pca_finds_the_axis_under_a_nuisance_that_both_sides_share() -> None:
    """Pairs (the same request asked two ways) differ by the planted vector alone, whatever they
    have in common.
    """
    _, negative = sides()
    shared = (
        20 * torch.randn(N, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * unit(3, D)
    )
    small = 0.3 * torch.randn(N, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    positive, negative = negative + shared + LENGTH * PLANTED + small, negative + shared
    assert float(cosine(estimate("pca_of_differences", [positive, negative]), PLANTED)) > 0.99
    spread_of_one_side = torch.linalg.svd(positive - positive.mean(0)).Vh[0]
    assert abs(float(cosine(spread_of_one_side, PLANTED))) < 0.5


def test_pca_takes_the_axis_also_where_pairs_differ_by_varying_amounts() -> None:
    _, negative = sides()
    amount = 1 + 4 * torch.rand(N, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = estimate("pca_of_differences", [negative + amount * PLANTED, negative])
    assert float(cosine(found, PLANTED)) > 0.999
    assert float(found.norm()) == pytest.approx(3.0, rel=0.05)


def test_the_probe_beats_the_mean_under_anisotropic_noise() -> None:
    """Noise of 30 along six axes moves the mean's estimate there by 30 sqrt(2 / n) each; the
    boundary ignores them.
    """
    spread = torch.full((D,), 0.5, dtype=torch.float64)
    spread[:6] = 30.0
    aside = torch.zeros(D, dtype=torch.float64)
    aside[10:14] = 0.5
    positive, negative = sides(spread, length=0.0, centre=torch.zeros(D).double())
    positive = positive + LENGTH * aside
    by = {
        n: float(cosine(estimate(n, [positive, negative]), aside))
        for n in ("difference_of_means", "logistic_probe")
    }
    assert by["logistic_probe"] > 0.9
    assert by["difference_of_means"] < by["logistic_probe"] - 0.2


def test_the_probe_weighs_classes_alike_whatever_their_sizes() -> None:
    positive, negative = sides()
    few = logistic_probe(held(positive[:60]), held(negative)).flatten()
    assert float(cosine(few, PLANTED)) > 0.85


@pytest.mark.parametrize("name", sorted(NEEDS_SAMPLES))
def test_estimators_that_need_activations_say_so(name: str) -> None:
    positive, negative = (held(side, keep=False) for side in sides())
    with pytest.raises(ArtifactError, match="needs the activations themselves"):
        ESTIMATORS[name](positive, negative)


def test_an_unknown_name_is_answered_with_the_names() -> None:
    side = held(sides()[0])
    with pytest.raises(UsageError, match=r"no estimator 'mean'; choose from difference_of_means, "):
        fit_directions(side, side, "mean")


@pytest.mark.parametrize("name", sorted(set(ESTIMATORS) - NEEDS_SAMPLES))
def test_the_others_need_only_moments(name: str) -> None:
    positive, negative = (held(side, keep=False) for side in sides())
    assert ESTIMATORS[name](positive, negative).any()


def several(offset: int) -> ActivationStats:
    """Two sites, two layers, two positions, all different."""
    generator = torch.Generator().manual_seed(offset)
    values = torch.randn(40, 2, 2, 2, D, generator=generator) * 0.1 + offset * torch.arange(8.0).view(
        2, 2, 2, 1
    )
    values = values + offset * torch.randn(2, 2, 2, D, generator=generator)
    return ActivationStats(("resid_pre", "resid_mid"), (-2, -1), 40, values.double().mean(0), None, values)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_points_are_estimated_apart_from_each_other(name: str) -> None:
    yes, no = several(2), several(1)
    together = fit_directions(yes, no, name)
    one = ESTIMATORS[name](
        held(yes.samples[:, 1, 0, 1].double()), held(no.samples[:, 1, 0, 1].double())
    ).flatten()
    torch.testing.assert_close(together.at("resid_mid", 0, -1).double(), one, rtol=1e-3, atol=1e-3)


def test_the_functions_are_listed() -> None:
    listed = {difference_of_means, projected, masked, standardised, winsorised_mean}
    listed |= {pca_of_differences, logistic_probe}
    assert set(ESTIMATORS.values()) == listed
    assert all(function.__name__ == name for name, function in ESTIMATORS.items())


def test_directions_are_loaded_as_saved_and_damaged_ones_named(tmp_path) -> None:
    saved = fit_directions(several(2), several(1), "projected")
    saved.save(tmp_path / "d")
    loaded = Directions.load(tmp_path / "d")
    assert (loaded.estimator, loaded.sites, loaded.positions) == ("projected", saved.sites, saved.positions)
    assert torch.equal(loaded.vectors, saved.vectors)
    assert loaded.vectors.dtype == torch.float32
    (tmp_path / "d").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"d has no directions .* run again"):
        Directions.load(tmp_path / "d")
