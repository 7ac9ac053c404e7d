"""Read the residual stream of a live model, and what its blocks add to it.

    with capture(model, ["resid_pre"], layers=[3, 7], positions=[-1]) as stream:
        model(input_ids)
    stream["resid_pre", 7]        # batch x position x d_model

Works on any transformers model whose architecture is known. Inside `intervene` or `edit.hooks`,
what is captured is the changed stream (enter `capture` last).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from jaxtyping import Float
from torch import Tensor

from vectomy.architecture import architecture_of
from vectomy.core.arguments import list_of
from vectomy.core.module_io import live_module
from vectomy.core.types import SITES, Point, Site, list_sites
from vectomy.hooks.sites import locate_site

__all__ = ["capture"]


@contextmanager
def capture(
    model: object,
    sites: Site | Sequence[Site] = SITES,
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | None = None,
    consume: Callable[[Point, Float[Tensor, "batch position *width"]], None] | None = None,
) -> Iterator[dict[Point, Float[Tensor, "batch position *width"]]]:
    """Keep values of a live model at `sites` of `layers` (all), at token `positions` (all; negative
    ones count from the end).

    The dict that is yielded holds the values of the latest forward pass, by (site, layer):

    | site | shape | what |
    |---|---|---|
    | resid_pre, resid_mid, resid_post | batch x position x d_model | the stream before, in, after |
    | attn_out, mlp_out | batch x position x d_model | what the part gives, behind its norm |
    | head_z | batch x position x head x d_head | what each head gives to the output projection |
    | logits | batch x position x vocab | the model's own, under ("logits", -1) |

    Some models multiply what attention and MLP give before they add it (Granite). With `consume`,
    each value is handed over as it passes and nothing is kept. All hooks are gone when the block is
    left, also by an error.

    Args:
        model: a `ChatModel`, or a model of transformers.

    Source: the names are those of TransformerLens (Nanda and Bloom 2022).

    Raises:
        UsageError: `model` is no language model, or another argument is of a wrong type.
        ArchitectureError: a model type, site or layer that is not known, or a layer without the
            site.
    """
    module = live_module(model)
    architecture = architecture_of(module)
    wanted = list_sites(sites)
    if layers is not None:
        layers = list_of(int, layers, "a layer", "give numbers of layers, such as [3, 7]")
    if positions is not None:
        positions = list_of(int, positions, "a position", "give numbers of tokens, such as [-1]")
    kept: dict[Point, Tensor] = {}

    def take(point: Point, value: Tensor) -> None:
        value = value.detach()
        if positions is not None:
            value = value[:, positions]
        if consume is None:
            kept[point] = value.clone()
        else:
            consume(point, value)

    blocks = [site for site in wanted if site != "logits"]
    with ExitStack() as hooks:
        for layer in (range(architecture.n_layers) if layers is None else layers) if blocks else ():
            for site in blocks:
                place = locate_site(module, architecture, (site, layer))
                hooks.callback(place.watch(module, partial(take, (site, layer))))
        if "logits" in wanted:
            hooks.callback(
                module.register_forward_hook(
                    lambda _m, _a, output: take(("logits", -1), output.logits)
                ).remove
            )
        yield kept
