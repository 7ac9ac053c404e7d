"""A gradient search out of memory recomputes blocks, then splits its passes: the same Edit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from finished_run import finished_run
from transformers.models.llama.modeling_llama import LlamaModel

from vectomy.edits.edit import Edit
from vectomy.models import Example, pack_examples
from vectomy.search.gradient.pass_memory import MOST_PIECES, PassMemory
from vectomy.search.gradient.train_passes import TrainPass
from vectomy.workflows.run import run

TIER = "chat"

SHORT = {"device": "cpu", "answer_tokens": 8, "recipe": "gradient", "steps": 12, "until": "select"}


def run_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, full: Callable[[bool, int], bool]
) -> list[tuple[bool, int]]:
    """Passes with gradients run out of memory where `full(recomputed, tokens)` says so.

    Returns:
        (whether blocks were recomputed, tokens) of each pass with gradients, as they come.
    """
    passes: list[tuple[bool, int]] = []
    original = LlamaModel.forward

    def forward(model: LlamaModel, input_ids: Any = None, **more: Any) -> Any:
        if torch.is_grad_enabled():
            recomputed = "forward" in model.layers[-1].__dict__
            passes.append((recomputed, input_ids.numel()))
            if full(*passes[-1]):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 110.00 MiB.")
        return original(model, input_ids, **more)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    return passes


def search(out: Path) -> Edit:
    run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **SHORT)
    return Edit.load(out / "edit.safetensors")


def plain() -> Edit:
    return Edit.load(finished_run(**SHORT) / "edit.safetensors")


def test_a_search_whose_blocks_are_recomputed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain()
    passes = run_out_of_memory(monkeypatch, lambda recomputed, _tokens: not recomputed)
    search(tmp_path / "run")
    assert sum(not recomputed for recomputed, _ in passes) == 1
    stored = (tmp_path / "run" / "edit.safetensors").read_bytes()
    assert stored == (finished_run(**SHORT) / "edit.safetensors").read_bytes()
    assert expected.operations


def test_a_search_in_pieces_gives_the_same_edit_to_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = plain()
    passes = run_out_of_memory(monkeypatch, lambda _recomputed, tokens: tokens > 100)
    edit = search(tmp_path / "run")
    largest = max(tokens for _, tokens in passes)
    assert largest > 100
    assert any(tokens <= 100 for _, tokens in passes)
    assert [(op.component, op.layer) for op in edit.operations] == [
        (op.component, op.layer) for op in expected.operations
    ]
    for one, other in zip(edit.operations, expected.operations, strict=True):
        torch.testing.assert_close(one.strengths, other.strengths, atol=2e-3, rtol=0)
        torch.testing.assert_close(one.basis, other.basis, atol=2e-3, rtol=0)


def test_memory_for_no_pass_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = run_out_of_memory(monkeypatch, lambda *_: True)
    with pytest.raises(torch.OutOfMemoryError):
        search(tmp_path / "run")
    assert len(passes) <= 3 + MOST_PIECES.bit_length()


@pytest.mark.parametrize(("free", "recompute"), [(1 << 40, False), (1, True)])
def test_blocks_are_recomputed_where_the_largest_pass_would_not_fit(free: int, recompute: bool) -> None:
    chat = tiny_chat.chat()
    rows = chat.tokens(tiny_chat.prompts(tiny_chat.DAY, 6))
    examples = [Example(row, ids, [[1, 2, 3]]) for row, ids in enumerate(rows)]
    passes = [
        TrainPass(batch, None, batch.predicting(chat.hidden(batch)))
        for count in (2, 6)
        for batch in pack_examples(chat, examples, 10_000, count=count)
    ]
    memory = PassMemory(chat, free=lambda _device: free)
    weight = torch.ones(1, requires_grad=True)

    def forward(target: TrainPass) -> torch.Tensor:
        embedded = weight * chat.model.get_input_embeddings()(target.forced.input_ids)
        return chat.model.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state

    memory.measure(passes, forward)
    assert memory.recompute is recompute
