"""Names that several modules share: where in the residual stream a vector lives, and its shape."""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "SITES",
    "NormMode",
    "Point",
    "Site",
    "Stream",
    "TokenIds",
    "Vector",
]

Site = Literal["resid_pre", "resid_mid", "resid_post"]
"""A point of the stream: before a block, between its attention and its MLP, after it."""

Point = tuple[Site, int]
"""A site of one layer."""

NormMode = Literal["none", "column", "row"]

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post")

Vector = Float[Tensor, "d_model"]
Stream = Float[Tensor, "batch seq d_model"]
TokenIds = Int[Tensor, "batch seq"]
