"""Match a model's configuration and tensors to a family, and refuse unknown types by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from vectomy.architecture.families import FAMILIES, REFUSED, Family, Layout, wrap_text_model
from vectomy.architecture.live_weights import read_live_shapes
from vectomy.architecture.model_architecture import Architecture, Shapes
from vectomy.architecture.other_models import explain_other_model
from vectomy.architecture.writers import rename_tensor
from vectomy.core.errors import ArchitectureError
from vectomy.core.json_value import JsonValue

__all__ = ["architecture_of", "resolve"]

# Larger numbers than any model has, read as damage.
LIMIT = 1 << 40


def resolve(
    config: Mapping[str, Any],
    shapes: Shapes | None = None,
    *,
    live: bool = False,
    strict: bool = False,
    tied: bool | None = None,
) -> Architecture:
    """The architecture that a config.json describes, with the tensors that its checkpoint has.

    Without `shapes` the writers are not known, only family and sizes; a size that config.json
    leaves to transformers' default (Gemma 3's vocabulary) is 0 then.

    Args:
        live: `shapes` are the parameters of a model, under the names that transformers gives them.
        strict: every tensor has to be known (`Architecture.strict`).
        tied: whether the head's weight is the embedding's, where that is known better than from
            config.json.

    Raises:
        ArchitectureError: its model_type is not known or cannot be edited exactly, or a size is
            missing or no positive integer.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if isinstance(model_type, str) and model_type in REFUSED:
        raise ArchitectureError(
            f"a model of type '{model_type}' cannot be edited exactly: {REFUSED[model_type]}"
        )
    if family is None:
        reason = explain_other_model(config)
        if reason:
            raise ArchitectureError(reason)
        raise ArchitectureError(
            f"model type {str(model_type)!r:.80} is not known, so its residual writers are not either; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    text = config.get(family.nested) if family.nested else config
    text = text if isinstance(text, Mapping) else config
    if family.wraps_text_model:
        inner = FAMILIES.get(str(text.get("model_type")))
        if inner is not None:
            family = wrap_text_model(inner, family.wraps_text_model, *family.layouts[:-1])
        elif "model_type" in text:
            raise ArchitectureError(
                f"the text model of this {model_type} model is of type {str(text['model_type'])!r:.80}, "
                f"which is not known; known: {', '.join(sorted(FAMILIES))}"
            )
    sizes = _Sizes(family, text, shapes or {})
    layout = () if live else sizes.layout
    for key, value, reason in family.refused_if:
        said = text.get(key)
        if said == value or (value is ... and said is not None and said != sizes.d_model):
            raise ArchitectureError(
                f"this {model_type} model ({key} = {said!r:.80}) cannot be edited exactly: {reason}"
            )
    # Packed shapes are not those of the weights, and code of its own may give any.
    comparable = not live and not config.get("quantization_config") and "auto_map" not in config
    extra = text.get("num_nextn_predict_layers", 0)
    head = rename_tensor(f"{family.head}.weight", layout)
    stored = None if live or not shapes else head in shapes
    return Architecture(
        model_type=str(model_type),
        family=family,
        d_model=sizes.d_model,
        n_layers=sizes.n_layers,
        vocab=sizes.vocab,
        tied=_is_tied(config, text, family, stored) if tied is None else tied,
        shapes=shapes or {},
        layout=layout,
        extra_layers=extra if type(extra) is int and 0 < extra < 100 else 0,
        text_config=text if comparable and shapes and not strict else None,
        strict=strict or live or "auto_map" in config,
    )


def _is_tied(
    config: Mapping[str, JsonValue], text: Mapping[str, JsonValue], family: Family, stored: bool | None
) -> bool:
    """Whether the head's weight is the embedding's, as transformers loads it; `stored`: the
    checkpoint holds a head.

    Of a multimodal configuration only the top counts, and what it leaves out has a default for each
    type. A head that is not stored is tied by any of them, and one that is and differs is not.
    """
    said = config.get("tie_word_embeddings")
    inner = said if said is not None else text.get("tie_word_embeddings")
    if stored is None:
        return bool(family.tied_by_default if inner is None else inner)
    return bool(inner) or (said is None and not stored)


@dataclass
class _Sizes:
    """Sizes from config.json; where it leaves one to transformers' default, from the tensors."""

    family: Family
    text: Mapping[str, Any]
    shapes: Shapes

    @cached_property
    def layout(self) -> Layout:
        """How the checkpoint names tensors. `AutoModel` saves them without the name of the base
        model, and transformers puts it back.
        """
        live = self.family.embeddings[0].live_weight
        base = f"{live.partition('.')[0]}."
        usual = self.family.layouts[0]
        bare = ((base, ""), *(pair for pair in usual if not pair[0].startswith(base)))
        layouts = (
            layout for layout in (*self.family.layouts, bare) if rename_tensor(live, layout) in self.shapes
        )
        return next(layouts, self.family.layouts[0])

    @property
    def d_model(self) -> int:
        return self._size("hidden_size", self._embedding(1))

    @property
    def vocab(self) -> int:
        return self._size("vocab_size", self._embedding(0))

    @property
    def n_layers(self) -> int:
        block = re.compile(re.escape(rename_tensor(f"{self.family.blocks}.", self.layout)) + r"(\d{1,6})\.")
        numbers = [int(found[1]) for name in self.shapes if (found := block.match(name))]
        return self._size("num_hidden_layers", max(numbers) + 1 if numbers else None)

    def _embedding(self, axis: int) -> int | None:
        shape = self.shapes.get(rename_tensor(self.family.embeddings[0].live_weight, self.layout), ())
        return shape[axis] if len(shape) == 2 else None

    def _size(self, key: str, counted: int | None) -> int:
        own = self.family.names.get(key, key)
        name = next((name for name in (own, key) if name in self.text), None)
        if name is None and not self.shapes:
            return 0
        value = counted if name is None else self.text[name]
        if type(value) is not int or not 0 < value < LIMIT:
            raise ArchitectureError(
                f"config.json says {name or own} = {value!r:.80}; a positive integer is needed"
            )
        return value


_LIVE: WeakKeyDictionary[nn.Module, Architecture] = WeakKeyDictionary()


def architecture_of(model: nn.Module) -> Architecture:
    """The architecture of a live transformers model, from its own configuration and parameters.
    Packed weights count as what they are unpacked (live_weights.py).
    """
    result = _LIVE.get(model)
    if result is None:
        config: Any = model.config
        parameters = dict(model.named_parameters(remove_duplicate=False))
        result = resolve(config.to_dict(), read_live_shapes(model), live=True)
        # transformers unties a head that is stored with other values than the embedding.
        head = parameters.get(result.head)
        embedding = parameters.get(result.family.embeddings[0].live_weight)
        if head is not None and embedding is not None:
            result = replace(result, tied=head is embedding)
        _LIVE[model] = result
    return result
