"""Streaming moments are the moments of the whole, however it is cut; what was saved is what is
loaded.
"""

import numpy as np
import pytest
import safetensors.torch
import torch

from vectomy.core.errors import ArtifactError
from vectomy.search.activation_stats import ActivationStats, RunningStats

TIER = "unit"

COUNT, SHAPE = 57, (2, 3, 5)
CUTS = {"whole": [57], "ones": [1] * 57, "uneven": [1, 30, 2, 24], "halves": [28, 29]}


def values(offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    spread = torch.rand(SHAPE, generator=generator, dtype=torch.float64) * 9
    return torch.randn(COUNT, *SHAPE, generator=generator, dtype=torch.float64) * spread + offset


def streamed(data: torch.Tensor, cuts: list[int], covariance: bool = True) -> RunningStats:
    moments = RunningStats(*SHAPE, covariance=covariance)
    for batch in data.split(cuts):
        moments.update(batch)
    return moments


@pytest.mark.parametrize("cuts", CUTS)
def test_mean_and_covariance_are_numpys_whatever_the_cuts(cuts: str) -> None:
    data = values()
    moments = streamed(data, CUTS[cuts])
    assert moments.count == COUNT
    assert moments.mean.dtype == torch.float64
    np.testing.assert_allclose(moments.mean, data.numpy().mean(0), rtol=0, atol=1e-12)
    for site, layer in np.ndindex(SHAPE[:2]):
        expected = np.cov(data[:, site, layer].numpy(), rowvar=False, bias=True)
        np.testing.assert_allclose(moments.scatter[site, layer] / COUNT, expected, rtol=0, atol=1e-11)


def test_a_mean_far_from_zero_costs_the_covariance_no_digits() -> None:
    """Sums of squares would: 1e6 squared leaves four digits of a spread of 1."""
    data = values(offset=1e6)
    expected = np.cov(data[:, 0, 0].numpy(), rowvar=False, bias=True)
    scatter = streamed(data, CUTS["uneven"]).scatter
    assert scatter is not None
    np.testing.assert_allclose(scatter[0, 0] / COUNT, expected, rtol=1e-8, atol=1e-8)
    naive = (data[:, 0, 0].T @ data[:, 0, 0]) / COUNT - torch.outer(
        data[:, 0, 0].mean(0), data[:, 0, 0].mean(0)
    )
    assert (naive - torch.from_numpy(expected)).abs().max() > 1e-5


def test_bfloat16_batches_are_summed_in_float64() -> None:
    data = values().bfloat16()
    moments = streamed(data, CUTS["ones"], covariance=False)
    np.testing.assert_allclose(moments.mean, data.double().numpy().mean(0), rtol=0, atol=1e-12)
    assert moments.scatter is None


@pytest.mark.parametrize("more", [False, True], ids=["means", "all"])
def test_activations_are_loaded_as_saved(tmp_path, more: bool) -> None:
    mean = torch.randn(2, 3, 1, 5, dtype=torch.float64)
    held = {
        "covariance": torch.randn(2, 3, 1, 5, 5, dtype=torch.float64),
        "samples": torch.randn(4, 2, 3, 1, 5),
    }
    saved = ActivationStats(("resid_pre", "resid_mid"), (-1,), 4, mean, **(held if more else {}))
    saved.save(tmp_path / "a")
    loaded = ActivationStats.load(tmp_path / "a")
    assert (loaded.sites, loaded.positions, loaded.count) == (saved.sites, saved.positions, saved.count)
    assert torch.equal(loaded.mean, mean)
    for name, value in held.items():
        assert torch.equal(getattr(loaded, name), value) if more else getattr(loaded, name) is None


def damaged(path, case: str) -> None:
    if case == "bytes":
        path.write_bytes(b"no tensors")
    elif case == "header":
        safetensors.torch.save_file({"mean": torch.zeros(1)}, path)
    elif case == "json":
        safetensors.torch.save_file({"mean": torch.zeros(1)}, path, metadata={"vectomy": "{"})
    elif case == "tensors":
        safetensors.torch.save_file(
            {"other": torch.zeros(1)}, path, metadata={"vectomy": '{"sites":[],"positions":[],"count":1}'}
        )


@pytest.mark.parametrize("case", ["missing", "bytes", "header", "json", "tensors"])
def test_a_file_that_is_none_of_ours_is_named(tmp_path, case: str) -> None:
    damaged(tmp_path / "a", case)
    with pytest.raises(ArtifactError, match=r"a has no activation statistics .* run again"):
        ActivationStats.load(tmp_path / "a")
