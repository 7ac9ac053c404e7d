"""Estimators: directions from activation statistics. `ESTIMATORS` lists them.

An estimator is one function of the two sides. Per site, layer and position it returns a vector from
the negative to the positive set. Its length is the difference of the two means along it, so that
adding it moves one mean onto the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vectomy.core.arguments import require, require_name
from vectomy.core.errors import ArtifactError, EditError, UsageError
from vectomy.core.linalg import normalise, project_out
from vectomy.core.quoted_error import quote_error
from vectomy.core.suggestions import suggest_path
from vectomy.core.types import Vector
from vectomy.search.activation_stats import ActivationStats
from vectomy.search.directions import Directions

__all__ = [
    "ESTIMATORS",
    "NEEDS_SAMPLES",
    "Directions",
    "difference_of_means",
    "direction_from",
    "explain_loud",
    "fit_directions",
    "is_loud",
    "logistic_probe",
    "masked",
    "pca_of_differences",
    "projected",
    "standardised",
    "winsorised_mean",
]

Field = Float[Tensor, "site layer position d_model"]
Estimator = Callable[[ActivationStats, ActivationStats], Field]

# Share of each coordinate's values, at either end, that is clamped to the quantile.
WINSORISED_TAIL = 0.025
# A coordinate is loud whose mean is this many times the median: most models have some at 10 to 100,
# Gemma 3 has one at 400.
LOUD = 150.0
# Directions of layers below this fraction of the depth are hardly used, and coordinates that are
# loud there do no harm; a note names this many coordinates.
QUIET_BELOW, FEW_NAMED = 0.4, 4
# Of the median variance, so that a coordinate without noise does not own the direction.
VARIANCE_FLOOR = 0.1
# L2 penalty of the probe, on features scaled to unit mean length.
PROBE_PENALTY = 1e-3
# A difference smaller than this, relative to the activations, is rounding noise (template tokens
# before any attention).
NOISE = 1e-7


def difference_of_means(positive: ActivationStats, negative: ActivationStats) -> Field:
    """r = mean(positive) - mean(negative). Source: Arditi et al., arXiv 2406.11717, section 2.3."""
    return positive.mean - negative.mean


def projected(positive: ActivationStats, negative: ActivationStats) -> Field:
    """The difference of means without its component along the negative mean: r - (r . n) n, with
    n = normalise(mean(negative)).

    Removing it does not affect what all answers have in common.

    Source: grimjim, "Projected Abliteration", Hugging Face blog, 2025.
    """
    return project_out(difference_of_means(positive, negative), normalise(negative.mean))


def masked(positive: ActivationStats, negative: ActivationStats) -> Field:
    """The difference of means without the loud coordinates: those whose negative mean is beyond
    `LOUD` times the median of all coordinates.

    In some models (Gemma 3) one coordinate of the stream is hundreds of times its neighbours, and
    its noise owns every difference of means. The negatives alone choose the coordinates, so that
    the contrast is not lost by them.

    Source: loud-channel abliteration of Gemma 3, 2026 (MIT), the finding; Sun et al., "Massive
    Activations in Large Language Models", arXiv 2402.17762, the coordinates.
    """
    return torch.where(is_loud(negative), 0.0, difference_of_means(positive, negative))


def is_loud(negative: ActivationStats) -> Bool[Tensor, "site layer position d_model"]:
    """Which coordinates of the stream are loud at each point."""
    size = negative.mean.abs()
    return size > LOUD * size.median(dim=-1, keepdim=True).values


def explain_loud(negative: ActivationStats, default: str) -> str | None:
    """Why `masked` should replace the estimator `default`: the coordinates that are loud in the
    layers that directions are taken from. None if there are none.
    """
    n_layers = negative.mean.shape[1]
    first = round(QUIET_BELOW * n_layers)
    loud = is_loud(negative)[:, first:].any(dim=2).any(dim=0)
    coordinates = loud.any(dim=0).nonzero().flatten().tolist()
    if not coordinates:
        return None
    layers = int(loud.any(dim=1).sum())
    names = ", ".join(map(str, coordinates[:FEW_NAMED])) + (", ..." if coordinates[FEW_NAMED:] else "")
    plural = len(coordinates) > 1
    return (
        f"coordinate{'s' if plural else ''} {names} of the stream {'are' if plural else 'is'} more than "
        f"{LOUD:.0f} times the median in {layers} of {n_layers - first} layers and would own the direction: "
        f"the estimator is `masked` instead of `{default}`; --estimator names another"
    )


def standardised(positive: ActivationStats, negative: ActivationStats) -> Field:
    """Difference of means over the pooled variance of each coordinate plus a floor, a tenth of
    the median variance; as long as the means are apart along it.

    The discriminant of Fisher 1936 with a diagonal covariance: coordinates that are loud because
    they are noisy count for little.
    """
    samples = [_samples(side).double() for side in (positive, negative)]
    variance = (samples[0].var(0, correction=0) + samples[1].var(0, correction=0)) / 2
    floor = VARIANCE_FLOOR * variance.median(dim=-1, keepdim=True).values.clamp_min(1e-300)
    axis = difference_of_means(positive, negative) / (variance + floor)
    return _as_long_as_means(axis, positive, negative)


def winsorised_mean(positive: ActivationStats, negative: ActivationStats) -> Field:
    """Difference of winsorised means: the outer 2.5% of each coordinate, at either end, are clamped
    to the quantile.

    Source: Dixon 1960.
    """

    def mean(side: ActivationStats) -> Field:
        values = _samples(side).double()
        ends = torch.tensor([WINSORISED_TAIL, 1 - WINSORISED_TAIL], dtype=torch.float64)
        low, high = torch.quantile(values, ends, dim=0)
        return values.clamp(low, high).mean(0)

    return mean(positive) - mean(negative)


def pca_of_differences(positive: ActivationStats, negative: ActivationStats) -> Field:
    """First principal axis of the paired differences, not centred.

    Source: Zou et al., arXiv 2310.01405 (RepE).
    """
    pairs = min(positive.count, negative.count)
    difference = _samples(positive)[:pairs].double() - _samples(negative)[:pairs].double()
    by_point = difference.permute(1, 2, 3, 0, 4)
    axis = torch.linalg.svd(by_point, full_matrices=False).Vh[..., 0, :]
    return _as_long_as_means(axis, positive, negative)


def logistic_probe(positive: ActivationStats, negative: ActivationStats) -> Field:
    """At each point, the normal of the boundary of an L2-regularised logistic regression between
    the two sets.
    """
    sides = [_samples(side).double() for side in (positive, negative)]
    both = torch.cat(sides).permute(1, 2, 3, 0, 4)
    centred = both - both.mean(-2, keepdim=True)
    features = centred / torch.linalg.vector_norm(centred, dim=-1).mean(-1)[..., None, None].clamp_min(1e-300)
    labels = torch.cat([torch.ones(len(sides[0])), torch.zeros(len(sides[1]))]).double()
    # Both classes count equally, whatever their sizes.
    weights = torch.where(labels > 0, 0.5 / len(sides[0]), 0.5 / len(sides[1]))
    axis = torch.stack([_probe(x, labels, weights) for x in features.flatten(0, 2)]).view(positive.mean.shape)
    return _as_long_as_means(axis, positive, negative)


def _probe(
    features: Float[Tensor, "prompt d_model"], labels: Float[Tensor, prompt], weights: Float[Tensor, prompt]
) -> Vector:
    """Weights of one regression with a free intercept, fitted with L-BFGS."""
    normal = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros((), dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([normal, intercept], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        logits = features @ normal + intercept
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, labels, weight=weights, reduction="sum"
        )
        value = fit + PROBE_PENALTY * normal.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return normal.detach()


def _as_long_as_means(axis: Field, positive: ActivationStats, negative: ActivationStats) -> Field:
    """The axis from negative to positive, scaled to the difference of the means along it."""
    unit = normalise(axis)
    return (difference_of_means(positive, negative) * unit).sum(-1, keepdim=True) * unit


def _samples(side: ActivationStats) -> Float[Tensor, "prompt site layer position d_model"]:
    if side.samples is None:
        raise ArtifactError(
            "this estimator needs the activations themselves; collect them with samples=True "
            "(--keep-activations)"
        )
    return side.samples


ESTIMATORS: dict[str, Estimator] = {
    "difference_of_means": difference_of_means,
    "projected": projected,
    "masked": masked,
    "standardised": standardised,
    "winsorised_mean": winsorised_mean,
    "pca_of_differences": pca_of_differences,
    "logistic_probe": logistic_probe,
}
NEEDS_SAMPLES = {"standardised", "winsorised_mean", "pca_of_differences", "logistic_probe"}


def fit_directions(
    positive: ActivationStats, negative: ActivationStats, estimator: str = "difference_of_means"
) -> Directions:
    """The directions from the negative to the positive side, by one estimator.

    Args:
        positive: statistics (`collect`) of the prompts that show the behaviour.
        negative: the same sites and positions for the prompts that do not.
        estimator: a name in `ESTIMATORS`; its source is in the docstring of its function.

    Returns:
        Vectors of shape (site, layer, position, d_model), float32, not normalised: their length is
        the difference of the two means along them, in the units of the residual stream.

    Raises:
        UsageError: there is no estimator of that name, or the two sides are of different points.
        ArtifactError: it needs activations that were not stored.
    """
    require_name(estimator, ESTIMATORS, "estimator")
    for name, side in (("the positive side", positive), ("the negative side", negative)):
        require(side, ActivationStats, name, "give what vectomy.collect returns")
    places = [(side.sites, side.positions, tuple(side.mean.shape)) for side in (positive, negative)]
    if places[0] != places[1]:
        raise UsageError(
            f"the two sides are of different points ({positive} and {negative}); collect both from one "
            "model, with the same sites and positions"
        )
    vectors = ESTIMATORS[estimator](positive, negative)
    scale = torch.linalg.vector_norm(negative.mean, dim=-1, keepdim=True)
    noise = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) <= NOISE * scale
    return Directions(estimator, positive.sites, positive.positions, torch.where(noise, 0.0, vectors).float())


# A file of directions has a few vectors, in bytes at most this; a larger file is something else.
LARGEST_DIRECTION = 1 << 28


def direction_from(source: str, d_model: int) -> Float[Tensor, "*k d_model"]:
    """A direction from a .npy file, from the tensor `direction` of a .safetensors file, or
    `random:SEED`.

    Raises:
        EditError: the file does not exist, or has no floating-point vector (d_model) or matrix
            (k x d_model).
    """
    kind, _, seed = source.partition(":")
    if kind == "random":
        if not re.fullmatch(r"\d{1,18}", seed):
            raise EditError(
                f"'{source}' is not a random direction; write random:SEED with a whole number, for example "
                "random:0"
            )
        return torch.randn(d_model, generator=torch.Generator().manual_seed(int(seed)), dtype=torch.float64)
    path = Path(source)
    if not path.is_file():
        raise EditError(
            f"the direction file {path} does not exist"
            f"{suggest_path(path)}; give a .npy or .safetensors file, or random:SEED"
        )
    if path.stat().st_size > LARGEST_DIRECTION:
        raise EditError(
            f"{path} has {path.stat().st_size >> 20} MiB, too large for a direction; give a vector of "
            f"{d_model} numbers"
        )
    try:
        value = _vectors(path)
    except (
        safetensors.SafetensorError,
        ValueError,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        MemoryError,
        SyntaxError,
    ) as error:
        raise EditError(
            f"{path} has no direction: {quote_error(error)}; give a .npy or .safetensors file as `vectomy "
            "direction` writes it, or random:SEED"
        ) from None
    if value.ndim not in (1, 2) or not value.is_floating_point():
        raise EditError(
            f"{path} contains {value.dtype} of shape {list(value.shape)}; a direction is a floating-point "
            "vector, or a matrix "
            "of k vectors"
        )
    return value.double()


def _vectors(path: Path) -> Tensor:
    if path.suffix == ".npy":
        with path.open("rb") as data:
            if data.read(6) != b"\x93NUMPY":
                raise ValueError("it is no NumPy file")
        try:
            return torch.from_numpy(np.load(path, allow_pickle=False))
        except ValueError as error:
            raise ValueError("it holds Python objects" if "allow_pickle" in str(error) else error) from None
    if path.suffix != ".safetensors":
        raise ValueError("the file name must end in .npy or .safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if "vectomy" in (file.metadata() or {}):
            raise ValueError("it is an Edit, which `vectomy apply` writes into a checkpoint")
        if "direction" not in names:
            raise ValueError(f"no tensor is called 'direction'; there are {', '.join(names[:5])}")
        return file.get_tensor("direction").clone()
