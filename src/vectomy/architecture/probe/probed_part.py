"""A part of a live model (a block, or all before the first one) and the writers in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vectomy.architecture.norms import fold, measure_gain
from vectomy.architecture.probe.block_runs import Run
from vectomy.architecture.probe.freezing import (
    Seen,
    freeze_outputs,
    keep_input,
    record_outputs,
    set_parameter,
)
from vectomy.core.errors import ArchitectureError
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.types import Vector

__all__ = ["ProbedPart", "ProbedWriter", "RandomDirections"]

# A change smaller than this share of the stream is rounding.
NOTHING = 3e-6
# How far from one line a change may be, in float32 through one block.
STRAIGHT = 2e-3
# A change that moves no token to another expert.
GENTLE = 1e-2
Shape = Literal["straight", "bent"]
"""How a change arrives: along its own direction, or in any other shape."""


@dataclass(frozen=True)
class ProbedWriter:
    """One parameter that writes to the stream."""

    layer: int | None
    module: str
    parameter: str
    axis: int
    """Which axis of the parameter is the stream's."""
    norms: tuple[str, ...] = ()
    """What stands between the parameter and the stream (norms, learned scales), in the order in
    which it is passed.
    """


Place = tuple[Tensor, ProbedWriter, tuple[nn.Module, ...]]
"""A parameter that writes, what is known of it, and the norms that it passes."""


@dataclass
class RandomDirections:
    """Random directions of the stream."""

    generator: torch.Generator
    width: int

    def unit(self) -> Vector:
        vector = torch.randn(self.width, generator=self.generator)
        return vector / vector.norm()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


class ProbedPart:
    """A block, or all that comes before the first one: its modules, and what each gave in a clean
    run.
    """

    def __init__(
        self,
        path: str,
        root: nn.Module,
        run: Run,
        random: RandomDirections,
        outside: Collection[nn.Module] = (),
    ) -> None:
        self.path, self.run, self.random = path, run, random
        named = root.named_modules(prefix=path, remove_duplicate=True)
        self.names = {module: name for name, module in named if module not in outside}
        leaves = [
            m
            for m in self.names
            if _own_parameters(m) and not any(_own_parameters(c) for c in _modules_below([m])[1:])
        ]
        with record_outputs(self.names) as outputs:
            self.clean = run(None)
        self.outputs = outputs
        self.norms = [
            m for m in self.names if not list(m.children()) and _is_gain(m, outputs.get(m, []), random.width)
        ]
        self.frozen = list(dict.fromkeys([*leaves, *self.norms]))
        self.seen = self._run_frozen([])
        self.chains = self._find_chains()

    def check_stream_passes(self, stream: Tensor) -> None:
        unit = self.random.unit()
        amount = self.random.normal(*stream.shape[:-1], 1) * float(stream.float().std() + 1e-3)
        with freeze_outputs(self.frozen, self.outputs):
            change = self.run(stream + (amount * unit).to(stream)) - self.run(None)
        ratio = float((change @ unit * amount[..., 0]).sum() / (amount**2).sum())
        left = float((change - ratio * amount * unit).norm())
        if not ratio or left > STRAIGHT * abs(ratio) * float(amount.norm()):
            raise ArchitectureError(
                f"the stream does not pass '{self.path}' unchanged (a norm, gate or mixture acts on it), so "
                "removing a direction from all writers does not remove it from the stream"
            )

    def writers(
        self, layer: int | None, stream: Tensor | None, asleep: set[nn.Parameter]
    ) -> list[ProbedWriter]:
        """The writers of this part; `asleep` gathers the parameters that changed nothing at all."""
        found, unclear = [], []
        known: set[nn.Parameter] = set()
        for module, name in self.names.items():
            for parameter, value in _own_parameters(module):
                if value in known:
                    continue  # A tied one is named once, where it stands first.
                known.add(value)
                axes = [axis for axis, size in enumerate(value.shape) if size == self.random.width]
                arrivals = {axis: self._arrivals(value, axis) for axis in axes}
                axis, chain = self._find_place(module, arrivals)
                if axis is not None:
                    found.append(
                        (
                            value,
                            ProbedWriter(layer, name, parameter, axis, tuple(self.names[n] for n in chain)),
                            chain,
                        )
                    )
                elif any(target is None or target in self.chains for a in arrivals.values() for target in a):
                    unclear.append((module, value, f"{name}.{parameter}", axes))
                elif axes and layer is not None and not any(arrivals.values()) and self._is_asleep(value):
                    asleep.add(value)
        for module, value, name, axes in unclear:
            passed = any(module in chain for _, _, chain in found)
            if not passed and not self._is_behind(found, module, value, axes):
                raise ArchitectureError(
                    f"'{name}' reaches the residual stream through a product or a nonlinearity, which no "
                    "edit of its weights can follow"
                )
        self._check_complete(found, stream)
        return [row for _, row, _ in found]

    def _check_complete(self, found: list[Place], stream: Tensor | None) -> None:
        """With u removed from all writers and the incoming stream, none is in the outgoing one."""
        unit = self.random.unit()
        with ExitStack() as projected:
            for value, row, chain in found:
                projected.enter_context(
                    set_parameter(value, _project_out(value, row.axis, self._fold(unit, chain)))
                )
            out = self.run(None if stream is None else _project_out(stream, stream.ndim - 1, unit))
        left = float((out @ unit).norm() / out.norm())
        if left > STRAIGHT:
            raise ArchitectureError(
                f"something in '{self.path or 'front of the first block'}' writes to the residual stream "
                f"without weights (a fixed position encoding, say): {left:.3f} of the stream remains along a "
                "removed direction"
            )

    def _run_frozen(self, thawed: Iterable[nn.Module]) -> Seen:
        """One run with all leaves but some frozen."""
        seen: Seen = {}
        with ExitStack() as hooks:
            hooks.enter_context(
                freeze_outputs([m for m in self.frozen if m not in set(thawed)], self.outputs)
            )
            for norm in self.norms:
                hooks.callback(
                    norm.register_forward_pre_hook(partial(keep_input, seen), with_kwargs=True).remove
                )
            seen[None] = self.run(None)
        return seen

    def _find_chains(self) -> dict[nn.Module, tuple[nn.Module, ...]]:
        """The norms that lead to the stream, each with the norms that are passed from it on, itself
        first.
        """
        straight: dict[nn.Module, set[nn.Module | None]] = {}
        for norm in self.norms:
            unit = self.random.unit()

            def perturb(_m: nn.Module, _a: Any, output: Tensor, unit: Vector = unit) -> Tensor:
                return output + (self.random.normal(*output.shape[:-1], 1) * unit).to(output)

            # After the hook that freezes it, so this one adds to the frozen output.
            with freeze_outputs([norm], self.outputs):
                handle = norm.register_forward_hook(perturb)
                try:
                    seen = self._run_frozen([norm])
                finally:
                    handle.remove()
            straight[norm] = {at for at, how in self._compare(seen, unit).items() if how == "straight"}
        chains: dict[nn.Module, tuple[nn.Module, ...]] = {
            n: (n,) for n, ends in straight.items() if None in ends
        }
        for _ in self.norms:
            for norm, ends in straight.items():
                beyond = next(
                    (chains[end] for end in ends if end in chains and norm not in chains[end]), None
                )
                if norm not in chains and beyond is not None:
                    chains[norm] = (norm, *beyond)
        return chains

    def _arrivals(self, value: Tensor, axis: int) -> dict[nn.Module | None, Shape]:
        """Where a change of a parameter along a random u arrives while all else is frozen, and in
        what shape.
        """
        unit = self.random.unit()
        step, thawed = self._random_change(value, axis, unit), [self._owner(value)]
        try:
            with set_parameter(value, value + step):
                return self._compare(self._run_frozen(thawed), unit)
        except RuntimeError:
            # A router that sends other numbers of tokens to experts whose outputs are frozen: stir
            # it less.
            with set_parameter(value, value + GENTLE * step):
                return self._compare(self._run_frozen(thawed), unit)

    def _owner(self, value: Tensor) -> nn.Module:
        return next(
            module for module in self.names if any(value is own for _, own in _own_parameters(module))
        )

    def _compare(self, seen: Seen, unit: Vector) -> dict[nn.Module | None, Shape]:
        arrived: dict[nn.Module | None, Shape] = {}
        for at, value in seen.items():
            if value.shape != self.seen[at].shape:
                arrived[at] = "bent"  # Another number of tokens: a router sent them elsewhere.
                continue
            change = value - self.seen[at]
            length = float(change.norm())
            if length > NOTHING * float(self.seen[at].norm()):
                across = (
                    change - (change @ unit)[..., None] * unit if change.shape[-1] == len(unit) else change
                )
                arrived[at] = "straight" if float(across.norm()) <= STRAIGHT * length else "bent"
        return arrived

    def _find_place(
        self, module: nn.Module, arrivals: dict[int, dict[nn.Module | None, Shape]]
    ) -> tuple[int | None, tuple[nn.Module, ...]]:
        """The axis and the norms passed by a parameter that writes; no axis for any other."""
        for axis, arrived in arrivals.items():
            if arrived.get(None) == "straight":
                return axis, ()
        for axis, arrived in arrivals.items():
            for norm, chain in self.chains.items():
                if arrived.get(norm) == "straight" and norm is not module and None not in arrived:
                    return axis, chain
        return None, ()

    def _is_behind(
        self,
        found: list[Place],
        module: nn.Module,
        value: Tensor,
        axes: list[int],
    ) -> bool:
        """Whether nothing of what a parameter does arrives along u once u is projected out of all
        writers.
        """
        unit = self.random.unit()
        with ExitStack() as projected:
            for writer, row, chain in found:
                if writer is not value:
                    projected.enter_context(
                        set_parameter(writer, _project_out(writer, row.axis, self._fold(unit, chain)))
                    )
            thawed = [module, *self.chains, *(self._owner(writer) for writer, _, _ in found)]
            before = self._run_frozen(thawed)
            for axis in axes:
                with set_parameter(
                    value, value + GENTLE * self._random_change(value, axis, self.random.unit())
                ):
                    after = self._run_frozen(thawed)
                change = after[None] - before[None]
                rounding = NOTHING * float(before[None].norm())
                if float((change @ unit).norm()) > STRAIGHT * float(change.norm()) + rounding:
                    return False
        return True

    def _fold(self, unit: Vector, chain: tuple[nn.Module, ...]) -> Vector:
        for norm in reversed(chain):
            measured = measure_gain(norm, self.random.width)
            assert measured is not None, "a chain is made of norms alone"
            unit = fold(unit[None], measured.gain, measured.centred)[0]
        return unit

    def _is_asleep(self, value: Tensor) -> bool:
        """Whether a parameter changes nothing at all, with nothing frozen."""
        # Large, for what only chooses (a router, an index) changes nothing until the choice does.
        size = 10 * float(value.float().std(correction=0)) + 1.0
        with set_parameter(value, value + (size * self.random.normal(*value.shape)).to(value)):
            return torch.equal(self.run(None), self.clean)

    def _random_change(self, value: Tensor, axis: int, unit: Vector) -> Tensor:
        """A random change of a parameter, along `unit` on one axis, about as large as the
        parameter.
        """
        size = max(float(value.float().square().mean().sqrt()), 1e-3) * self.random.width**0.5
        weights = size * self.random.normal(*(1 if a == axis else n for a, n in enumerate(value.shape)))
        return (unit.reshape([len(unit) if a == axis else 1 for a in range(value.ndim)]) * weights).to(value)


def _is_gain(module: nn.Module, given: list[Any], width: int) -> bool:
    """A norm over the stream, or a learned scale of it, by what it does."""
    if not given or not isinstance(given[0], Tensor) or given[0].shape[-1:] != (width,):
        return False
    if isinstance(module, nn.Embedding) or not all(
        p.ndim <= 1 and p.numel() in (1, width) for p in module.parameters()
    ):
        return False
    try:
        measured = measure_gain(module, width)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # It does not take a stream alone.
    if measured is None:
        return False
    # The identity (dropout) holds nothing back; it need not be frozen.
    return bool(measured.normalises or list(module.parameters()))


def _project_out(value: Tensor, axis: int, unit: Vector) -> Tensor:
    rows = value.movedim(axis, -1).float()
    return (rows - (rows @ unit)[..., None] * unit).movedim(-1, axis).to(value)


def _own_parameters(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters(recurse=False))


def _modules_below(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [inner for module in modules for inner in module.modules()]
