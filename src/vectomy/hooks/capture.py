"""Read the residual stream of a live model.

    with capture(model, ["resid_pre"], layers=[3, 7], positions=[-1]) as stream:
        model(input_ids)
    stream["resid_pre", 7]        # batch x position x d_model

Works on any transformers model whose architecture is known. Inside `intervene` or `edit.hooks`,
what is captured is the changed stream (enter `capture` last).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Architecture, architecture_of
from vectomy.core.arguments import list_of
from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input, first_output, live_module
from vectomy.core.types import SITES, Point, Site, list_sites

__all__ = ["capture"]


@contextmanager
def capture(
    model: object,
    sites: Site | Sequence[Site] = SITES,
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] | None = None,
    consume: Callable[[Point, Float[Tensor, "batch position d_model"]], None] | None = None,
) -> Iterator[dict[Point, Float[Tensor, "batch position d_model"]]]:
    """Keep the stream at `sites` of `layers` (all), at token `positions` (all; negative ones count
    from the end).

    The dict that is yielded holds the values of the latest forward pass. With `consume`, each value
    is handed over as it passes and nothing is kept. All hooks are gone when the block is left, also
    by an error.

    Raises:
        ArchitectureError: a model type, site or layer that is not known.
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
            value = value[:, list(positions)]
        if consume is None:
            kept[point] = value.clone()
        else:
            consume(point, value)

    with ExitStack() as hooks:
        for layer in range(architecture.n_layers) if layers is None else layers:
            for site in wanted:
                handle = _watch(module, architecture, (site, layer), take)
                hooks.callback(handle.remove)
        yield kept


def _watch(
    model: nn.Module, architecture: Architecture, point: Point, take: Callable[[Point, Tensor], None]
) -> Any:
    site, layer = point
    block = model.get_submodule(architecture.block(layer))
    if site == "resid_post":
        return block.register_forward_hook(lambda _m, _a, output: take(point, first_output(output)))
    if site == "resid_pre":
        watched = block
    elif site == "resid_mid":
        if architecture.family.mid is None:
            raise ArchitectureError(
                f"blocks of a {architecture.model_type} model have no point resid_mid: attention and MLP "
                "read the same stream; use resid_pre or resid_post"
            )
        watched = block.get_submodule(architecture.family.mid)
    else:
        raise ArchitectureError(f"there is no site '{site}'; sites are {', '.join(SITES)}")
    return watched.register_forward_pre_hook(
        lambda _m, args, kwargs: take(point, first_input(args, kwargs)), with_kwargs=True
    )
