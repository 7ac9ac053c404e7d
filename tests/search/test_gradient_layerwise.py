"""The gradient search of a model read block by block gives the Edit of the resident search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from tiny_chat import DAY, NIGHT
from tiny_directions import recipe_input

from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.models import ChatModel, load_layerwise
from vectomy.search.gradient import gradient_recipe as gradient
from vectomy.search.gradient.gradient_recipe import select_gradient
from vectomy.search.gradient.train_passes import measure_targets
from vectomy.search.opening_shares import OpeningEvaluator
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.search_split import SearchSplitEvaluator

TIER = "chat"

STEPS = 20


def open_layerwise() -> ChatModel:
    return load_layerwise(tiny_chat.folder(), device="cpu", passes=True)


def task_of(path: Path, chat: ChatModel) -> RecipeInput:
    """32 fit prompts and 8 search prompts a side, with the base's answers."""
    task = recipe_input(path, "gradient", chat=chat, steps=STEPS)
    fit = {"positive": tiny_chat.prompts(NIGHT, 32), "negative": tiny_chat.prompts(DAY, 32)}
    answers = {
        side: tiny_chat.chat().answer(chat.tokens(getattr(task, side)["search"]), 8, 4096) for side in fit
    }
    sides = {side: {**getattr(task, side), "fit": prompts} for side, prompts in fit.items()}
    return replace(task, **sides, answers=answers)


@cache
def search(layerwise: bool) -> RecipeResult:
    chat = open_layerwise() if layerwise else tiny_chat.chat()
    return select_gradient(task_of(tiny_chat.scratch(), chat))


def test_the_edit_is_that_of_the_resident_search_to_rounding() -> None:
    expected, result = search(layerwise=False), search(layerwise=True)
    for own, other in zip(result.scores["history"], expected.scores["history"], strict=True):
        assert own == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert result.scores["chosen"] == expected.scores["chosen"]
    assert len(result.edit.operations) == len(expected.edit.operations)
    for one, two in zip(result.edit.operations, expected.edit.operations, strict=True):
        assert (one.component, one.layer) == (two.component, two.layer)
        torch.testing.assert_close(one.basis, two.basis, rtol=0, atol=1e-4)
        torch.testing.assert_close(one.strengths, two.strengths, rtol=0, atol=1e-4)


def key_of(point: dict[str, Any]) -> tuple[int, float]:
    return point["step"], point["strength"]


def test_rates_by_openings_are_those_by_generating() -> None:
    """Of every point that the resident search generated with: at most one prompt apart, where some
    of the behaviour is left.
    """
    measured = {key_of(point): point["rate"] for point in search(layerwise=True).scores["candidates"]}
    generated = search(layerwise=False).scores["candidates"]
    rates = [(point["rate"], measured.get(key_of(point))) for point in generated if point["rate"] is not None]
    assert rates
    one_prompt = 1 / 8
    assert all(abs(one - two) <= one_prompt for one, two in rates if two is not None), rates


def test_the_openings_of_the_base_keep_all_and_those_of_an_ablation_none(tmp_path: Path) -> None:
    task = task_of(tmp_path, open_layerwise())
    evaluator = SearchSplitEvaluator(task, packed=True, layer=0)
    vector = task.directions.at("resid_pre", 3, -1)
    edits = [Edit(task.base), Edit.from_directions(vector, task.base, task.writers)]
    whole = tiny_chat.chat()
    resident = SearchSplitEvaluator(replace(task, chat=whole), packed=False, layer=0)
    assert evaluator.openings.rates(task.chat, edits) == [1.0, resident.measure(edits[1]).rate]
    shares = evaluator.openings.kept_shares(task.chat, edits)
    for own, other in zip(shares, resident.openings.kept_shares(whole, edits), strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    assert shares[0] == pytest.approx(dict.fromkeys(range(8), 1.0))


def test_prompts_that_the_base_answers_count_and_unjudged_ones_do_not() -> None:
    chat = tiny_chat.chat()
    prompts = [*tiny_chat.prompts(NIGHT, 4), *tiny_chat.prompts(DAY, 4)]
    answers = chat.answer(chat.tokens(prompts), 8, 4096)
    shows = [True, True, None, None, *[False] * 4]
    evaluator = OpeningEvaluator(chat, prompts, answers, shows, packed=False)
    edit = Edit(BaseModelRef.of(chat.checkpoint))
    assert evaluator.rates(chat, [edit]) == [2 / 6]
    few = OpeningEvaluator(chat, prompts, answers, [None] * 5 + [True, False, False], packed=False)
    assert few.rates(chat, [edit]) == [None]


@pytest.mark.parametrize("most", [1, 2])
def test_a_step_reads_each_learned_block_twice_at_the_most(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once on the way up and once on the way down, for both losses together; what is in memory at
    a turn is not read again.
    """
    chat = open_layerwise()
    assert chat.stream is not None
    pages = chat.stream.pages
    pages.most = most
    reads: list[int] = []
    layers: list[int] = []
    original: Callable[..., Any] = gradient._Search._step

    def counted(*args: Any) -> Any:
        before = pages.reads
        result = original(*args)
        reads.append(pages.reads - before)
        layers.append(chat.architecture.n_layers - args[0].objective.targets.layer)
        return result

    monkeypatch.setattr(gradient._Search, "_step", counted)
    select_gradient(task_of(tmp_path, chat))
    assert len(reads) >= STEPS
    # At both turns `most` blocks are there already.
    assert reads[1:] == [2 * (learned - most) for learned in layers[1:]]


def test_blocks_below_the_first_edited_one_are_run_once(tmp_path: Path) -> None:
    """The passes of a step resume above them, with the stream of the resident model."""
    chat = open_layerwise()
    own = measure_targets(task_of(tmp_path / "own", chat), 2)
    resident = measure_targets(task_of(tmp_path / "resident", tiny_chat.chat()), 2)
    assert own.layer == resident.layer == 2
    for name in ("change", "negative"):
        for one, two in zip(own.of(name), resident.of(name), strict=True):
            torch.testing.assert_close(one.stream, two.stream, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(one.base, two.base, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [1, 6])
def test_an_interrupted_search_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original: Callable[..., Any] = gradient._Search._step
    done: list[int] = []

    def stopping(self: Any, stepper: Any, now: Any, index: int, *rest: Any) -> Any:
        done.append(index)
        if index == step and done.count(step) == 1:
            raise KeyboardInterrupt
        return original(self, stepper, now, index, *rest)

    monkeypatch.setattr(gradient._Search, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        select_gradient(task_of(tmp_path, open_layerwise()))
    again = len(done)
    result = select_gradient(task_of(tmp_path, open_layerwise()))
    assert done[again] == step - step % gradient.STRIDE
    assert result.edit.to_bytes() == search(layerwise=True).edit.to_bytes()


def test_gradients_are_those_of_the_resident_model(tmp_path: Path) -> None:
    """Of strengths and directions, at a state that is not the start."""
    gradients = []
    for chat in (tiny_chat.chat(), open_layerwise()):
        searching = gradient._Search(task_of(tmp_path / str(len(gradients)), chat))
        parameters = gradient.init_parameters(searching.objective, searching.layer, None)
        parameters = {
            name: value + 0.1 * torch.sin(torch.arange(value.numel()).view_as(value))
            for name, value in parameters.items()
        }
        text = gradient.write_state(parameters)
        optimizer = gradient.Optimizer(text, 0, directions=True)
        targets = searching.objective.targets
        with torch.enable_grad():
            values = searching._add_gradient(
                optimizer.parameters,
                [
                    gradient._StepPass("change", targets.change[0], searching.objective.behaviour_loss, 1.0),
                    gradient._StepPass("negative", targets.negative[0], searching.objective.kl_loss, 3.0),
                ],
            )
        learned = optimizer.parameters
        gradients.append((values, learned.strengths.grad, learned.vectors.grad))
    (values, *expected), (own_values, *own) = gradients
    assert own_values == pytest.approx(values, rel=1e-5)
    for one, two in zip(own, expected, strict=True):
        assert float(two.abs().max()) > 1e-4
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)
