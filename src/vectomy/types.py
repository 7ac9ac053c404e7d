"""Names that several modules share: where in the residual stream a vector lives, and what writes there."""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["COMPONENTS", "SITES", "Component", "NormMode", "Point", "Site", "Stream", "TokenIds", "Vector"]

Site = Literal["resid_pre", "resid_mid", "resid_post"]
"""A point of the stream: before a block, between its attention and its MLP, after it."""

Point = tuple[Site, int]
"""A site of one layer."""

Component = Literal["embedding", "attention", "mlp"]
"""What writes to the stream."""

NormMode = Literal["none", "column", "row"]

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post")
COMPONENTS: tuple[Component, ...] = ("embedding", "attention", "mlp")

Vector = Float[Tensor, "d_model"]
Stream = Float[Tensor, "batch seq d_model"]
TokenIds = Int[Tensor, "batch seq"]
