"""Statistics of the residual stream over a prompt set: what `collect` writes and the estimators
read.

A fitter that streams (`Moments.update`) and a frozen result (`Activations`), after
EleutherAI/concept-erasure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core.errors import ArtifactError
from vectomy.core.run_folder import canonical_json, write_whole
from vectomy.core.types import Site

__all__ = ["ActivationStats", "RunningStats"]


@dataclass(frozen=True, eq=False)
class ActivationStats:
    """What one prompt set does to the stream: moments per site, layer and position.

    `covariance` divides by the count; `samples` are the activations themselves, in the order of the
    prompts. Both are there only if they were asked for.
    """

    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    count: int
    mean: Float[Tensor, "site layer position d_model"]
    covariance: Float[Tensor, "site layer position d_model d_model"] | None = None
    samples: Float[Tensor, "prompt site layer position d_model"] | None = None

    def save(self, path: Path) -> None:
        held = {"mean": self.mean, "covariance": self.covariance, "samples": self.samples}
        header = canonical_json({"sites": self.sites, "positions": self.positions, "count": self.count})
        tensors = {name: value.contiguous() for name, value in held.items() if value is not None}
        with write_whole(path) as beside:
            safetensors.torch.save_file(tensors, beside, metadata={"vectomy": header})

    @classmethod
    def load(cls, path: Path) -> ActivationStats:
        """Raises ArtifactError for a file that `save` did not write."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["vectomy"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return cls(tuple(header["sites"]), tuple(header["positions"]), header["count"], **tensors)
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ArtifactError(
                f"{path} holds no activation statistics ({error}); delete it and run again"
            ) from None


class RunningStats:
    """Count, mean and optionally covariance of vectors that come in batches, in float64 (Chan,
    Golub, LeVeque 1979).
    """

    def __init__(self, *shape: int, covariance: bool = False) -> None:
        self.count = 0
        self.mean = torch.zeros(*shape, dtype=torch.float64)
        self.scatter = torch.zeros(*shape, shape[-1], dtype=torch.float64) if covariance else None

    def update(self, batch: Float[Tensor, batch * shape]) -> None:
        values = batch.to(device="cpu", dtype=torch.float64)
        count = self.count + len(values)
        mean = values.mean(0)
        shift = mean - self.mean
        if self.scatter is not None:
            centred = values - mean
            self.scatter += torch.einsum("b...i,b...j->...ij", centred, centred)
            self.scatter += shift[..., :, None] * shift[..., None, :] * (self.count * len(values) / count)
        self.mean = self.mean + shift * (len(values) / count)
        self.count = count
