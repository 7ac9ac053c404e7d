"""Traits of the tiny model of two styles, and finished runs of them."""

from functools import cache
from typing import Any

import tiny_style

from vectomy.checkpoint import Checkpoint
from vectomy.data.trait_file import Trait, load_trait
from vectomy.edits.edit import BaseModelRef
from vectomy.models import ChatModel, load_model


@cache
def chat() -> ChatModel:
    return load_model(tiny_style.folder(), device="cpu", dtype="float32", name="tiny")


@cache
def base() -> BaseModelRef:
    return BaseModelRef.of(Checkpoint.open(tiny_style.folder()), "tiny")


def trait(**changed: Any) -> Trait:
    return load_trait(str(tiny_style.trait_file()), **changed)


def texts(count: int = 24) -> list[str]:
    return tiny_style.texts(tiny_style.DAY)[:count]


# What is learned from


def answer(text: str) -> list[int]:
    return [*chat().tokenizer(text, add_special_tokens=False)["input_ids"], 2]
