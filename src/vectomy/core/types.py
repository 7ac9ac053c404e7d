"""Names that several modules share: where in the residual stream a vector lives, and its shape."""

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from vectomy.core.arguments import list_of
from vectomy.core.errors import ArchitectureError
from vectomy.core.suggestions import suggest

__all__ = [
    "ALL_SITES",
    "BLOCK_SITES",
    "SITES",
    "NormMode",
    "Point",
    "Site",
    "Stream",
    "TokenIds",
    "Vector",
    "list_sites",
]

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_z", "logits"]
"""A place in a model. The first three are points of the stream: before a block, between its
attention and its MLP, after it. `attn_out` and `mlp_out` are what these two add to the stream,
behind a norm that follows them. `head_z` is what each head gives to the output projection of
attention (its z), and `logits` are the model's own.
"""

Point = tuple[Site, int]
"""A site of one layer."""

NormMode = Literal["none", "column", "row"]

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post")
"""Sites of the residual stream."""
BLOCK_SITES: tuple[Site, ...] = (*SITES, "attn_out", "mlp_out", "head_z")
"""Sites of a block, whose values can be changed too."""
ALL_SITES: tuple[Site, ...] = (*BLOCK_SITES, "logits")


def list_sites(sites: object, known: Sequence[Site] = ALL_SITES) -> list[Site]:
    """Names of sites, one or several, that a caller gives.

    Raises:
        UsageError: what is given is no name.
        ArchitectureError: there is no such site.
    """
    names: list[Any] = list_of(str, sites, "a site", f"give names of sites: {', '.join(known)}")
    for name in names:
        if name not in known:
            near = suggest(name, known)
            raise ArchitectureError(f"there is no site '{name}'{near}; sites are {', '.join(known)}")
    return names


Vector = Float[Tensor, "d_model"]
Stream = Float[Tensor, "batch seq d_model"]
TokenIds = Int[Tensor, "batch seq"]
