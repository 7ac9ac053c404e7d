"""Find the residual writers of a live model numerically, with no table of names.

The stream is what one block hands to the next. Each block runs alone, with the output of every leaf
module held at what it was in a clean run: what is left are the residual additions and the
arithmetic between them. A random change along one unit vector u of the stream is put on a
parameter; when the block's output changes by a multiple of u at every token, the parameter writes
to the stream along that axis. The same is seen at the input of every norm, and of a change put on
the output of every norm: so a writer is found whose output passes one norm, or two, on its way. A
change that arrives in any other shape has to vanish along u when u is taken out of the writers that
were found (an inner layer, a gate that multiplies a writer's output); else no projection of weights
can follow it, and the probe stops with the parameter's name.

After path patching (Goldowsky-Dill et al., arXiv 2304.05969): everything but one path is frozen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vectomy.architecture.norms import fold, measure_gain
from vectomy.core.errors import ArchitectureError
from vectomy.core.module_io import first_input, first_output
from vectomy.core.types import TokenIds, Vector

__all__ = ["ProbedWriter", "probe"]

# A change smaller than this share of the stream is rounding.
NOTHING = 3e-6
# How far from one line a change may be, in float32 through one block.
STRAIGHT = 2e-3
# A change that moves no token to another expert.
GENTLE = 1e-2


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


@torch.no_grad()
def probe(model: nn.Module, input_ids: TokenIds | None = None, *, seed: int = 0) -> list[ProbedWriter]:
    """All parameters that write to the stream of a live model: embeddings first, then block by
    block.

    Costs one forward pass of the model, and for each parameter as wide as the stream a few of its
    block alone, on some twenty tokens. The weights have to be real, in a dtype of at least float32
    precision.

    Raises:
        ArchitectureError: no stack of blocks shares a stream; the stream is changed between or on
            its way through blocks; a parameter reaches the stream in a way that no edit of its
            weights can follow; a part was never run.
    """
    generator = torch.Generator().manual_seed(seed)
    if input_ids is None:
        count = model.get_input_embeddings().weight.shape[0]
        input_ids = torch.randint(min(8, count // 2), count, (2, 12), generator=generator)
    path, blocks, width = _blocks(model, input_ids)
    calls, results = _called(model, blocks, input_ids)
    for layer in range(1, len(blocks)):
        if not torch.equal(results[layer - 1], first_input(*calls[layer])):
            raise ArchitectureError(
                f"the stream is changed between {path}.{layer - 1} and {path}.{layer}, by something that belongs to neither"
            )
    dice, asleep = _Dice(generator, width), set[nn.Parameter]()
    found = _Part("", model, _until(model, blocks[0], input_ids), dice, set(_below(blocks))).writers(
        None, None, asleep
    )
    awake: set[nn.Parameter] = set()
    for layer, (block, call) in enumerate(zip(blocks, calls, strict=True)):
        part, idle = _Part(f"{path}.{layer}", block, _again(block, call), dice), set[nn.Parameter]()
        stream = first_input(*call)
        part.check_stream_passes(stream)
        found += part.writers(layer, stream, idle)
        asleep |= idle
        awake |= set(block.parameters()) - idle
    names = {value: name for name, value in model.named_parameters()}
    for value in asleep - awake:
        raise ArchitectureError(f"the probe never used '{names[value]}', so what it writes is not known")
    return found


@dataclass
class _Dice:
    """Random directions of the stream."""

    generator: torch.Generator
    width: int

    def unit(self) -> Vector:
        vector = torch.randn(self.width, generator=self.generator)
        return vector / vector.norm()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


Shape = Literal["straight", "bent"]
Call = tuple[tuple[Any, ...], dict[str, Any]]
Outputs = dict[nn.Module, list[Any]]
# Runs a part of the model, with another stream coming in or the recorded one, and gives the stream
# that goes out.
Run = Callable[[Tensor | None], Tensor]


# What was seen of a run: the stream that goes out (None), and what went into each norm.
Seen = dict[nn.Module | None, Tensor]


# A writer, what is said of it, and the norms that it passes.
Place = tuple[Tensor, ProbedWriter, tuple[nn.Module, ...]]


class _Part:
    """A block, or all that comes before the first one: its modules, and what each gave in a clean
    run.
    """

    def __init__(
        self, path: str, root: nn.Module, run: Run, dice: _Dice, outside: Collection[nn.Module] = ()
    ) -> None:
        self.path, self.run, self.dice = path, run, dice
        named = root.named_modules(prefix=path, remove_duplicate=True)
        self.names = {module: name for name, module in named if module not in outside}
        leaves = [m for m in self.names if _own(m) and not any(_own(c) for c in _below([m])[1:])]
        with _watched(self.names) as outputs:
            self.clean = run(None)
        self.outputs = outputs
        self.norms = [
            m for m in self.names if not list(m.children()) and _is_gain(m, outputs.get(m, []), dice.width)
        ]
        self.frozen = list(dict.fromkeys([*leaves, *self.norms]))
        self.seen = self._look([])
        self.chains = self._chains()

    def check_stream_passes(self, stream: Tensor) -> None:
        unit = self.dice.unit()
        amount = self.dice.normal(*stream.shape[:-1], 1) * float(stream.float().std() + 1e-3)
        with _frozen(self.frozen, self.outputs):
            change = self.run(stream + (amount * unit).to(stream)) - self.run(None)
        ratio = float((change @ unit * amount[..., 0]).sum() / (amount**2).sum())
        left = float((change - ratio * amount * unit).norm())
        if not ratio or left > STRAIGHT * abs(ratio) * float(amount.norm()):
            raise ArchitectureError(
                f"the stream does not pass '{self.path}' unchanged (a norm, gate or mixture stands on it), so removing a "
                "direction from what is written does not remove it from the stream"
            )

    def writers(
        self, layer: int | None, stream: Tensor | None, asleep: set[nn.Parameter]
    ) -> list[ProbedWriter]:
        """The writers of this part; `asleep` gathers the parameters that changed nothing at all."""
        found, unclear = [], []
        known: set[nn.Parameter] = set()
        for module, name in self.names.items():
            for parameter, value in _own(module):
                if value in known:
                    continue  # A tied one is named once, where it stands first.
                known.add(value)
                axes = [axis for axis, size in enumerate(value.shape) if size == self.dice.width]
                arrivals = {axis: self._arrivals(value, axis) for axis in axes}
                axis, chain = self._placed(module, arrivals)
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
                elif axes and layer is not None and not any(arrivals.values()) and self._sleeps(value):
                    asleep.add(value)
        for module, value, name, axes in unclear:
            passed = any(module in chain for _, _, chain in found)
            if not passed and not self._behind(found, module, value, axes):
                raise ArchitectureError(
                    f"'{name}' reaches the residual stream in a way that no edit of its weights can follow: what it gives is "
                    "multiplied with, or bent by, something on the way"
                )
        self._check_complete(found, stream)
        return [row for _, row, _ in found]

    def _check_complete(self, found: list[Place], stream: Tensor | None) -> None:
        """With u projected out of all writers, and out of the stream that comes in, none goes out."""
        unit = self.dice.unit()
        with ExitStack() as projected:
            for value, row, chain in found:
                projected.enter_context(
                    _changed(value, _projected(value, row.axis, self._folded(unit, chain)))
                )
            out = self.run(None if stream is None else _projected(stream, stream.ndim - 1, unit))
        left = float((out @ unit).norm() / out.norm())
        if left > STRAIGHT:
            raise ArchitectureError(
                f"something in '{self.path or 'front of the first block'}' writes to the residual stream without weights (a fixed "
                f"position encoding, say): {left:.3f} of the stream stays along a removed direction"
            )

    def _look(self, thawed: Iterable[nn.Module]) -> Seen:
        """One run with all leaves but some frozen."""
        seen: Seen = {}
        with ExitStack() as hooks:
            hooks.enter_context(_frozen([m for m in self.frozen if m not in set(thawed)], self.outputs))
            for norm in self.norms:
                hooks.callback(
                    norm.register_forward_pre_hook(partial(_keep_input, seen), with_kwargs=True).remove
                )
            seen[None] = self.run(None)
        return seen

    def _chains(self) -> dict[nn.Module, tuple[nn.Module, ...]]:
        """The norms that lead to the stream, each with the norms that are passed from it on, itself
        first.
        """
        straight: dict[nn.Module, set[nn.Module | None]] = {}
        for norm in self.norms:
            unit = self.dice.unit()

            def changed(_m: nn.Module, _a: Any, output: Tensor, unit: Vector = unit) -> Tensor:
                return output + (self.dice.normal(*output.shape[:-1], 1) * unit).to(output)

            # After the hook that freezes it, so this one adds to the frozen output.
            with _frozen([norm], self.outputs):
                handle = norm.register_forward_hook(changed)
                try:
                    seen = self._look([norm])
                finally:
                    handle.remove()
            straight[norm] = {at for at, how in self._compared(seen, unit).items() if how == "straight"}
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
        unit = self.dice.unit()
        step, thawed = self._step(value, axis, unit), [self._owner(value)]
        try:
            with _changed(value, value + step):
                return self._compared(self._look(thawed), unit)
        except RuntimeError:
            # A router that sends other numbers of tokens to experts whose outputs are frozen: stir
            # it less.
            with _changed(value, value + GENTLE * step):
                return self._compared(self._look(thawed), unit)

    def _owner(self, value: Tensor) -> nn.Module:
        return next(module for module in self.names if any(value is own for _, own in _own(module)))

    def _compared(self, seen: Seen, unit: Vector) -> dict[nn.Module | None, Shape]:
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

    def _placed(
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

    def _behind(
        self,
        found: list[Place],
        module: nn.Module,
        value: Tensor,
        axes: list[int],
    ) -> bool:
        """Whether nothing of what a parameter does arrives along u once u is projected out of all
        writers.
        """
        unit = self.dice.unit()
        with ExitStack() as projected:
            for writer, row, chain in found:
                if writer is not value:
                    projected.enter_context(
                        _changed(writer, _projected(writer, row.axis, self._folded(unit, chain)))
                    )
            thawed = [module, *self.chains, *(self._owner(writer) for writer, _, _ in found)]
            before = self._look(thawed)
            for axis in axes:
                with _changed(value, value + GENTLE * self._step(value, axis, self.dice.unit())):
                    after = self._look(thawed)
                change = after[None] - before[None]
                rounding = NOTHING * float(before[None].norm())
                if float((change @ unit).norm()) > STRAIGHT * float(change.norm()) + rounding:
                    return False
        return True

    def _folded(self, unit: Vector, chain: tuple[nn.Module, ...]) -> Vector:
        for norm in reversed(chain):
            measured = measure_gain(norm, self.dice.width)
            assert measured is not None, "a chain is made of norms alone"
            unit = fold(unit[None], measured.gain, measured.centred)[0]
        return unit

    def _sleeps(self, value: Tensor) -> bool:
        """Whether a parameter changes nothing at all, with nothing frozen."""
        # Large, for what only chooses (a router, an index) changes nothing until the choice does.
        size = 10 * float(value.float().std(correction=0)) + 1.0
        with _changed(value, value + (size * self.dice.normal(*value.shape)).to(value)):
            return torch.equal(self.run(None), self.clean)

    def _step(self, value: Tensor, axis: int, unit: Vector) -> Tensor:
        """A random change of a parameter, along `unit` on one axis, about as large as the
        parameter.
        """
        size = max(float(value.float().square().mean().sqrt()), 1e-3) * self.dice.width**0.5
        weights = size * self.dice.normal(*(1 if a == axis else n for a, n in enumerate(value.shape)))
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
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
        return False  # It does not take a stream alone.
    if measured is None:
        return False
    # The identity (dropout) holds nothing back; it need not be frozen.
    return bool(measured.normalises or list(module.parameters()))


def _projected(value: Tensor, axis: int, unit: Vector) -> Tensor:
    rows = value.movedim(axis, -1).float()
    return (rows - (rows @ unit)[..., None] * unit).movedim(-1, axis).to(value)


def _own(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(module.named_parameters(recurse=False))


def _below(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return [inner for module in modules for inner in module.modules()]


# Runs


def _forward(model: nn.Module, input_ids: TokenIds) -> None:
    model(input_ids=input_ids, use_cache=False)


def _blocks(model: nn.Module, input_ids: TokenIds) -> tuple[str, list[nn.Module], int]:
    """The outermost list of modules of which each takes a (batch x token x width) stream and gives
    one like it.
    """
    seen: dict[nn.Module, int] = {}

    def watch(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        taken = args[0] if args else kwargs.get("hidden_states")
        given = output[0] if isinstance(output, tuple) else output
        if (
            isinstance(taken, Tensor)
            and isinstance(given, Tensor)
            and taken.shape == given.shape
            and taken.ndim == 3
        ):
            seen[module] = taken.shape[-1]

    lists = {
        name: list(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)
    }
    with ExitStack() as hooks:
        for module in dict.fromkeys(child for children in lists.values() for child in children):
            hooks.callback(module.register_forward_hook(watch, with_kwargs=True).remove)
        _forward(model, input_ids)
    for name, children in lists.items():
        if children and all(child in seen for child in children):
            return name, children, seen[children[0]]
    raise ArchitectureError(
        f"{type(model).__name__} has no stack of blocks of which each takes the residual stream and gives it on, so its writers "
        "cannot be found"
    )


def _called(
    model: nn.Module, blocks: list[nn.Module], input_ids: TokenIds
) -> tuple[list[Call], list[Tensor]]:
    """With what each block is called, and what it gives."""
    calls: list[Call] = []
    results: list[Tensor] = []

    def before(_module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.append((_copied(args), _copied(kwargs)))

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        results.append(first_output(output).clone())

    with ExitStack() as hooks:
        for block in blocks:
            hooks.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            hooks.callback(block.register_forward_hook(after).remove)
        _forward(model, input_ids)
    if len(calls) != len(blocks):
        raise ArchitectureError(
            f"{len(blocks)} blocks were run {len(calls)} times in one pass; their stream is not one"
        )
    return calls, results


def _again(block: nn.Module, call: Call) -> Run:
    """Runs one block alone."""

    def run(stream: Tensor | None) -> Tensor:
        args, kwargs = _copied(call[0]), _copied(call[1])
        if stream is not None and args:
            args = (stream, *args[1:])
        elif stream is not None:
            kwargs["hidden_states"] = stream
        return first_output(block(*args, **kwargs)).float().clone()

    return run


class _EnteredError(Exception):
    """The first block was reached."""


def _until(model: nn.Module, first: nn.Module, input_ids: TokenIds) -> Run:
    """Runs a model until its first block is entered."""

    def run(_stream: Tensor | None) -> Tensor:
        entered: list[Tensor] = []

        def stop(_m: nn.Module, args: Any, kwargs: Any) -> None:
            entered.append(first_input(args, kwargs).float().clone())
            raise _EnteredError

        handle = first.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            _forward(model, input_ids)
        except _EnteredError:
            pass
        finally:
            handle.remove()
        return entered[0]

    return run


def _copied(value: Any) -> Any:
    """Tensors cloned, since blocks may add in place."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value


@contextmanager
def _watched(modules: Iterable[nn.Module]) -> Iterator[Outputs]:
    """What each module gives, call by call, while the block is entered."""
    outputs: Outputs = {}

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        outputs.setdefault(module, []).append(_copied(output))

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_hook(after).remove)
        yield outputs


@contextmanager
def _frozen(modules: Iterable[nn.Module], outputs: Outputs) -> Iterator[None]:
    """Each module gives what it gave, call by call, in every whole run while the block is entered."""
    with ExitStack() as hooks:
        for module in modules:
            if module not in outputs:
                continue
            # No closure: there are thousands of these, and a signature checker would look at each
            # anew.
            hook = partial(_replay, itertools.cycle(outputs[module]))
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _replay(kept: Iterator[Any], _module: nn.Module, _args: Any, _output: Any) -> Any:
    return _copied(next(kept))


def _keep_input(seen: Seen, module: nn.Module, args: Any, kwargs: Any) -> None:
    seen.setdefault(module, first_input(args, kwargs).float().clone())


@contextmanager
def _changed(parameter: Tensor, value: Tensor) -> Iterator[None]:
    old = parameter.detach().clone()
    parameter.copy_(value)
    try:
        yield
    finally:
        parameter.copy_(old)
