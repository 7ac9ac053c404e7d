"""Statistics of the residual stream over a prompt set: `collect` writes them, the estimators read
them.

`RunningStats` accumulates them batch by batch, and `ActivationStats` is the frozen result, as in
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
from vectomy.core.tensor_file import read_tensors
from vectomy.core.types import Site
from vectomy.search.directions import describe_field

__all__ = ["ActivationStats", "RunningStats"]


@dataclass(frozen=True, eq=False, repr=False)
class ActivationStats:
    """Statistics of the stream over one prompt set, per site, layer and position.

    Attributes:
        sites: the sites, in the order of the first axis.
        positions: token positions from the end, in the order of the third axis.
        count: the number of prompts.
        mean: float64, in the units of the stream.
        covariance: divided by the count; None unless requested.
        samples: the activations themselves, in the order of the prompts; None unless requested.
    """

    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    count: int
    mean: Float[Tensor, "site layer position d_model"]
    covariance: Float[Tensor, "site layer position d_model d_model"] | None = None
    samples: Float[Tensor, "prompt site layer position d_model"] | None = None

    def __repr__(self) -> str:
        more = [name for name in ("covariance", "samples") if getattr(self, name) is not None]
        places = describe_field(self.sites, self.positions, self.mean)
        return f"<ActivationStats of {self.count} prompts: {', with '.join([places, *more])}>"

    def save(self, path: str | Path) -> None:
        """Write the statistics as one safetensors file."""
        path = Path(path)
        values = {"mean": self.mean, "covariance": self.covariance, "samples": self.samples}
        header = canonical_json({"sites": self.sites, "positions": self.positions, "count": self.count})
        tensors = {name: value.contiguous() for name, value in values.items() if value is not None}
        with write_whole(path) as beside:
            safetensors.torch.save_file(tensors, beside, metadata={"vectomy": header})

    @classmethod
    def load(cls, path: str | Path) -> ActivationStats:
        """Raises ArtifactError for a file that `save` did not write."""
        try:
            tensors, metadata = read_tensors(Path(path))
            header = json.loads(metadata["vectomy"])
            return cls(tuple(header["sites"]), tuple(header["positions"]), header["count"], **tensors)
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} has no activation statistics ({error}); delete it and run again"
            ) from None


class RunningStats:
    """Running count, mean and optionally covariance of batches of vectors, in float64.

    Source: Chan, Golub and LeVeque 1979.
    """

    def __init__(self, *shape: int, covariance: bool = False) -> None:
        self.count = 0
        self.mean = torch.zeros(*shape, dtype=torch.float64)
        self.scatter = torch.zeros(*shape, shape[-1], dtype=torch.float64) if covariance else None

    def update(self, batch: Float[Tensor, batch * shape]) -> None:
        values = batch.to(device="cpu", dtype=torch.float64)
        own = RunningStats(*values.shape[1:])
        own.count, own.mean = len(values), values.mean(0)
        if self.scatter is not None:
            centred = values - own.mean
            own.scatter = torch.einsum("b...i,b...j->...ij", centred, centred)
        self.merge(own)

    def merge(self, other: RunningStats) -> None:
        """Add the vectors of `other`. One batch of vectors after the other gives the same bits as
        `update`.
        """
        count = self.count + other.count
        shift = other.mean - self.mean
        if self.scatter is not None and other.scatter is not None:
            self.scatter += other.scatter
            self.scatter += shift[..., :, None] * shift[..., None, :] * (self.count * other.count / count)
        self.mean = self.mean + shift * (other.count / count)
        self.count = count
