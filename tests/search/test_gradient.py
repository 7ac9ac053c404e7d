"""The search by gradients: it takes the taught behaviour away, what it learned by hooks is what the
Edit does, nothing is left to chance.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chat
import torch
from finished_run import finished_run, scores_in
from tiny_directions import NEGATIVE, POSITIVE, recipe_input

from vectomy.core import linalg
from vectomy.core.errors import BehaviourAbsentError, EditError, PromptError, SelectionError
from vectomy.edits.edit import Edit
from vectomy.hooks.writer_outputs import change_outputs
from vectomy.metrics.judges import RefusalJudge, Verdict
from vectomy.models import Example
from vectomy.search.estimators import direction_from
from vectomy.search.gradient import edit_objective, start_directions
from vectomy.search.gradient import gradient_recipe as gradient
from vectomy.search.gradient import parameters as learned
from vectomy.search.gradient.parameters import EditParameters, ablate_by_row, read_state
from vectomy.search.gradient.pass_order import PassOrder
from vectomy.search.gradient.train_passes import collect_examples
from vectomy.workflows.run import run

TIER = "chat"

SHORT = {"device": "cpu", "answer_tokens": 8, "recipe": "gradient", "steps": 12, "until": "select"}


def go(out: Path, **options: Any) -> tuple[dict[str, Any], Edit]:
    run(str(tiny_chat.folder()), out, **{**tiny_chat.sources(), **SHORT, **options})
    return json.loads((out / "scores.json").read_text()), Edit.load(out / "edit.safetensors")


def finished_folder() -> Path:
    return finished_run(**SHORT)


def gradient_results() -> tuple[dict[str, Any], Edit]:
    return scores_in(finished_folder()), Edit.load(finished_folder() / "edit.safetensors")


def chosen_point(scores: dict[str, Any]) -> dict[str, Any]:
    return next(point for point in scores["candidates"] if key_of(point) == key_of(scores["chosen"]))


def key_of(point: dict[str, Any]) -> tuple[int, float]:
    return point["step"], point["strength"]


def test_the_behaviour_is_gone_on_the_search_prompts_at_little_cost() -> None:
    scores, edit = gradient_results()
    chosen = chosen_point(scores)
    assert chosen["rate"] <= 0.05
    assert chosen["kl"] < 0.05
    # The same of the closed-form direction, taken out of every writer: what was learned is better.
    base = scores["history"][0]["change"]
    assert scores["history"][-1]["change"] < 0.2 * base
    assert edit.about["recipe"] == "gradient"


def test_the_points_are_in_reach_of_the_rule_and_the_untried_ones_say_so() -> None:
    scores, _ = gradient_results()
    tried = [point for point in scores["candidates"] if point["rejected"] is None]
    assert tried
    untried = [point for point in scores["candidates"] if point not in tried]
    assert all(point["rate"] is None and "not tried" in point["rejected"] for point in untried)
    # The least KL of all is tried, and nothing cheaper than the chosen one is enough.
    assert min(point["kl"] for point in tried) == min(point["kl"] for point in scores["candidates"])
    chosen = chosen_point(scores)
    assert all(point["rate"] > 0.05 for point in tried if point["kl"] < chosen["kl"])
    by_key = {key_of(point): point for point in tried}
    front = scores["frontier"]
    assert front
    assert all(
        row["kl"] == by_key[key_of(row)]["kl"] and row["rate"] == by_key[key_of(row)]["rate"] for row in front
    )
    assert scores["chosen"]["step"] in {row["step"] for row in front}


def test_every_edit_of_the_frontier_is_a_file_in_the_run_folder() -> None:
    scores, edit = gradient_results()
    files = {row["step"]: Edit.load(finished_folder() / row["edit"]) for row in scores["frontier"]}
    assert files[scores["chosen"]["step"]].to_bytes() == edit.to_bytes()
    assert len({file.sha256 for file in files.values()}) == len(files)


def test_a_given_direction_is_kept_where_it_is_not_to_be_learned(tmp_path: Path) -> None:
    """The control of the search: the strengths alone, along a direction of nothing."""
    scores, edit = go(tmp_path / "run", direction="random:3", learn_direction=False, steps=8)
    given = linalg.normalise(direction_from("random:3", edit.main_direction.numel()).float())
    assert float(edit.main_direction @ given) == pytest.approx(1.0, abs=1e-5)
    assert min(point["rate"] for point in scores["candidates"] if point["rate"] is not None) > 0.5
    _, free = go(tmp_path / "learned", direction="random:3", steps=8)
    assert abs(float(free.main_direction @ given)) < 0.999


@pytest.mark.parametrize(
    ("direction", "message"),
    [("random:x", "random:SEED"), ("none.npy", "does not exist"), ("two.npy", "holds numbers of shape")],
)
def test_a_direction_that_cannot_be_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", np.zeros((2, 16), np.float32))
    with pytest.raises((EditError, SelectionError), match=message):
        go(tmp_path / "run", direction=direction)


def test_a_target_rate_of_everything_takes_the_least_kl(tmp_path: Path) -> None:
    scores, _ = go(tmp_path / "run", target_rate=1.0)
    least = min(scores["candidates"], key=lambda point: point["kl"])
    assert scores["chosen"]["step"] == least["step"]


def test_a_kl_budget_is_kept(tmp_path: Path) -> None:
    points = gradient_results()[0]["candidates"]
    budget = sorted(point["kl"] for point in points)[0] * 1.0001
    scores, _ = go(tmp_path / "run", kl_budget=budget)
    assert chosen_point(scores)["kl"] <= budget
    assert {point["rejected"] for point in scores["candidates"] if point["kl"] > budget} == {
        f"KL is above {budget:g}"
    }


@pytest.mark.parametrize("options", [{}, {"per_layer": True}, {"rank": 2}])
def test_the_edit_is_what_was_learned_by_hooks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Loss under the search's own hooks, and under the hooks of the Edit from the same state."""
    compared: list[tuple[float, float]] = []
    original = gradient.measure_points

    def compare(objective: Any, evaluator: Any, states: Any) -> Any:
        state, chat = states[-1], objective.chat
        held = read_state(state["tensors"])
        parameters = EditParameters(held["strengths"], held["vectors"])
        target = objective.targets.negative[0]
        with torch.no_grad():
            with (
                change_outputs(chat.model, objective.list_changes(parameters)),
                objective.targets.running() as run_,
            ):
                inside = float(objective.kl_loss(target, run_(target)[0]))
            with objective.build_edit(state).hooks(chat.model):
                outside = float(
                    objective.kl_loss(target, target.forced.predicting(chat.hidden(target.forced)))
                )
        compared.append((inside, outside))
        return original(objective, evaluator, states)

    monkeypatch.setattr(gradient, "measure_points", compare)
    _, edit = go(tmp_path / "run", steps=8, **options)
    inside, outside = compared[-1]
    assert inside > 1e-5
    assert inside == pytest.approx(outside, rel=1e-3)
    assert len({tuple(op.basis[0].tolist()) for op in edit.operations}) > 1 or not options.get("per_layer")
    assert {len(op.basis) for op in edit.operations} == {options.get("rank", 1)}


def test_the_same_seed_gives_the_same_bytes_and_another_another_edit(tmp_path: Path) -> None:
    same, other = go(tmp_path / "same")[1], go(tmp_path / "other", seed=1)[1]
    assert same.to_bytes() == gradient_results()[1].to_bytes()
    assert [op.strengths.tolist() for op in other.operations] != [
        op.strengths.tolist() for op in same.operations
    ]


@pytest.mark.parametrize("step", [1, 4, 6, 11])
def test_an_interrupted_search_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    original: Callable[..., Any] = gradient._Search._step
    done: list[int] = []

    def stopping(search: Any, stepper: Any, now: Any, at: int, *rest: Any) -> Any:
        if at == step and len(done) <= step:
            done.append(at)
            raise KeyboardInterrupt
        done.append(at)
        return original(search, stepper, now, at, *rest)

    monkeypatch.setattr(gradient._Search, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run")
    again = len(done)
    _, edit = go(tmp_path / "run")
    assert edit.to_bytes() == gradient_results()[1].to_bytes()
    # What was done before the last point is not done again.
    assert done[again] == step - step % gradient.STRIDE


def test_a_missed_target_is_gone_for_in_further_rounds_with_the_openings_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step is too few; what its edit still refuses is learned from next, and the rounds resume
    like the rest.
    """
    sizes: list[tuple[int, int]] = []
    original = gradient.add_openings

    def counted(task: Any, targets: Any, examples: Any) -> Any:
        more = original(task, targets, examples)
        sizes.append((len(targets.change), len(more.change)))
        return more

    monkeypatch.setattr(gradient, "add_openings", counted)
    scores, _ = go(tmp_path / "run", steps=1)
    before, after = sizes[0]
    assert after > before
    # They come up in a third of the steps that follow.
    assert 3 * (after - before) >= after - 2
    steps = [point["step"] for point in scores["candidates"]]
    assert steps == sorted(steps)
    assert len(scores["history"]) == steps[-1] > 1
    assert scores["candidates"][0]["rate"] > 0.05
    # A KL budget is met by choosing among the points that there are.
    budgeted, _ = go(tmp_path / "budget", steps=1, kl_budget=1e3)
    assert {point["step"] for point in budgeted["candidates"]} == {1}
    assert len(sizes) < 3


def test_it_learns_in_bfloat16_too(tmp_path: Path) -> None:
    scores, edit = go(tmp_path / "run", dtype="bfloat16")
    chosen = chosen_point(scores)
    assert chosen["rate"] <= 0.05
    assert chosen["kl"] < 0.05
    assert edit.main_direction.dtype == torch.float32


def test_the_start_is_a_direction_that_silences_the_behaviour_and_not_its_opening_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The direction of least loss is passed over while the model still says it; with none that
    does, the least bad is taken.
    """
    asked: list[float] = []

    def left(shares: list[float]) -> Callable[..., float]:
        def share(*args: Any) -> float:
            asked.append(shares[len(asked)])
            return asked[-1]

        return share

    layers = {}
    for name, shares in (("first", [0.0]), ("second", [0.9, 0.1]), ("none", [0.4, 0.3])):
        asked.clear()
        monkeypatch.setattr(start_directions, "share_left", left(shares))
        layers[name] = go(tmp_path / name, steps=2, target_rate=1.0)[0]["chosen"]["layer"]
        assert asked == shares
    assert layers["first"] != layers["second"] == layers["none"]


def test_the_turn_to_all_layers_is_said_beside_other_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Screening in the upper layers finds nothing the first time; one kind of writer is out of the
    hooks' reach, and the target rate is missed.
    """
    screen = gradient.screen_directions

    def unreached(objective: Any) -> dict[str, Any]:
        return {**screen(objective), "reached": not objective.start}

    monkeypatch.setattr(gradient, "screen_directions", unreached)
    monkeypatch.setattr(edit_objective, "is_hookable", lambda writer: writer.component != "embedding")
    run(
        str(tiny_chat.folder()),
        tmp_path,
        **{**tiny_chat.sources(), **SHORT, "steps": 2, "target_rate": 0.0, "until": "report"},
    )
    said = json.loads((tmp_path / "scores.json").read_text())["note"]
    assert "all layers and the embeddings are searched" in said
    assert "writers that no hook reaches stay as they are: embedding; " in said
    assert "no edit brings the behaviour down" in said
    assert said in json.loads((tmp_path / "summary.json").read_text())["notes"]


@pytest.mark.unit
def test_writers_that_do_not_matter_end_at_exactly_zero() -> None:
    # Without a gradient only the threshold moves a strength: 0.02 of the learning rate 0.05 a step.
    a_step = learned.THRESHOLD * learned.RATES[0]
    start = {
        "strengths": torch.tensor([[2.5 * a_step], [-2.5 * a_step], [1.0]]),
        "vectors": torch.eye(4)[None, :1],
    }
    optimizer = learned.Optimizer(learned.write_state(start), 0, directions=False)
    strengths = optimizer.parameters.strengths

    def backward() -> dict[str, float]:
        # The third writer matters: its strength is pulled towards 2.
        strengths.grad = torch.tensor([[0.0], [0.0], [-1.0]])
        return {}

    for expected in (1.5, 0.5, 0.0, 0.0):
        optimizer.step(1.0, backward)
        assert strengths[:2, 0].tolist() == pytest.approx([expected * a_step, -expected * a_step], abs=1e-9)
    assert strengths[:2].eq(0).all()
    assert strengths[2].item() > 1.0


def test_verdicts_outlive_a_kill_with_the_answers_that_they_judge(tmp_path: Path) -> None:
    """A server that is asked again may answer otherwise, and is paid for it."""
    asked: list[str] = []

    class MoodyJudge(RefusalJudge):
        def verdict(self, prompt: str, completion: str) -> Verdict:
            asked.append(prompt)
            return "compliance" if asked.count(prompt) > 1 else super().verdict(prompt, completion)

    def openings() -> list[Example]:
        sides = {"positive": {"fit": POSITIVE}, "negative": {"fit": NEGATIVE}}
        task = replace(recipe_input(tmp_path, "gradient"), answers={"positive": []}, **sides)
        return collect_examples(replace(task, judge=MoodyJudge())).change

    first = openings()
    assert len(first) == len(asked) == len(POSITIVE)
    assert openings() == first
    assert len(asked) == len(POSITIVE)


def test_no_behaviour_is_said(tmp_path: Path) -> None:
    with pytest.raises(BehaviourAbsentError):
        run(str(tiny_chat.folder(taught_=False)), tmp_path / "run", **{**tiny_chat.sources(), **SHORT})
    with pytest.raises(BehaviourAbsentError, match="positive fit prompts"):
        run(
            str(tiny_chat.folder(taught_=False)),
            tmp_path / "run",
            **{**tiny_chat.sources(), **SHORT, "force": True},
        )


def test_a_rank_that_the_model_has_no_room_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="--rank 99: the stream has width 32"):
        go(tmp_path / "run", rank=99)


@pytest.mark.unit
def test_epochs_are_shuffled_and_complete_from_any_step() -> None:
    order = PassOrder(5, "keep", seed=3)
    epochs = [[order.at(step) for step in range(at, at + 5)] for at in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert PassOrder(5, "keep", seed=3).at(7) == epochs[1][2]
    assert [PassOrder(50, "change", 3).at(i) for i in range(50)] != [
        PassOrder(50, "keep", 3).at(i) for i in range(50)
    ]


@pytest.mark.unit
def test_one_row_a_direction_is_each_direction_alone() -> None:
    vectors = linalg.normalise(torch.randn(3, 8))
    output = torch.randn(3, 5, 8)
    by_row = ablate_by_row(vectors)
    expected = torch.stack(
        [linalg.remove(o, v[None], torch.ones(1)) for o, v in zip(output, vectors, strict=True)]
    )
    torch.testing.assert_close(by_row(output), expected)
    # Experts see all tokens of a batch in one list.
    torch.testing.assert_close(by_row(output.reshape(15, 8)), expected.reshape(15, 8))


def test_selective_needs_prompts_to_keep(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="--keep"):
        go(tmp_path / "run", recipe="selective")
