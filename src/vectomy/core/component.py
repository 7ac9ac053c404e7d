"""The kinds of writers. Loads no torch, so that pages and tables can name them too."""

from typing import Literal, get_args

__all__ = ["COMPONENTS", "OUTSIDE", "Component"]

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

COMPONENTS: tuple[Component, ...] = get_args(Component)
OUTSIDE: tuple[Component, ...] = ("embedding", "position")
"""Components of no layer."""
