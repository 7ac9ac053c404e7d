"""Names that several modules share: where in the residual stream a vector lives, and what writes
there.
"""

from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "COMPONENTS",
    "OUTSIDE",
    "SITES",
    "Component",
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

Component = Literal[
    "embedding",
    "position",
    "attention",
    "linear_attention",
    "ssm",
    "conv",
    "mlp",
    "experts",
    "shared_experts",
    "per_layer",
]
"""What writes to the stream: token and position embeddings in front of the first block, the rest in
blocks. `mlp` is dense, `experts` are routed, `shared_experts` are asked for every token,
`per_layer` is Gemma's embedding per layer.
"""

NormMode = Literal["none", "column", "row"]

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post")
COMPONENTS: tuple[Component, ...] = get_args(Component)
OUTSIDE: tuple[Component, ...] = ("embedding", "position")
"""Components of no layer."""

Vector = Float[Tensor, "d_model"]
Stream = Float[Tensor, "batch seq d_model"]
TokenIds = Int[Tensor, "batch seq"]
