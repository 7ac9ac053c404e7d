"""Whether the shapes of readers, norms and head are those of one model.

transformers refuses a checkpoint with another shape when it is loaded; a bake reads no more than
names and shapes, and would copy it. Writers are checked in model_architecture.py.

What is checked holds on every model of the zoo: the head is [vocab, d_model]; the last norm is as
wide as the stream; layers that the configuration does not tell apart, and whose tensors have the
same names, have the same shapes; and in a block with plain attention the rows of its projections
are heads times the size of a head, and those of its MLP the intermediate size.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain

from vectomy.architecture.missing_tensor import explain_missing
from vectomy.architecture.model_architecture import NUMBER, OTHER_CONFIG, Architecture
from vectomy.core.errors import CheckpointError
from vectomy.core.json_value import JsonValue

__all__ = ["check_tensor_shapes"]

Shape = tuple[int, ...]

LAST_NORM = re.compile(
    r"(norm|norm_f|ln_f|final_layernorm|final_layer_norm|final_norm|layer_norm|out_norm|embedding_norm)"
    r"\.(weight|bias)"
)
# Types whose last norm has no weight, or that may have no last norm.
WITHOUT_LAST_NORM = ("olmo", "nanochat", "opt")
PROJECTION = re.compile(r"(?:self_attn|attention|attn)\.([qkv])_proj\.weight|mlp\.(gate|up)_proj\.weight")
# Integers of a configuration that may say which layers are of another kind.
PATTERN = re.compile(r"pattern|interval|period|every|freq|step|offset|first_k|_layers$|_layer$")
SAYS = {
    **dict.fromkeys("qkv", "the number of heads and their size"),
    **dict.fromkeys(("gate", "up"), "intermediate_size"),
}
# Ends of keys under which other things than layers are listed.
OTHER_LISTS = ("_token_id", "_token_ids", "_section", "id2label")
# Keys under which the rows of projections are more than heads times the size of a head.
OTHER_ATTENTION = (
    *("kv_lora_rank", "q_lora_rank", "v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim"),
    *("attn_output_gate", "use_output_gate"),
)


def _tell_layers_apart(text: Mapping[str, JsonValue], n_layers: int) -> tuple[str, ...]:
    """For each layer, all that the configuration of the text model may say of it alone: its entries
    in lists, its membership in lists of layers, what is said under its number, and its place in a
    pattern.
    """
    kinds: list[list[str]] = [[] for _ in range(n_layers)]
    inner = (value for value in text.values() if isinstance(value, Mapping))
    for key, value in chain(text.items(), *(part.items() for part in inner)):
        if key.endswith(OTHER_LISTS):
            continue
        for layer, kind in enumerate(kinds):
            if isinstance(value, Mapping):
                kind.append(repr(value.get(str(layer))))
            elif isinstance(value, list) and value:
                # A list that is shorter is repeated, or lists layers.
                kind.append(f"{value[layer % len(value)]!r} {layer in value}")
            elif type(value) is int and 1 <= value < n_layers and PATTERN.search(key):
                kind.append(f"{layer % value} {layer < value} {layer >= n_layers - value}")
    return tuple("; ".join(kind) for kind in kinds)


def check_tensor_shapes(architecture: Architecture) -> None:
    """Check readers, the last norm and the head.

    Raises:
        CheckpointError: with the tensor, its shape, and the one that it should have; or a reader is
            missing.
    """
    text = architecture.text_config
    kinds = None if text is None else _tell_layers_apart(text, architecture.n_layers)
    if kinds is not None and len(set(kinds)) == 1:
        _check_none_lacks(architecture)
    for name, expected, why in _list_expected(architecture, kinds):
        shape = architecture.shapes[name]
        if tuple(shape) != expected:
            raise CheckpointError(
                f"'{name}' has shape {list(shape)!s:.120}, and {list(expected)!s:.120} is expected: {why}; "
                f"{OTHER_CONFIG}"
            )


def _list_expected(
    architecture: Architecture, kinds: tuple[str, ...] | None
) -> Iterator[tuple[str, Shape, str]]:
    """Tensor, expected shape, and the reason for it."""
    width = architecture.d_model
    root = architecture.stored(f"{architecture.family.blocks}.").removesuffix(".").rpartition(".")[0]
    start = f"{root}." if root else ""
    outside = architecture.tensors_by_layer[None]
    norms = [
        name for name in outside if name.startswith(start) and LAST_NORM.fullmatch(name.removeprefix(start))
    ]
    optional = architecture.strict or kinds is None or architecture.model_type in WITHOUT_LAST_NORM
    if not norms and not optional:
        raise CheckpointError(
            f"the checkpoint holds no norm behind the last block ('{start}norm.weight' in most models); "
            f"{explain_missing([f'{start}norm.weight'], architecture.shapes)}"
        )
    for name in norms:
        yield name, (width,), "config.json says the width"
    if kinds is not None:
        yield from _list_head(architecture)
        yield from _list_alike(architecture, kinds)
        if len(set(kinds)) == 1:
            yield from _list_projections(architecture)


def _check_none_lacks(architecture: Architecture) -> None:
    """Where config.json says the same of all layers, one lacks nothing that all others have, unless
    it has something else instead, as a dense layer among those of experts.
    """
    places = {
        layer: {NUMBER.sub(".0.", f".{name[start:]}") for name in names}
        for layer, start, names in _layer_names(architecture)
    }
    counts = Counter(place for here in places.values() for place in here)
    for place, count in counts.items():
        if count == len(places) - 1 > 1:
            layer = next(layer for layer, here in places.items() if place not in here)
            if any(counts[own] == 1 for own in places[layer]):
                continue
            name = architecture.stored(f"{architecture.family.blocks}.{layer}{place}")
            raise CheckpointError(
                f"the checkpoint lacks '{name}', which every other layer has; "
                f"{explain_missing([name], architecture.shapes)}"
            )


def _list_head(architecture: Architecture) -> Iterator[tuple[str, Shape, str]]:
    name, shapes = architecture.head, architecture.shapes
    if name in shapes:
        embedding = architecture.writer("embedding", None).weights[0].name
        # Rows that pad the embedding pad the head as well, or are left out of it.
        rows = shapes[embedding][0] if shapes[name] == shapes[embedding] else architecture.vocab
        yield name, (rows, architecture.d_model), "config.json says vocabulary and width"


def _layer_names(architecture: Architecture) -> Iterator[tuple[int, int, list[str]]]:
    """Of each layer, its index, the length of its prefix, and its tensors."""
    for layer in range(architecture.n_layers):
        start = len(architecture.stored(f"{architecture.family.blocks}.{layer}."))
        yield layer, start, architecture.tensors_by_layer[layer]


def _list_alike(architecture: Architecture, kinds: tuple[str, ...]) -> Iterator[tuple[str, Shape, str]]:
    """Tensors that have the same place in layers of one kind, with the shape of most of them."""
    alike: dict[tuple[str, frozenset[str], str], list[str]] = defaultdict(list)
    for layer, start, names in _layer_names(architecture):
        # Experts are of one shape, however many a layer has.
        places = {name: NUMBER.sub(".N.", f".{name[start:]}") for name in names}
        here = frozenset(places.values())
        for name, place in places.items():
            alike[kinds[layer], here, place].append(name)
    for names in alike.values():
        counts = Counter(tuple(architecture.shapes[name]) for name in names)
        if len(counts) == 1:
            continue
        # Of as many of each, the one that fits the stream.
        expected = max(counts, key=lambda shape: (counts[shape], architecture.d_model in shape))
        like = next(name for name in names if tuple(architecture.shapes[name]) == expected)
        yield from ((name, tuple(expected), f"'{like}' has it") for name in names)


def _list_projections(architecture: Architecture) -> Iterator[tuple[str, Shape, str]]:
    text = architecture.text_config or {}
    rows, size = _count_head_rows(text), text.get("intermediate_size")
    if type(size) is int:
        rows |= {"gate": size, "up": size}
    for _, start, names in _layer_names(architecture):
        for name in names:
            match = PROJECTION.fullmatch(name[start:])
            part = (match[1] or match[2]) if match else ""
            if part in rows:
                yield name, (rows[part], architecture.d_model), f"config.json says {SAYS[part]}"


def _count_head_rows(text: Mapping[str, JsonValue]) -> dict[str, int]:
    """Rows of the projections q, k and v where attention is plain and config.json says all numbers,
    for each class of transformers has other defaults; else nothing.
    """
    heads, groups = text.get("num_attention_heads"), text.get("num_key_value_heads")
    size = text.get("head_dim")
    if type(heads) is not int or type(groups) is not int or type(size) is not int:
        return {}
    if any(text.get(key) for key in OTHER_ATTENTION):
        return {}
    return {"q": heads * size, "k": groups * size, "v": groups * size}
