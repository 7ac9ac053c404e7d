"""Names that several modules share: where in the residual stream a vector lives, and its shape."""

from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from vectomy.core.arguments import list_of
from vectomy.core.errors import ArchitectureError
from vectomy.core.suggestions import suggest

__all__ = [
    "SITES",
    "NormMode",
    "Point",
    "Site",
    "Stream",
    "TokenIds",
    "Vector",
    "list_sites",
]

Site = Literal["resid_pre", "resid_mid", "resid_post"]
"""A point of the stream: before a block, between its attention and its MLP, after it."""

Point = tuple[Site, int]
"""A site of one layer."""

NormMode = Literal["none", "column", "row"]

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post")


def list_sites(sites: object) -> list[Site]:
    """Names of sites, one or several, that a caller gives.

    Raises:
        UsageError: what is given is no name.
        ArchitectureError: there is no such site.
    """
    names: list[Any] = list_of(str, sites, "a site", f"give names of sites: {', '.join(SITES)}")
    for name in names:
        if name not in SITES:
            near = suggest(name, SITES)
            raise ArchitectureError(f"there is no site '{name}'{near}; sites are {', '.join(SITES)}")
    return names


Vector = Float[Tensor, "d_model"]
Stream = Float[Tensor, "batch seq d_model"]
TokenIds = Int[Tensor, "batch seq"]
