"""Where a site lies in a live model: at a module, as what it takes or as what it gives."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Architecture, Writer
from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input, first_output
from vectomy.core.types import Point

__all__ = ["SitePlace", "locate_site"]

Value = Float[Tensor, "batch position *width"]


@dataclass(frozen=True)
class SitePlace:
    """A site of one layer.

    Attributes:
        module: path of the module.
        side: the value is the module's input or its output; `around` is an input that the block
            also adds past the module.
        block: path of the block that it is in.
        heads: the number of heads whose values lie side by side in the input.
    """

    module: str
    side: Literal["input", "around", "output"]
    block: str
    heads: int | None = None

    def watch(self, model: nn.Module, take: Callable[[Value], None]) -> Callable[[], None]:
        """Hand over the value in every pass. Returns a function that ends it."""

        def look(value: Value) -> Value:
            take(value)
            return value

        return self._attach(model, look, changes=False)

    def change(self, model: nn.Module, function: Callable[[Value], Value]) -> Callable[[], None]:
        """Put the value through a function in every pass. Returns a function that ends it."""
        return self._attach(model, function, changes=True)

    def _attach(
        self, model: nn.Module, function: Callable[[Value], Value], *, changes: bool
    ) -> Callable[[], None]:
        module, seen = model.get_submodule(self.module), _BatchShape()

        def shaped(value: Tensor) -> Tensor:
            """`function` on the value by row, position and head; the result in its shape."""
            whole = value if value.ndim > 2 else value.unflatten(0, seen.shape)
            result = function(whole if self.heads is None else whole.unflatten(-1, (self.heads, -1)))
            return result.reshape(value.shape)

        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, object]) -> Any:
            changed = shaped(first_input(args, kwargs))
            if not changes:
                return None
            if self.side == "around":
                first_input(args, kwargs).copy_(changed)
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        def behind(_module: nn.Module, _args: Any, output: Any) -> Any:
            changed = shaped(first_output(output))
            if not changes:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        with ExitStack() as hooks:
            if self.side == "output":
                hooks.callback(module.register_forward_hook(behind).remove)
            else:
                hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            if self.module != self.block:
                block = model.get_submodule(self.block)
                hooks.callback(block.register_forward_pre_hook(seen.note, with_kwargs=True).remove)
            return hooks.pop_all().close


class _BatchShape:
    """Rows and positions of the pass, where a module takes all tokens in one list (OPT's MLP)."""

    shape: tuple[int, int] = (1, -1)

    def note(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, object]) -> None:
        stream = first_input(args, kwargs)
        self.shape = (stream.shape[0], stream.shape[1])


def locate_site(model: Any, architecture: Architecture, point: Point) -> SitePlace:
    """The place of a site of a block.

    Raises:
        ArchitectureError: a layer that the model lacks, or one without such a site.
    """
    site, layer = point
    block = architecture.block(layer)
    if site == "resid_pre":
        return SitePlace(block, "input", block)
    if site == "resid_post":
        return SitePlace(block, "output", block)
    if site == "resid_mid":
        if architecture.family.mid is None:
            raise ArchitectureError(
                f"blocks of a {architecture.model_type} model have no point resid_mid: attention and MLP "
                "read the same stream, or it is in no module's input; use resid_pre or resid_post"
            )
        return SitePlace(f"{block}.{architecture.family.mid}", "around", block)
    if site == "mlp_out":
        return _locate_mlp(architecture, layer)
    attention = [writer for writer in architecture.at(layer) if writer.component == "attention"]
    if not attention:
        raise _explain_absent(architecture, layer, site, "attention")
    (writer,) = attention
    if writer.slot.loose_bias:
        raise ArchitectureError(
            f"attention of a {architecture.model_type} model adds its bias behind '{writer.module}', so no "
            f"module gives {site}; use resid_pre and resid_mid"
        )
    if site == "attn_out":
        return SitePlace(writer.norms[-1].module if writer.norms else writer.module, "output", block)
    return SitePlace(writer.module, "input", block, _count_heads(model, architecture, writer, layer))


def _locate_mlp(architecture: Architecture, layer: int) -> SitePlace:
    kinds, block = ("mlp", "experts", "shared_experts"), architecture.block(layer)
    writers = [writer for writer in architecture.at(layer) if writer.component in kinds]
    if not writers:
        raise _explain_absent(architecture, layer, "mlp_out", "MLP")
    norms = {writer.norms[-1].module if writer.norms else None for writer in writers}
    (norm,) = norms if len(norms) == 1 else (None,)
    if norm is not None:
        return SitePlace(norm, "output", block)
    if [writer.component for writer in writers] == ["mlp"]:
        return SitePlace(writers[0].module, "output", block)
    # Experts: the module that routes tokens to them and adds up what they give.
    paths = [writer.module.split(".") for writer in writers]
    shared: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    if len(paths) == 1 and writers[0].weight.startswith(f"{writers[0].module}.down_proj"):
        shared = shared[:-1]

    if len(shared) <= len(block.split(".")) or (None in norms and len(norms) > 1):
        raise ArchitectureError(
            f"no single module of a {architecture.model_type} block gives all that its experts add "
            f"({', '.join(writer.module for writer in writers)}); use resid_mid and resid_post"
        )
    return SitePlace(".".join(shared), "output", block)


def _explain_absent(architecture: Architecture, layer: int, site: str, part: str) -> ArchitectureError:
    kinds = ", ".join(writer.component.replace("_", " ") for writer in architecture.at(layer))
    return ArchitectureError(
        f"layer {layer} of this {architecture.model_type} model has no {part} and so no {site}: it has "
        f"{kinds}; choose other layers"
    )


def _count_heads(model: Any, architecture: Architecture, writer: Writer, layer: int) -> int:
    config = model.config.get_text_config()
    rows, own = (
        getattr(config, "per_layer_config", None),
        getattr(config, "num_attention_heads_per_layer", None),
    )
    config = config if rows is None or len(rows) <= layer else rows[layer]
    heads = own[layer] if own else getattr(config, "num_attention_heads", None)
    shape = architecture.shapes.get(writer.weight, ())
    width = shape[1 - writer.slot.axis] if len(shape) == 2 else 0
    if not isinstance(heads, int) or not width or width % heads:
        raise ArchitectureError(
            f"the input of '{writer.module}' of this {architecture.model_type} model has {width} numbers, "
            f"which are not those of {heads} heads; use attn_out"
        )
    return heads
