"""Recipe tpe: tents by hand, racing that changes no choice, runs that go on where they stopped,
several processes.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from tiny import LAYERS, unit
from tiny_directions import NEGATIVE, TOKENS, directions, recipe_input

from vectomy.core.errors import ActivationError, CheckpointError, SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.run_config import Selection
from vectomy.core.run_folder import canonical_json
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.models import ChatModel
from vectomy.search.pareto import choose_point, frontier
from vectomy.search.recipe import RecipeInput
from vectomy.search.tpe.layer_weights import (
    LayerWeightSchedule,
    build_edit,
    directions_after,
    heaviest_layer,
    ranges,
)
from vectomy.search.tpe.tpe_recipe import select_tpe
from vectomy.search.tpe.trial import TrialBench, side_by_side
from vectomy.search.tpe.trial_study import TrialStudy
from vectomy.workflows.run import run

TIER = "chat"

Row = dict[str, Any]
# More prompts than are answered at once, so that a trial can be stopped between.
MANY = tiny_chat.prompts(tiny_chat.NIGHT, 20, seed=2)


def task(path: Path, judged: bool = True, tokens: tuple[int, ...] = (), **options: Any) -> RecipeInput:
    given = {"trials": 8, "startup_trials": 4, **options}
    return recipe_input(path, "tpe", positive=MANY, tokens=tokens, judged=judged, **given)


# The tent


TENTS = {
    # (maximum, position, minimum, distance): strengths by layer, worked out by hand.
    "between layers": (
        (1.2, 2.5, 0.5, 2.0),
        [None, 1.2 * 0.625, 1.2 * 0.875, 1.2 * 0.875, 1.2 * 0.625, None],
    ),
    "down to nothing": ((1.0, 3.0, 0.0, 2.0), [None, 0.0, 0.5, 1.0, 0.5, 0.0]),
    "flat": ((0.8, 5.0, 1.0, 3.0), [None, None, 0.8, 0.8, 0.8, 0.8]),
    "narrow": ((1.5, 4.0, 0.2, 1.0), [None, None, None, 0.3, 1.5, 0.3]),
}


@pytest.mark.unit
@pytest.mark.parametrize("case", TENTS)
def test_strengths_fall_linearly_and_end_at_the_distance(case: str) -> None:
    numbers, wanted = TENTS[case]
    for layer, strength in enumerate(wanted):
        found = LayerWeightSchedule(*numbers).at(layer)
        assert (found is None) == (strength is None)
        assert strength is None or found == pytest.approx(strength)


@pytest.mark.unit
def test_ranges_are_shares_of_the_last_layer() -> None:
    found = ranges([("mlp", 0), ("attention", 0), ("mlp", 10)], 11)
    assert found["direction"] == pytest.approx((4.0, 9.0))
    for component in ("attention", "mlp"):
        assert found[f"{component} maximum"] == (0.8, 1.5)
        assert found[f"{component} position"] == pytest.approx((6.0, 10.0))
        assert found[f"{component} minimum"] == (0.0, 1.0)
        assert found[f"{component} distance"] == pytest.approx((1.0, 6.0))
    assert len(found) == 9
    assert ranges([("mlp", 0)], 1)["mlp distance"] == (1.0, 1.0)


PLACES = [("attention", 1), ("mlp", 1), ("mlp", 2), ("mlp", 3)]
NUMBERS = {
    "attention maximum": 0.8,
    "attention position": 1.0,
    "attention minimum": 0.0,
    "attention distance": 1.0,
    "mlp maximum": 1.0,
    "mlp position": 3.0,
    "mlp minimum": 0.5,
    "mlp distance": 1.5,
}


def built(scope: str, direction: float = 1.25) -> Edit:
    units = torch.stack([unit(at) for at in range(LAYERS)])
    base = BaseModelRef.of(tiny_chat.chat().checkpoint)
    return build_edit({"scope": scope, "direction": direction, **NUMBERS}, base, PLACES, units)


def test_each_writer_has_its_tents_strength_and_its_own_or_the_shared_direction() -> None:
    mixed = normalise(0.75 * unit(1) + 0.25 * unit(2))
    for scope, wanted in (("per layer", None), ("global", mixed)):
        operations = built(scope).operations
        strengths = {(o.component, o.layer): float(o.strengths[0]) for o in operations}
        # At layer 1 the MLP lies two layers from its tent's top, beyond 1.5.
        assert strengths == {
            ("attention", 1): pytest.approx(0.8),
            ("mlp", 2): pytest.approx(1 - 0.5 / 1.5),
            ("mlp", 3): 1.0,
        }
        for operation in operations:
            assert (operation.norm, operation.basis.shape) == ("none", (1, 32))
            torch.testing.assert_close(
                operation.basis[0], unit(operation.layer) if wanted is None else wanted
            )


def test_behind_a_layer_is_before_the_next() -> None:
    found = directions()
    units = directions_after(found)
    for layer in range(LAYERS):
        vector = found.at("resid_pre", min(layer + 1, LAYERS - 1), -1)
        torch.testing.assert_close(units[layer], vector / vector.norm())


@pytest.mark.unit
def test_the_named_layer_is_that_of_the_heaviest_direction() -> None:
    """Layer 3's MLP weighs 1.0 against 0.8 and 0.67; behind layer 3 nothing is collected but its
    own resid_pre.
    """
    assert heaviest_layer({"scope": "per layer", "direction": 0.0, **NUMBERS}, PLACES, LAYERS) == 3
    more = {**NUMBERS, "mlp position": 1.0, "mlp distance": 1.0}
    assert heaviest_layer({"scope": "per layer", "direction": 0.0, **more}, PLACES, LAYERS) == 2
    assert heaviest_layer({"scope": "global", "direction": 0.4, **NUMBERS}, PLACES, LAYERS) == 1
    assert heaviest_layer({"scope": "global", "direction": 1.6, **NUMBERS}, PLACES, LAYERS) == 3


def test_a_writer_whose_direction_is_zero_is_left_alone() -> None:
    units = torch.stack([unit(0), unit(1), torch.zeros(32), unit(3)])
    parameters = {"scope": "per layer", "direction": 1.0, **NUMBERS}
    edit = build_edit(parameters, BaseModelRef.of(tiny_chat.chat().checkpoint), PLACES, units)
    assert [(o.component, o.layer) for o in edit.operations] == [("attention", 1), ("mlp", 3)]


# The search


@cache
def searched(racing: bool = True, **options: Any) -> tuple[Row, Edit]:
    scores, edit, _ = select_tpe(task(tiny_chat.scratch(), **options), racing=racing)
    return scores, edit


def test_trials_stay_in_their_ranges_and_edit_writers_in_blocks_alone() -> None:
    scores, edit = searched()
    space = ranges([("attention", 0), ("mlp", 0)], LAYERS)
    assert [row["number"] for row in scores["candidates"]] == list(range(8))
    for row in scores["candidates"]:
        assert set(row["parameters"]) == {"scope", *space}
        assert row["parameters"]["scope"] in ("global", "per layer")
        assert all(low <= row["parameters"][name] <= high for name, (low, high) in space.items())
    assert {o.component for o in edit.operations} <= {"attention", "mlp"}
    assert all(0 < float(o.strengths[0]) <= 1.5 and o.norm == "none" for o in edit.operations)
    assert len({canonical_json(row["parameters"]) for row in scores["candidates"]}) == 8


def test_the_choice_is_the_rules_and_its_numbers_are_those_of_the_edit() -> None:
    """Measured again one prompt at a time, from the model's own logits and answers."""
    chat, (scores, edit) = tiny_chat.chat(), searched()
    exact = [row for row in scores["candidates"] if row["rejected"] is None]
    chosen = exact[choose_point(exact, 0.05)[0]]
    assert scores["trial"] == chosen["number"]
    assert [row["number"] for row in scores["frontier"]] == [exact[at]["number"] for at in frontier(exact)]

    def now() -> torch.Tensor:
        return torch.cat(
            [tiny_chat.raw(chat, ids).logits[:, -1].log_softmax(-1) for ids in chat.tokens(NEGATIVE)]
        )

    base = now()
    with edit.hooks(chat.model):
        after = now()
        answers = [chat.text(chat.answer([ids], 8, 4096)[0]) for ids in chat.tokens(MANY)]
    kl = torch.nn.functional.kl_div(after, base, reduction="none", log_target=True).sum(-1).mean()
    assert chosen["kl"] == pytest.approx(float(kl), rel=1e-2, abs=1e-5)
    assert chosen["rate"] == pytest.approx(sum("can't help" in answer for answer in answers) / len(MANY))
    place = scores["chosen"]
    vector = directions().at("resid_pre", place["layer"], -1)
    assert place["norm"] == float(vector.norm())
    assert (place["site"], place["position"], place["token"]) == ("resid_pre", -1, "<|assistant|>")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_racing_changes_no_choice(seed: int) -> None:
    """Random draws are the same ones. What was stopped counted no more prompts than show it, and is
    beaten in full.
    """
    options = {"seed": seed, "trials": 14, "startup_trials": 14}
    raced, edit = searched(**options)
    full, other = searched(racing=False, **options)
    assert edit.to_bytes() == other.to_bytes()
    for key in ("chosen", "trial", "note", "frontier"):
        assert raced[key] == full[key]
    stopped = 0
    for one, whole in zip(raced["candidates"], full["candidates"], strict=True):
        assert one["parameters"] == whole["parameters"]
        assert (one["kl"], whole["seen"], whole["rejected"]) == (whole["kl"], len(MANY), None)
        if one["rejected"] is None:
            assert one == whole
            continue
        stopped += 1
        assert f"stopped after {one['seen']} of 20" in one["rejected"]
        assert one["shown"] <= whole["shown"] <= one["shown"] + len(MANY) - one["seen"]
        before = full["candidates"][: one["number"]]
        assert any(row["kl"] <= whole["kl"] and row["shown"] <= whole["shown"] for row in before)
    assert stopped >= 4


@pytest.mark.parametrize("at", [0, 2, 5, 7])
def test_an_interrupted_search_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Stopped among the random trials and among the others, in the middle of a trial."""
    whole, edit = searched()
    calls: list[int] = []

    def shown(bench: Any, *given: Any) -> int:
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        return true(bench, *given)

    true = TrialBench._find_shown
    with monkeypatch.context() as patch:
        patch.setattr(TrialBench, "_find_shown", shown)
        with pytest.raises(KeyboardInterrupt):
            select_tpe(task(tmp_path))
    kept = sum("trial" in line for line in (tmp_path / "journal").read_text().splitlines())
    assert kept < 8
    again, other, _ = select_tpe(task(tmp_path))
    assert canonical_json(again) == canonical_json(whole)
    assert other.to_bytes() == edit.to_bytes()


@pytest.mark.unit
def test_a_trial_from_the_journal_is_to_optuna_the_trial_that_it_was_told() -> None:
    space = ranges([("mlp", 0)], LAYERS)
    told, added = (TrialStudy(space, Selection(startup_trials=2), seed=3) for _ in range(2))
    for number in range(4):
        trial, parameters = told.ask(number)
        row = {"parameters": parameters, "kl": None if number == 2 else 0.5 + number, "rate": 0.25 * number}
        told.tell(trial, row)
        added.add(json.loads(canonical_json(row)))

    def known(study: TrialStudy) -> list[Any]:
        return [(t.params, t.values, t.distributions) for t in study.study.trials if t.values is not None]

    assert known(told) == known(added)
    assert [values for _, values, _ in known(told)] == [[0.5, 0.0], [1.5, 0.25], [3.5, 0.75]]
    assert told.ask(4)[1] == added.ask(4)[1]


def test_what_is_in_the_journal_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = select_tpe(task(tmp_path))
    monkeypatch.setattr(TrialBench, "_find_shown", lambda *_: pytest.fail("tried again"))
    assert select_tpe(task(tmp_path))[0] == first


def test_another_seed_tries_other_edits_and_later_trials_learn_from_earlier_ones() -> None:
    first = [row["parameters"] for row in searched()[0]["candidates"]]
    other = [row["parameters"] for row in searched(seed=1)[0]["candidates"]]
    blind = [row["parameters"] for row in searched(startup_trials=8)[0]["candidates"]]
    assert all(one != two for one, two in zip(first, other, strict=True))
    assert first[:4] == blind[:4]
    assert all(one != two for one, two in zip(first[4:], blind[4:], strict=True))


def test_two_processes_finish_with_a_valid_edit(tmp_path: Path) -> None:
    """What they measure is what one process measures; random draws depend on the trial's number
    alone.
    """
    options = {"trials": 6, "startup_trials": 6}
    scores, edit, others = select_tpe(task(tmp_path, processes=2, **options), racing=False)
    alone, same = searched(racing=False, **options)
    assert [row["parameters"] for row in scores["candidates"]] == [
        row["parameters"] for row in alone["candidates"]
    ]
    for one, two in zip(scores["candidates"], alone["candidates"], strict=True):
        assert one["rate"] == two["rate"]
        assert one["kl"] == pytest.approx(two["kl"], rel=1e-4)
    assert edit.to_bytes() == same.to_bytes()
    assert [f"frontier/{name}" for name in others] == [row["edit"] for row in scores["frontier"]]
    assert edit.to_bytes() in [other.to_bytes() for other in others.values()]
    edit.save(tmp_path / "edit.safetensors")
    assert Edit.load(tmp_path / "edit.safetensors").operations


def test_an_error_in_another_process_is_said_here_and_one_that_dies_does_not_hang(tmp_path: Path) -> None:
    given = task(tmp_path, processes=2)
    bench = TrialBench.of(given)
    lost = replace(bench, folder=tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="nothing"):
        list(side_by_side(lost, 1, iter([(0, {}, [])])))
    with pytest.raises(SelectionError, match="a process that tried edits died"):
        list(side_by_side(bench, 1, iter([(0, {"scope": "nothing that an edit can be built of"}, [])])))


def test_without_a_judge_the_first_token_says_it() -> None:
    """The tiny model's first token tells a refusal, so both scores agree on every trial."""
    judged, _ = searched(racing=False)
    scored, _ = searched(racing=False, judged=False, tokens=tuple(TOKENS))
    for one, two in zip(judged["candidates"][:4], scored["candidates"][:4], strict=True):
        assert one["kl"] == two["kl"]
        assert abs(one["shown"] - two["shown"]) <= 2
    assert {row["shown"] for row in scored["candidates"]} != {0}


def test_without_judge_and_tokens_it_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match=r"no judge of the behaviour 'rhyming'.* --behaviour-tokens"):
        select_tpe(task(tmp_path, judged=False, behaviour="rhyming"))


def test_trials_that_give_nan_are_out_and_none_left_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base and the first trials give numbers, and later ones nan; or all trials give nan."""
    true = ChatModel.next_token_log_probs

    def after(good: int) -> None:
        calls: list[int] = []

        def log_probs(chat: ChatModel, *given: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) > good:
                raise ActivationError("not a number")
            return true(chat, *given)

        monkeypatch.setattr(ChatModel, "next_token_log_probs", log_probs)

    after(3)
    scores, *_ = select_tpe(task(tmp_path / "some", trials=4))
    assert [row["kl"] is None for row in scores["candidates"]] == [False, False, True, True]
    assert {row["rejected"] for row in scores["candidates"][2:]} == {
        "gives NaN or infinite log-probabilities"
    }
    assert scores["trial"] < 2
    after(1)
    with pytest.raises(SelectionError, match="none of the 0 edits that were tried has finite measurements"):
        select_tpe(task(tmp_path / "none", trials=2))


def test_a_run_from_prompts_to_report(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"recipe": "tpe", "trials": 6, "startup_trials": 3, "device": "cpu", "answer_tokens": 8}
    summary = run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **options)
    scores = json.loads((out / "scores.json").read_text())
    assert summary["direction"] == scores["chosen"]
    assert len(scores["candidates"]) == 6
    assert summary["edited"]["refusal_rate"] <= summary["base"]["refusal_rate"] == 1.0
    assert summary["forms"]["hooks"]["kl_first_token"] == pytest.approx(
        summary["forms"]["baked"]["kl_first_token"], rel=1e-2
    )
    assert (out / "report.html").stat().st_size > 1000
    assert not list((out / "stages").glob("*.journal"))
