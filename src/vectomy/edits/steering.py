"""An Edit at run time with a strength for each row of a batch, and under a condition.

    edit.hooks(model, strength=[0.0, 0.5, 1.0])           # three rows, three strengths
    edit.hooks(model, when=Condition(direction, layer=12, threshold=3.0))

A condition is decided at the prompt and kept while the answer is generated (conditional activation
steering, arXiv 2409.05907): a pass over several tokens decides by its last token, passes of single
tokens keep that decision. It reads the stream of the unedited model. Rows for which it does not
fire keep their bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vectomy.architecture import Writer, architecture_of
from vectomy.core.arguments import name_of, require, require_name
from vectomy.core.component import Component
from vectomy.core.errors import EditError
from vectomy.core.module_io import first_output, inner_model
from vectomy.core.pass_rows import apart_by_row, current_rows
from vectomy.core.types import SITES, Site, Stream, Vector
from vectomy.edits.live_hooks import OutputChange, output_change
from vectomy.edits.operation import Operation
from vectomy.hooks.interventions import intervene

__all__ = ["Condition", "Scaled", "steer_rows"]

Scaled = Callable[[float], Sequence[tuple[Writer, Operation]]]
"""The edit at a strength, as pairs of a writer and what is done to it."""


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """A test of each row of a batch: is x . r > `threshold` at the prompt's last token?

    x is the residual stream at `site` of `layer`, r the unit vector of `direction` (d_model), and
    the threshold is in units of the stream. Prompts are padded on the left. Source: conditional
    activation steering, arXiv 2409.05907.

    Raises:
        EditError: the direction is not one finite vector other than 0.
        UsageError: layer or threshold is no number, or there is no such site.
    """

    direction: Vector
    layer: int
    threshold: float
    site: Site = "resid_pre"
    above: bool = True
    """True: the test is x . r > threshold; False: x . r < threshold."""

    def __post_init__(self) -> None:
        if not isinstance(self.direction, Tensor):
            raise EditError(
                f"a condition's direction is {name_of(self.direction)}; give a torch tensor of d_model "
                "numbers"
            )
        require(self.layer, int, "a condition's layer", "give the number of a layer")
        require(self.threshold, (int, float), "a condition's threshold", "give a number")
        require_name(self.site, SITES, "site")
        if (
            self.direction.ndim != 1
            or not bool(self.direction.isfinite().all())
            or not bool(self.direction.any())
        ):
            raise EditError(
                "a condition's direction is a finite vector that is not zero, not one of shape "
                f"{list(self.direction.shape)}"
            )

    def __repr__(self) -> str:
        sign = ">" if self.above else "<"
        return f"<Condition: x . r {sign} {self.threshold:g} at {self.site} of layer {self.layer}>"

    def fires(self, stream: Float[Tensor, "batch d_model"]) -> Bool[Tensor, " batch"]:
        """Whether each row's stream meets the condition."""
        projected = self.projection(stream)
        return projected > self.threshold if self.above else projected < self.threshold

    def projection(self, stream: Float[Tensor, "batch d_model"]) -> Float[Tensor, " batch"]:
        """x . r of each row, in units of the stream; compared with `threshold`."""
        unit = self.direction.to(device=stream.device, dtype=torch.float32)
        return stream.float() @ (unit / torch.linalg.vector_norm(unit))


@contextmanager
def steer_rows(
    model: nn.Module, scaled: Scaled, strength: float | Float[Tensor, " batch"], when: Condition | None
) -> Iterator[None]:
    """Each row of a batch with its own strength, where the condition (if any) fires for it. See
    `Edit.hooks`.

    Raises:
        EditError: an operation that changes parameters instead of outputs, which no row can have to
            itself; while the model runs, a batch of another size than the strengths.
        ArchitectureError: the condition names a layer that the model lacks.
    """
    architecture = architecture_of(model)
    if when is not None:
        architecture.block(when.layer)
    base = inner_model(model)
    gate = _Gate(base, model, strength, when)
    values = sorted({float(strength)} if isinstance(strength, int | float) else set(strength.tolist()))
    changes = _changes(model, scaled, [value for value in values if value])
    with ExitStack() as hooks:
        hooks.enter_context(apart_by_row(model))
        hooks.callback(base.register_forward_pre_hook(gate.before, with_kwargs=True).remove)
        for writer, by_strength in changes:
            module = model.get_submodule(writer.module)
            if any(made.columns is not None for made in by_strength.values()):
                hooks.callback(module.register_forward_pre_hook(_input_hook(gate, by_strength)).remove)
            changed = _output_hook(gate, by_strength, writer.component)
            hooks.callback(module.register_forward_hook(changed).remove)
        yield


def _changes(
    model: nn.Module, scaled: Scaled, values: Sequence[float]
) -> list[tuple[Writer, dict[float, OutputChange]]]:
    """By writer, what each strength does to it."""
    found: dict[str, tuple[Writer, dict[float, OutputChange]]] = {}
    for value in values:
        for writer, operation in scaled(value):
            made = output_change(model, writer, operation)
            if made is None or (writer.weight in found and value in found[writer.weight][1]):
                raise EditError(
                    f"the edit changes parameters of '{writer.module}' itself (single experts, kept norms "
                    "of fused weights, biases behind a norm), which all rows of a batch share; use one "
                    "strength for the batch and no condition"
                )
            found.setdefault(writer.weight, (writer, {}))[1][value] = made
    return list(found.values())


@dataclass
class _Gate:
    """The strength of each row in the current pass."""

    base: nn.Module
    model: nn.Module
    strength: float | Tensor
    when: Condition | None
    rows: list[float] = field(default_factory=list)
    fired: Tensor | None = None
    decided: dict[int, bool] = field(default_factory=dict)
    deciding: bool = False

    def before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Set the strengths of the rows before a pass."""
        if self.deciding:
            return
        given = args[0] if args else kwargs.get("input_ids")
        given = kwargs["inputs_embeds"] if given is None else given
        batch, length = given.shape[:2]
        prompts = current_rows()
        if prompts is not None and len(prompts) == batch:
            self.rows = self._strengths_of(prompts, length, args, kwargs)
            return
        if isinstance(self.strength, Tensor) and len(self.strength) != batch:
            raise EditError(
                f"there are {len(self.strength)} strengths, and the batch has {batch} rows; give one for "
                "each, in the order of the rows"
            )
        wanted = (
            self.strength.tolist() if isinstance(self.strength, Tensor) else [float(self.strength)] * batch
        )
        if self.when is not None:
            if length > 1 or self.fired is None:
                self.fired = self._decide(self.when, args, kwargs)
            if len(self.fired) != batch:
                raise EditError(
                    f"the condition was decided for {len(self.fired)} rows, and this pass has {batch}; "
                    "rows that join or leave the batch during generation cannot be told apart: generate "
                    "with the whole batch"
                )
            wanted = [
                value if fires else 0.0 for value, fires in zip(wanted, self.fired.tolist(), strict=True)
            ]
        self.rows = wanted

    def _strengths_of(
        self, prompts: Sequence[int], length: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[float]:
        """The strengths of rows that are known by their prompts."""
        if isinstance(self.strength, Tensor):
            if max(prompts) >= len(self.strength):
                raise EditError(
                    f"there are {len(self.strength)} strengths, and prompt {max(prompts) + 1} is "
                    "answered; give one for each prompt, in their order"
                )
            wanted = [float(self.strength[prompt]) for prompt in prompts]
        else:
            wanted = [float(self.strength)] * len(prompts)
        if self.when is None:
            return wanted
        if length > 1 or any(prompt not in self.decided for prompt in prompts):
            self.decided |= zip(prompts, self._decide(self.when, args, kwargs).tolist(), strict=True)
        return [value if self.decided[prompt] else 0.0 for value, prompt in zip(wanted, prompts, strict=True)]

    @torch.no_grad()
    def _decide(self, when: Condition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run the pass as the unedited model does, up to the condition's layer."""
        seen: list[Tensor] = []

        def look(stream: Stream) -> Stream:
            seen.append(when.fires(stream[:, -1]))
            raise _Seen

        cache = kwargs.get("past_key_values")
        held = cache is not None and cache.get_seq_length() > 0
        alone = {**kwargs, "past_key_values": copy.deepcopy(cache) if held else None, "use_cache": held}
        self.deciding, self.rows = True, []
        try:
            with intervene(self.model, {(when.site, when.layer): look}):
                self.base(*args, **alone)
        except _Seen:
            pass
        finally:
            self.deciding = False
        return seen[0]

    def groups(self) -> dict[float, list[int]]:
        """Rows by strength, those of strength 0 left out."""
        found: dict[float, list[int]] = {}
        for row, value in enumerate(self.rows):
            if value:
                found.setdefault(value, []).append(row)
        return found


class _Seen(Exception):  # noqa: N818 (no error: it ends a pass that has shown what was asked)
    """The stream at the condition's layer is known; the rest of the pass is not needed."""


def _output_hook(gate: _Gate, changes: dict[float, OutputChange], component: Component) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        groups = gate.groups()
        if not groups:
            return output
        value = first_output(output)
        new = _by_row(value, len(gate.rows), component).clone()
        for strength, rows in groups.items():
            made, part = changes.get(strength), new[rows].float()
            if made is not None:
                part = part if made.change is None else made.change(part)
                new[rows] = (part if made.addition is None else part + made.addition).to(new.dtype)
        new = new.reshape(value.shape) if new.numel() == value.numel() else new
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return hook


def _input_hook(gate: _Gate, changes: dict[float, OutputChange]) -> Callable[..., Any]:
    """Norm mode column: inputs times what keeps the lengths, by row."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        groups = gate.groups()
        if not groups:
            return None
        new = _by_row(args[0], len(gate.rows), "mlp").clone()
        for strength, rows in groups.items():
            columns = changes[strength].columns if strength in changes else None
            if columns is not None:
                new[rows] = (new[rows].float() * columns).to(new.dtype)
        return (new.reshape(args[0].shape), *args[1:])

    return hook


def _by_row(value: Tensor, batch: int, component: Component) -> Float[Tensor, "batch token d"]:
    """A view with the batch in front: experts see all tokens in one list, and positions are often
    the same for all rows.
    """
    if value.ndim == 2 and component != "position" and len(value) % batch == 0:
        return value.reshape(batch, -1, value.shape[-1])
    whole = value[None] if value.ndim == 2 else value
    if whole.ndim == 3 and len(whole) in (1, batch):
        return whole.expand(batch, -1, -1)
    raise EditError(
        f"an output of shape {list(value.shape)} cannot be told apart by the {batch} rows of the batch; "
        "use one strength for all"
    )
