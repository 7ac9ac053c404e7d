"""Every model type through the passes of a search: collect, pack, resume, gradient, decode. Each
works, or is refused with a reason; none fails otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from virtual_devices import virtual_machine
from zoo import VOCAB, ZOO

from vectomy.architecture import architecture_of
from vectomy.architecture.norms import fold_live
from vectomy.core.errors import ArchitectureError, CheckpointError, ModelError
from vectomy.core.linalg import normalise
from vectomy.hooks.capture import capture
from vectomy.hooks.writer_outputs import change_outputs, is_hookable
from vectomy.models import ChatModel, Example, load_model, pack_examples, packs_exactly, resumes_exactly
from vectomy.search.gradient.parameters import ablate_with_strengths

TIER = "zoo"
pytestmark = pytest.mark.usefixtures("unchecked")

LABELS = sorted(ZOO)
# No tokenizer: only the tokens that pad and end.
TOKENS = SimpleNamespace(pad_token_id=0, eos_token_id=None, chat_template=None)
# Types whose answers transformers itself cannot generate in this configuration.
NOT_GENERATED = {"xlstm"}
# Types whose class for text has other names than their checkpoint: refused when they are loaded.
NOT_LOADED = {"emu3"}
# Types whose packs, resumed passes and own decoding must not be lost again. By hand, from the table
# of docs/log/placement.md.
PACKED = {"llama", "qwen2", "qwen3", "olmo2", "opt"}
RESUMED = {*PACKED, "llama4_text", "qwen3_5", "gemma2", "gpt_oss"}


@cache
def prompts() -> list[list[int]]:
    chance = random.Random(0)
    shared = [chance.randrange(3, VOCAB) for _ in range(4)]
    return [[*shared, *(chance.randrange(3, VOCAB) for _ in range(length))] for length in (3, 5, 3)]


def examples() -> list[Example]:
    return [Example(row, ids, [ids[1:4], ids[2:4]]) for row, ids in enumerate(prompts())]


def open_model(folder: Path, label: str, device: str = "cpu") -> ChatModel:
    try:
        chat = load_model(folder, device=device, dtype="float32", tokenizer=False, name=label)
    except (ArchitectureError, CheckpointError) as refused:
        if isinstance(refused, CheckpointError) and label not in NOT_LOADED:
            raise
        pytest.skip(str(refused))
    return replace(chat, tokenizer=TOKENS)


@pytest.mark.parametrize("label", LABELS)
def test_all_passes_of_a_search_work_or_are_refused(label: str, zoo_of: Callable[[str], Path]) -> None:
    chat = open_model(zoo_of(label), label)
    collect_streams(chat)
    packed = packs_exactly(chat, examples())
    batch = pack_examples(chat, examples(), 4096, packed=packed)[0]
    resumed = resumes_exactly(chat, max(1, chat.architecture.n_layers // 2), batch)
    assert packed or label not in PACKED
    assert resumed or label not in RESUMED
    check_gradient(chat, packed)
    if label in NOT_GENERATED:
        with pytest.raises(ModelError, match="transformers cannot generate with"):
            chat.answer(prompts(), 4, 4096)
    else:
        answers = chat.answer(prompts(), 4, 4096)
        assert all(1 <= len(answer) <= 4 for answer in answers)


def collect_streams(chat: ChatModel) -> None:
    with torch.no_grad(), capture(chat.model, ["resid_pre", "resid_post"]) as stream:
        for batch in chat.batches(prompts(), 4096):
            assert chat.hidden(batch).isfinite().all()
    assert len(stream) == 2 * chat.architecture.n_layers


def check_gradient(chat: ChatModel, packed: bool) -> None:
    """A loss on the labels has a gradient in the strengths and in the direction."""
    batch = pack_examples(chat, examples(), 4096, packed=packed)[0]
    device, width = chat.device, chat.architecture.d_model
    direction = torch.randn(1, width, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    strengths = torch.full((1,), 0.3, device=device, requires_grad=True)
    changes = [
        (writer, ablate_with_strengths(fold_live(chat.model, writer, normalise(direction)), strengths))
        for writer in architecture_of(chat.model).writers
        if is_hookable(writer)
    ]
    assert changes
    with torch.enable_grad(), change_outputs(chat.model, changes):
        log_probs = chat.log_probs(batch.predicting(chat.hidden(batch)))
        (-log_probs.gather(-1, batch.labels[:, None]).mean()).backward()
    for learned in (direction, strengths):
        assert learned.grad is not None
        assert learned.grad.isfinite().all()
        assert learned.grad.any()


# Post-norms, experts, recurrent states, a text model out of a vision folder, no base model.
@pytest.mark.parametrize("label", ["gemma2", "mixtral", "mamba2", "qwen3_5", "llama4_text"])
@pytest.mark.parametrize("machine", ["cuda", "mps"])
def test_the_passes_of_a_search_work_on_a_card(
    label: str, machine: Literal["cuda", "mps"], zoo_of: Callable[[str], Path]
) -> None:
    folder = zoo_of(label)
    with virtual_machine(machine):
        chat = open_model(folder, label, "auto")
        assert chat.device.type == machine
        collect_streams(chat)
        check_gradient(chat, packs_exactly(chat, examples()))
        assert len(chat.answer(prompts(), 3, 4096)) == len(prompts())
