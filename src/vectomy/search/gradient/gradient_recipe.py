"""Recipe `gradient`: learns the strengths of all writers and the direction itself, with hooks on
the writers' outputs.

A writer's output y becomes y - B^T diag(a) B y. Each writer has its own strengths a; all writers
(or those of one layer) share the orthonormal directions B. Adam minimises

      mean softplus(log p(opening) + 6) / 6   openings of the base's own answers that show the
                                              behaviour
    + w KL(base || edited)                    per token, plus that of the first token, on the base's
                                              own other answers

with a soft threshold on a, so that unimportant writers end at exactly 0. No gradient of a weight is
computed. First w is 1 and the behaviour is removed; openings in which it is left are added to the
loss (not with a preserve set). Then w grows, so that the states form a frontier of behaviour
against KL. They are measured on the search split at several strengths of the dial, and the rule of
pareto.py chooses a point.

A step has `accumulate` passes of each set. Ranks take different passes of a step; their gradients
are added in the order of the passes, so any number of ranks learns the same.

The parts: start_directions.py (screening), edit_objective.py (writers and losses), this module (the
loop) and frontier_points.py (measuring and choosing).

Sources: the loss and its constants were measured for this project (docs/log/gradient-search.md);
RDO (arXiv 2502.17420) learns a direction with a similar loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from vectomy.core.freed_memory import trim_heap
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.ranks import current_ranks
from vectomy.hooks.writer_outputs import change_outputs
from vectomy.search.gradient.edit_objective import EditObjective
from vectomy.search.gradient.frontier_points import (
    FrontierPoints,
    choose,
    is_enough,
    is_preserved,
    list_tried,
    measure_points,
)
from vectomy.search.gradient.parameters import (
    SETTLE,
    EditParameters,
    Optimizer,
    Phase,
    SearchState,
    write_state,
)
from vectomy.search.gradient.pass_memory import PassMemory
from vectomy.search.gradient.pass_order import PassOrder
from vectomy.search.gradient.start_directions import init_parameters, read_directions, screen_directions
from vectomy.search.gradient.train_passes import (
    MOST_PROMPTS,
    STORED_NAMES,
    TargetName,
    TrainPass,
    add_openings,
    list_openings_left,
)
from vectomy.search.pareto import frontier
from vectomy.search.recipe import Candidate, RecipeInput, RecipeResult
from vectomy.search.search_split import SearchSplitEvaluator

__all__ = ["START", "STRIDE", "select_gradient"]

# Writers below this fraction of the depth stay as they are: they write little of the behaviour, and
# everything below is computed only once.
START = 0.4
# Steps between two points of the frontier. An interrupted search resumes at one of these points.
STRIDE = 4
# How often the edited model's own openings are looked at while the behaviour is removed, and the
# steps that follow where it shows the behaviour in other words.
HEARINGS, MORE_REMOVAL = 2, 8
# Further rounds, of half the steps each, while the target rate is missed.
MORE_ROUNDS = 2
Loss = Callable[[TrainPass, Tensor], Tensor]
# A given direction has no layer; scores.json places it at this fraction of the depth, where the
# report measures along it.
GIVEN = 0.6


def select_gradient(task: RecipeInput) -> RecipeResult:
    """Learn an Edit for the task; see the module.

    Raises:
        SelectionError: no writer can be learned, or the model does not allow this many directions.
        BehaviourAbsentError: the base does not show the behaviour on the fit prompts.
    """
    search = _Search(task)
    points, edits, _ = search.run()
    tried = list_tried(points)
    chosen, note = choose([points[index] for index in tried], task)
    edit = edits[tried[chosen]]
    token = task.chat.tokenizer.decode([task.chat.post_instruction()[-1]])
    best = [tried[index] for index in frontier([points[index] for index in tried])]
    files = {_name_file(points[index]): edits[index] for index in best}
    rows = [
        {
            **{key: points[index].get(key) for key in ("step", "strength", "rate", "kl", "degenerate")},
            "edit": f"frontier/{name}",
        }
        for index, name in zip(best, files, strict=True)
    ]
    scores = {
        "recipe": task.config.recipe,
        "candidates": points,
        "frontier": rows,
        "chosen": {
            **search.place,
            "token": token,
            "norm": 1.0,
            **{key: points[tried[chosen]][key] for key in ("step", "strength")},
        },
        "strengths": [
            {"layer": op.layer, "component": op.component, "strengths": op.strengths.tolist()}
            for op in edit.operations
        ],
        "history": search.history,
        "note": "; ".join(text for text in (*search.notes, note) if text) or None,
    }
    return RecipeResult(scores, edit, files)


def _name_file(point: Candidate) -> str:
    """The file of a point on the frontier."""
    dial = "" if point["strength"] == 1.0 else f"-strength-{point['strength']:g}"
    return f"step-{point['step']}{dial}.safetensors"


class _StepPass(NamedTuple):
    """A pass of one step, and the weight of its loss."""

    name: TargetName
    target: TrainPass
    loss: Loss
    scale: float


def _distance(point: Candidate) -> tuple[bool, float, float]:
    """How far a point is from the target, for comparing."""
    return not is_preserved(point), point["rate"], point["kl"]


class _Search:
    """One search: the start, the objective, and the steps."""

    def __init__(self, task: RecipeInput) -> None:
        self.task = task
        self.memory = PassMemory(task.chat)
        self.history: list[dict[str, float]] = []
        turned = None
        n_layers, source = task.chat.architecture.n_layers, task.config.selection.direction
        self.given = None if source is None else read_directions(task, source)
        for start in (round(START * n_layers), 0):
            self.objective = EditObjective(task, start)
            if self.given is not None:
                screened = {"layer": round(GIVEN * n_layers)}
                break
            screened = task.journal.get_or_compute(
                f"screened from {start}", partial(screen_directions, self.objective)
            )
            if not start or screened["reached"]:
                break
            turned = (
                f"ablating directions from layer {start} on leaves the behaviour as it is; "
                "all layers and the embeddings are searched"
            )
        self.notes = [text for text in (turned, self.objective.out_of_reach) if text]
        self.layer = int(screened["layer"])
        self.place = {"site": "resid_pre", "layer": self.layer, "position": -1}

    def run(self) -> FrontierPoints:
        """The points, their Edits and states.

        While the target rate is missed, further rounds start from the nearest point, and learn from
        the openings that remain there. A KL budget is met by choosing a point, not by more rounds.
        """
        task, limits, objective = self.task, self.task.config.selection, self.objective
        targets = objective.targets
        evaluator = SearchSplitEvaluator(task, targets.packed, targets.layer, targets.longest)
        states = self._run_first_round()
        points = measure_points(objective, evaluator, states)
        for number in range(1, MORE_ROUNDS + 1):
            tried = list_tried(points.rows)
            if limits.kl_budget is not None or any(is_enough(points.rows[index], task) for index in tried):
                break
            nearest = min(tried, key=lambda index: _distance(points.rows[index]))
            left = list_openings_left(task, points.edits[nearest], f"openings left {number}")
            objective.targets = add_openings(task, objective.targets, left)
            last = states[-1]["step"]
            steps = max(STRIDE, task.config.steps // 2)
            states = self._run_phase({**points.states[nearest], "step": last}, Phase.both(last, steps))
            more = measure_points(objective, evaluator, states)
            points = FrontierPoints(
                [*points.rows, *more.rows], [*points.edits, *more.edits], [*points.states, *more.states]
            )
        return points

    def _run_first_round(self) -> list[SearchState]:
        """Remove the behaviour, and while the model shows it in other words, those too; then let
        the KL weight rise. Returns the states from there on.
        """
        task = self.task
        parameters = init_parameters(self.objective, self.layer, self.given)
        state: SearchState = {"tensors": write_state(parameters), "step": 0}
        if task.preserve is not None:
            # Telling two sets apart that the same layers represent takes all of the steps
            # (docs/log/selective.md).
            return self._run_phase(state, Phase.both(0, task.config.steps))
        removal = STRIDE * round(SETTLE * task.config.steps / STRIDE)
        removed = [self._remove(state, removal)] if removal else []
        state = removed[-1] if removed else state
        annealing = Phase.annealing(state["step"], max(1, task.config.steps - removal))
        return [*removed, *self._run_phase(state, annealing)]

    def _remove(self, state: SearchState, steps: int) -> SearchState:
        """The state after some steps of removal, and after more of them while the model shows the
        behaviour in other words on more of the fit prompts than the target rate. Only the first
        MOST_PROMPTS are looked at.
        """
        task, objective = self.task, self.objective
        looked_at = min(len(task.positive["fit"]), MOST_PROMPTS)
        state = self._run_phase(state, Phase.removal(state["step"], steps))[-1]
        for _ in range(HEARINGS):
            edit, name = objective.build_edit(state), f"openings left at step {state['step']}"
            left = list_openings_left(task, edit, name)
            if len(left) <= task.config.selection.target_rate * looked_at:
                break
            objective.targets = add_openings(task, objective.targets, left)
            more = Phase.removal(state["step"], min(MORE_REMOVAL, steps))
            state = self._run_phase(state, more)[-1]
        return state

    def _run_phase(self, state: SearchState, phase: Phase) -> list[SearchState]:
        """The states at every STRIDE of a phase, from the step at which the KL weight rises; stored
        in the journal.
        """
        targets = self.objective.targets
        # What answers and the screening have freed fits none of what a learning pass stores.
        trim_heap()
        orders = {
            name: PassOrder(
                len(targets.of(name)), f"{STORED_NAMES[name]} {phase.first}", self.task.config.seed
            )
            for name in STORED_NAMES
        }
        states: list[SearchState] = []
        with self.task.progress("learning", phase.steps, "steps") as update:
            for step in range(0, phase.steps, STRIDE):
                end = min(step + STRIDE, phase.steps)
                advance = partial(self._advance, state, phase, phase.first + end, orders)
                state = self.task.journal.get_or_compute(f"learned to step {phase.first + end}", advance)
                self.history += state["history"]
                states.append(state)
                update(end - step)
        trim_heap()
        return [stored for stored in states if stored["step"] >= phase.settled] or states[-1:]

    def _advance(
        self,
        state: SearchState,
        phase: Phase,
        end: int,
        orders: Mapping[TargetName, PassOrder],
    ) -> SearchState:
        """The state at step `end`, from an earlier state."""
        learn = self.task.config.selection.learn_direction
        optimizer = Optimizer(state["tensors"], state["step"], learn, self.task.chat.device)
        self._measure_memory(optimizer.parameters)
        history = []
        with torch.enable_grad():
            for step in range(state["step"], end):
                history.append({"step": step, **self._step(optimizer, phase, step, orders)})
        return {"tensors": optimizer.write(), "history": history, "step": end}

    def _step(
        self, optimizer: Optimizer, phase: Phase, step: int, orders: Mapping[TargetName, PassOrder]
    ) -> dict[str, float]:
        """One step of the optimiser. Returns the losses by the names that scores.json uses, each
        the mean over the passes of its set.
        """
        targets, weight, count = (
            self.objective.targets,
            phase.at(step)[1],
            self.task.config.selection.accumulate,
        )
        terms: tuple[tuple[TargetName, Loss, float], ...] = (
            ("change", self.objective.behaviour_loss, 1.0),
            ("negative", self.objective.kl_loss, weight),
            ("preserve", self.objective.kl_loss, weight),
        )
        passes = [
            _StepPass(
                name, targets.of(name)[orders[name].at((step - phase.first) * count + number)], loss, scale
            )
            for name, loss, scale in terms
            if targets.of(name)
            for number in range(count)
        ]

        # A model that is read block by block is read once for all passes.
        groups = [passes] if self.task.teacher_forced else [[one] for one in passes]

        def backward() -> dict[str, float]:
            gradients = current_ranks().map(partial(self._find_gradient, optimizer.parameters, count), groups)
            losses: dict[str, float] = {}
            for group, (values, gradient) in zip(groups, gradients, strict=True):
                optimizer.parameters.add_gradient(gradient)
                for one, loss in zip(group, values, strict=True):
                    name = STORED_NAMES[one.name]
                    losses[name] = losses.get(name, 0.0) + loss / count
            return losses

        return optimizer.step(phase.at(step)[0], backward)

    def _find_gradient(
        self, parameters: EditParameters, count: int, passes: Sequence[_StepPass]
    ) -> tuple[list[float], list[Tensor]]:
        """The losses on some of the passes, of which there are `count` a set, and the gradient of
        their weighted sum, in less memory if it runs out.
        """
        while True:
            parameters.clear_gradient()
            try:
                losses = self._add_gradients(parameters, count, passes)
                return losses, parameters.take_gradient()
            except (RuntimeError, MemoryError) as error:
                if self.memory.lowest or not is_out_of_memory(error):
                    raise
            # Out of the handler, whose traceback holds the tensors of the failed pass.
            self.memory.lower()

    def _add_gradients(
        self, parameters: EditParameters, count: int, passes: Sequence[_StepPass]
    ) -> list[float]:
        """The backward passes of some passes. Returns the loss of each."""
        targets = self.objective.targets
        pieces = [
            (index, one._replace(target=piece, scale=one.scale / count))
            for index, one in enumerate(passes)
            for piece in self.memory.pieces_of(targets.split, one.target)
        ]
        groups = [pieces] if self.task.teacher_forced else [[piece] for piece in pieces]
        losses = [0.0] * len(passes)
        for group in groups:
            values = self._add_gradient(parameters, [piece for _, piece in group])
            for (index, _), value in zip(group, values, strict=True):
                losses[index] += value
        return losses

    def _add_gradient(self, parameters: EditParameters, pieces: Sequence[_StepPass]) -> list[float]:
        """One backward pass of the weighted losses on passes or pieces. Returns the losses."""
        chat, targets = self.objective.chat, self.objective.targets
        with (
            change_outputs(chat.model, self.objective.list_changes(parameters)),
            self.memory.saving(targets.layer),
        ):
            states = targets.run_together([piece.target for piece in pieces])
            values = [piece.loss(piece.target, hidden) for piece, hidden in zip(pieces, states, strict=True)]
            weighted = [piece.scale * value for piece, value in zip(pieces, values, strict=True)]
            torch.stack(weighted).sum().backward()
        return [float(value.detach()) for value in values]

    def _measure_memory(self, parameters: EditParameters) -> None:
        targets = self.objective.targets
        with (
            torch.enable_grad(),
            targets.running() as run,
            change_outputs(self.objective.chat.model, self.objective.list_changes(parameters)),
        ):
            self.memory.measure([*targets.change, *targets.negative, *targets.preserve], run)
