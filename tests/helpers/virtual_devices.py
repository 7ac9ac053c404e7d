"""Virtual devices: CPU tensors with the tag of a device, under PyTorch's rules for tensors of
several devices.

    with virtual_machine("cuda", 4) as machine:
        run(model, out, device="auto")     # loaded by load_model, spread over four cards
    machine.moves                          # transfers by source, target and line of the package

What is checked are calls of Python. There are no kernels, no memory of a card, no other rounding
and no threads: numbers are those of the CPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Transfer", "VirtualDevices", "place", "spread", "tag_of", "virtual_machine"]

PACKAGE = "/src/vectomy/"
FREE = 80 << 30
NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
# Functions that PyTorch allows for tensors of two devices.
MIXING = {
    "copy_",
    "_make_subclass",
    "__set__",
    "type_as",
    "set_",
    "__repr__",
    "backward",
    "__getitem__",
    "_has_compatible_shallow_copy_type",
}
# Functions that bring a number to Python: they wait for the device.
READS = {"item", "tolist", "__float__", "__bool__", "__int__", "__index__"}
PROPERTIES = {"device", "is_cuda", "is_mps", "is_cpu"}


class Transfer(NamedTuple):
    source: str
    target: str
    place: str
    """File and line of the package, or `?` for one outside it."""


def tag_of(tensor: Tensor) -> str:
    """The device that a tensor claims to be on."""
    with torch._C.DisableTorchFunction():
        if tensor.is_meta:
            return "meta"
    return str(tensor.__dict__.get("_virtual_device", "cpu"))


def _tag(value: Any, device: str) -> Any:
    """Tag a tensor, or those of a list or dict."""
    if isinstance(value, Tensor):
        value.__dict__["_virtual_device"] = device
    elif isinstance(value, list | tuple):
        for item in value:
            _tag(item, device)
    elif isinstance(value, dict):
        _tag(list(value.values()), device)
    return value


def _name(device: Any) -> str:
    if isinstance(device, int):
        return f"cuda:{device}"
    named = torch.device(device)
    return f"{named.type}:0" if named.type in ("cuda", "mps") and named.index is None else str(named)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _find_place() -> str:
    """The line of the package that called PyTorch."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if PACKAGE in name:
            return f"{name.partition(PACKAGE)[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


class NoEvent:
    """torch.Event where nothing runs by itself."""

    def __init__(self, device: Any = None, blocking: bool = False) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class VirtualDevices(TorchFunctionMode):
    """A mode in which every call of PyTorch keeps to the tags.

    Attributes:
        moves: transfers between devices.
        waits: places that wait for a device: a number is read, or a tensor brought to the CPU.
        paused: calls pass as on a machine without virtual devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: Counter[Transfer] = Counter()
        self.waits: Counter[str] = Counter()
        self.paused = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.paused:
            return func(*args, **(kwargs or {}))
        given = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name == "__get__" and (asked := _property(func)) is not None:
            own = tag_of(args[0])
            return torch.device(own) if asked == "device" else own.partition(":")[0] == asked[3:]
        if name in ("numpy", "__array__") and (own := tag_of(args[0])) != "cpu":
            raise TypeError(f"can't convert {own} device type tensor to numpy. Use Tensor.cpu()")
        if name in READS and tag_of(args[0]) != "cpu":
            self.waits[_find_place()] += 1
        if name in ("to", "cuda", "cpu"):
            return self._move(func, name, args, given)
        if name == "__set__" and getattr(func, "__self__", None) is Tensor.data:
            result = func(*args, **given)
            _tag(args[0], tag_of(args[1]))
            return result
        return self._call(func, name, args, given)

    def _move(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Tensor.to, .cuda and .cpu: a move is a copy with another tag."""
        source = tag_of(args[0])
        target, rest = _target_of(name, args, kwargs)
        target = target or source
        if target == "meta":
            return func(args[0], "meta", *rest, **kwargs)
        result = func(args[0], *rest, **kwargs) if name == "to" and (rest or kwargs) else args[0]
        if target.startswith("mps") and result.dtype == torch.float64:
            raise TypeError(NO_FLOAT64)
        if source != target:
            self.moves[Transfer(source, target, _find_place())] += 1
            if target == "cpu":
                self.waits[_find_place()] += 1
            if result is args[0]:
                result = result.clone()
        return _tag(result, target)

    def _call(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [*_tensors(args), *_tensors(kwargs)]
        target = None
        if kwargs.get("device") is not None:
            target = _name(kwargs["device"])
            if target == "meta":
                return func(*args, **kwargs)
            kwargs["device"] = "cpu"
        if "pin_memory" in kwargs:
            kwargs["pin_memory"] = False
        on_mps = target == "mps:0" or any(tag_of(t) == "mps:0" for t in tensors)
        if on_mps and (name == "double" or kwargs.get("dtype") is torch.float64):
            raise TypeError(NO_FLOAT64)
        if kwargs.get("generator") is not None and target not in (None, "cpu"):
            raise RuntimeError(f"Expected a '{target}' device type for generator but found 'cpu'")
        own = tag_of(args[0]) if args and isinstance(args[0], Tensor) else None
        if name == "__iter__" and own is not None:
            return iter(_tag(list(torch.unbind(args[0])), own))
        if name.startswith("_foreach_"):
            # Optimisers: one call for each place of the lists.
            result = func(*args, **kwargs)
            for made, given in zip(result or (), args[0], strict=False):
                _tag(made, tag_of(given))
            return result
        if name == "histc":
            # Cards count integers, too.
            args = (args[0].float(), *args[1:])
        if target is None:
            self._check_one_device(name, args, tensors, own)
            target = _target_of_result(name, own, tensors)
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            return _tag(result, target) if isinstance(result, list | tuple) else result
        # What is changed in place stays where it is.
        if not any(result is t for t in tensors) or "_virtual_device" not in result.__dict__:
            _tag(result, target)
        return result

    def _check_one_device(
        self, name: str, args: tuple[Any, ...], tensors: Iterable[Tensor], own: str | None
    ) -> None:
        """Raises RuntimeError where PyTorch would: tensors of several devices, single numbers of
        the CPU aside.
        """
        devices = {tag_of(t) for t in tensors if t.ndim > 0} - {"meta"}
        if len(devices) < 2:
            return
        allowed = name in MIXING
        if name in ("__getitem__", "__setitem__"):
            places = {tag_of(t) for t in _tensors(args[1])}
            if not places <= {"cpu", own}:
                raise RuntimeError(
                    "indices should be either on cpu or on the same device as the indexed tensor "
                    f"({own}), not {places} at {_find_place()}"
                )
        if name == "__setitem__":
            value = args[2]
            source = tag_of(value) if isinstance(value, Tensor) else own
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            # A list is an index tensor, too; assignment through one takes values of its own device.
            listed = bool(places) or any(isinstance(index, list) for index in indices)
            allowed = source == own or not listed or value.ndim == 0
            if allowed and source != own:
                self.moves[Transfer(str(source), str(own), _find_place())] += 1
        if not allowed:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{sorted(devices)}! (in {name}) at {_find_place()}"
            )


def _property(func: Any) -> str | None:
    owner = getattr(func, "__self__", None)
    return next((name for name in PROPERTIES if owner is getattr(Tensor, name)), None)


def _target_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, list[Any]]:
    """The device that a move names, if any, and its other arguments; takes it out of `kwargs`."""
    if name == "cpu":
        return "cpu", []
    if name == "cuda":
        return _name(args[1] if len(args) > 1 and args[1] is not None else "cuda"), []
    target, rest = None, []
    for value in [*args[1:], *([kwargs.pop("other")] if "other" in kwargs else [])]:
        if isinstance(value, Tensor):
            target = tag_of(value)
            rest.append(value.dtype)
        elif isinstance(value, torch.device | str) or type(value) is int:
            target = _name(value)
        elif isinstance(value, bool):
            kwargs["copy" if "non_blocking" in kwargs else "non_blocking"] = value
        elif value is not None:
            rest.append(value)
    device = kwargs.pop("device", None)
    return (target if device is None else _name(device)), rest


def _target_of_result(name: str, own: str | None, tensors: Iterable[Tensor]) -> str:
    if own is not None and (name.startswith("new_") or name in ("__getitem__", "copy_", "__setitem__")):
        return own
    by_size = sorted(tensors, key=lambda tensor: tensor.ndim == 0)
    return next((tag for tensor in by_size if (tag := tag_of(tensor)) not in ("cpu", "meta")), "cpu")


def place(model: nn.Module, device: str) -> nn.Module:
    """The model on one virtual device."""
    for tensor in [*model.parameters(), *model.buffers()]:
        _tag(tensor, _name(device))
    return model


def spread(model: nn.Module, count: int) -> nn.Module:
    """The model over several virtual cards, with accelerate's own hooks: blocks in order, the
    embedding on the first card, and what comes behind the blocks on the last.
    """
    from accelerate import dispatch_model

    from vectomy.architecture import architecture_of

    live = architecture_of(model)
    blocks = [live.block(layer) for layer in range(live.n_layers)]
    cards = {name: f"cuda:{layer * count // live.n_layers}" for layer, name in enumerate(blocks)}
    for name, module in model.named_modules():
        inside = any(block == name or block.startswith(f"{name}.") for block in blocks) or not name
        if not inside and not any(name.startswith(f"{done}.") or name == done for done in cards):
            first = module is model.get_input_embeddings() or "rotary" in name
            cards[name] = "cuda:0" if first else f"cuda:{count - 1}"
    return dispatch_model(model, device_map=cards, force_hooks=True)


def _fraction_of_card(device: torch.device | int | None = None) -> float:
    """Strict as the real one: `cuda` without an index is refused."""
    if isinstance(device, torch.device) and device.index is None:
        raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
    return 1.0


@contextmanager
def virtual_machine(
    kind: Literal["cuda", "mps"], count: int = 1, capability: tuple[int, int] = (9, 0)
) -> Iterator[VirtualDevices]:
    """A machine with virtual cards, or with Apple's chip. transformers loads models onto them; what
    PyTorch says of this machine agrees. Nothing of it is left behind the block.
    """
    from accelerate import PartialState
    from transformers import PreTrainedModel

    machine = VirtualDevices()
    load = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]
    create = nn.Parameter.__new__

    def load_placed(cls: Any, *args: Any, device_map: Any = None, **options: Any) -> Any:
        machine.paused = True
        try:
            loaded = load(cls, *args, **options)
        finally:
            machine.paused = False
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if device_map == "auto" and count > 1:
            spread(model, count)
        elif device_map not in (None, "cpu"):
            place(model, "cuda:0" if device_map == "auto" else device_map)
        return loaded

    def create_parameter(cls: Any, data: Any = None, requires_grad: bool = True, **more: Any) -> Any:
        # accelerate copies a parameter with the attributes of the old one as arguments.
        more.pop("_virtual_device", None)
        made = create(cls, data, requires_grad, **more)
        return _tag(made, tag_of(data)) if isinstance(data, Tensor) else made

    cards: dict[str, Any] = {
        "is_available": lambda: kind == "cuda",
        "device_count": lambda: count if kind == "cuda" else 0,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: "virtual card",
        "mem_get_info": lambda device=None: (FREE, FREE),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "get_device_capability": lambda device=None: capability,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "get_per_process_memory_fraction": _fraction_of_card,
    }
    with ExitStack() as stack:
        stack.enter_context(patch.object(PreTrainedModel, "from_pretrained", classmethod(load_placed)))
        stack.enter_context(patch.object(nn.Parameter, "__new__", create_parameter))
        # The trainer stores the state of random numbers.
        stack.enter_context(patch.object(torch.cuda.random, "get_rng_state", torch.get_rng_state))
        for name, answer in cards.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        stack.enter_context(patch.object(torch.backends.mps, "is_available", lambda: kind == "mps"))
        stack.enter_context(patch.object(torch, "Event", NoEvent))
        stack.callback(PartialState._reset_state)
        PartialState._reset_state()
        yield stack.enter_context(machine)
