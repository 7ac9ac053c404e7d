"""A smaller model of the same type: every kind of block once, narrow, with few tokens.

Where a model writes to its stream shows in its modules, not in their sizes, so that an unknown type
is probed on a small one: 8B take 32 GiB in float32, its smallest likeness 0.1.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["reduce_config"]

# The width of the stream and the tokens of the smallest likeness.
WIDTH, VOCABULARY = 256, 512
NUMBERED = re.compile(r"(.*?\w)\.(\d+)\.(.+)")
INNER = re.compile(r"(intermediate|inner|ffn|ff|mlp)_?(size|dim)$|^n_inner$|^d_ff$")
HEADS = ("num_attention_heads", "num_key_value_heads")


def reduce_config(config: Any, model: nn.Module) -> Iterator[Any]:
    """Configurations of smaller models, the smallest first: of fewer blocks and less width, then of
    fewer blocks alone. Not every type can be built from each; the caller tries them.

    Args:
        model: the whole model, which may be on the meta device.
    """
    depth = _count_needed(config, model)
    if depth is None:
        return
    for narrow in (True, False):
        reduced = copy.deepcopy(config)
        text = reduced.get_text_config()
        _cut_depth(text, depth)
        if not narrow or _cut_width(text):
            yield reduced


def _count_needed(config: Any, model: nn.Module) -> int | None:
    """The fewest first blocks that hold every kind of block; at least two, for the stream between
    them is looked at. None where that is not known.
    """
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    blocks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, _ in model.named_parameters():
        match = NUMBERED.fullmatch(name)
        if match:
            blocks[match[1]][int(match[2])].add(match[3])
    stacks = [stack for stack in blocks.values() if len(stack) == count]
    if not isinstance(count, int) or len(stacks) != 1:
        return None
    listed = [value for value in vars(config.get_text_config()).values() if _is_listed(value, count)]
    kinds = [
        (frozenset(stacks[0][layer]), *(str(value[layer]) for value in listed)) for layer in range(count)
    ]
    return min(count, max(2, 1 + max(kinds.index(kind) for kind in kinds)))


def _is_listed(value: object, count: int) -> bool:
    """Whether a value has an item a block."""
    return isinstance(value, list | tuple) and len(value) == count


def _cut_depth(text: Any, depth: int) -> None:
    count = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if _is_listed(value, count):
            setattr(text, name, value[:depth])
    text.num_hidden_layers = depth


def _cut_width(text: Any) -> bool:
    """Whether the width could be cut. Heads keep their width, and their number is cut where the
    stream is as wide as all of them.
    """
    width = getattr(text, "hidden_size", None)
    if not isinstance(width, int):
        return False
    factor = 1
    while width % (2 * factor) == 0 and width // (2 * factor) >= WIDTH:
        factor *= 2
    heads = [getattr(text, name, None) for name in HEADS]
    if getattr(text, "head_dim", None) is None:
        while any(isinstance(count, int) and count % factor for count in heads):
            factor //= 2
        for name, count in zip(HEADS, heads, strict=True):
            if isinstance(count, int):
                setattr(text, name, count // factor)
    for name, value in list(vars(text).items()):
        if INNER.search(name) and isinstance(value, int) and value % factor == 0:
            setattr(text, name, value // factor)
    text.hidden_size = width // factor
    _cut_vocabulary(text)
    return True


def _cut_vocabulary(text: Any) -> None:
    if getattr(text, "vocab_size", 0) > VOCABULARY:
        text.vocab_size = VOCABULARY
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(text, name, None) is not None:
                setattr(text, name, None)
