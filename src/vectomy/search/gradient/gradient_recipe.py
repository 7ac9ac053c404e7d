"""Recipe `gradient`: learn the strengths of all writers and the direction itself, by hooks on the
writers' outputs.

A writer's output y becomes y - B^T diag(a) B y, with strengths a of its own and orthonormal
directions B shared by all writers (or by those of a layer). Minimised, with Adam, is

    mean softplus(log p(opening) + 6) / 6     openings of the base's own answers that show the
    behaviour + w KL(base || edited)                    per token, and of the first token, on the
    base's own other answers

with a soft threshold on a, so that writers that do not matter end at exactly 0. No gradient of a
weight is taken. The weight w rises while the search goes on: the points on the way are a frontier
of behaviour against damage, and pareto.py says which of them is taken, after each was measured on
the search split.

Sources: the loss and its constants were measured for this project (docs/log/gradient-search.md);
RDO (arXiv 2502.17420) learns a direction by a similar one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vectomy.architecture import Writer
from vectomy.core import linalg
from vectomy.core.errors import SelectionError
from vectomy.edits.edit import Edit
from vectomy.edits.operation import Operation
from vectomy.hooks.interventions import change_outputs, fold, hookable
from vectomy.metrics.logits import kl_divergence
from vectomy.search.estimators import direction_from
from vectomy.search.gradient.parameters import (
    GENTLE,
    STEEP,
    EditParameters,
    Optimizer,
    Phase,
    read_state,
    taking_out,
    taking_out_by_row,
    write_state,
)
from vectomy.search.gradient.pass_order import PassOrder
from vectomy.search.gradient.train_passes import TrainPass, measure_targets, share_left, with_openings_left
from vectomy.search.pareto import choose_point, frontier, try_in_halves
from vectomy.search.recipe import RecipeInput, RecipeResult
from vectomy.search.search_split import SearchSplitEvaluator

__all__ = ["select_gradient"]

# Writers below this share of the depth stay as they are: what they write is hardly the behaviour
# yet, and all below is computed once.
START = 0.4
# Log-probability of an opening below which pushing it down is worth little; in nats.
MARGIN = 6.0
# Strengths begin here.
FIRST_STRENGTH = 0.3
# Steps between points of the frontier, which are also the points that an interrupted search goes on
# from.
STRIDE = 4
# Rounds of half the steps that follow where the target rate is missed.
MORE_ROUNDS = 2
# Starting directions are screened at every so manyeth layer of this part of the depth.
SCREENED = (0.45, 0.7)
SCREENED_LAYERS = 6
# A direction that is given is said to be read at this share of the depth, where the report measures
# along it.
GIVEN = 0.6
# Of the behaviour that the base shows on so many fit prompts, a direction that is taken out wholly
# may leave this share to be a good start. What leaves more than REACHED anywhere makes the search
# turn to all layers.
SCREENED_PROMPTS = 16
LEFT = 0.125
REACHED = 0.5
# Said of points that are not generated with.
UNTRIED = "not tried: one of less KL is enough, or one of more KL leaves too much"
# Share of what the base holds on to that a selective edit has to leave.
HELD = 0.95


def select_gradient(task: RecipeInput) -> RecipeResult:
    """Learn an Edit for the task; see the module.

    Raises:
        SelectionError: no writer can be learned, or more directions are asked for than the model
            allows.
        BehaviourAbsentError: the base does not show the behaviour on the fit prompts.
    """
    search = _Search(task)
    points, edits = search.run()
    tried = [at for at, point in enumerate(points) if point["rejected"] is None]
    chosen, note = _choose([points[at] for at in tried], task)
    edit = edits[tried[chosen]]
    token = task.chat.tokenizer.decode([task.chat.post_instruction()[-1]])
    best = [tried[at] for at in frontier([points[at] for at in tried])]
    files = {f"step-{points[at]['step']}.safetensors": edits[at] for at in best}
    rows = [
        {**{key: points[at][key] for key in ("step", "rate", "kl")}, "edit": f"frontier/{name}"}
        for at, name in zip(best, files, strict=True)
    ]
    scores = {
        "recipe": task.config.recipe,
        "candidates": points,
        "frontier": rows,
        "chosen": {**search.place, "token": token, "norm": 1.0, "step": points[tried[chosen]]["step"]},
        "strengths": [
            {"layer": op.layer, "component": op.component, "strengths": op.strengths.tolist()}
            for op in edit.operations
        ],
        "history": search.history,
        "note": "; ".join(said for said in (*search.notes, note) if said) or None,
    }
    return RecipeResult(scores, edit, files)


def _choose(points: Sequence[dict[str, Any]], task: RecipeInput) -> tuple[int, str | None]:
    """The rule of pareto.py; of a selective search among the points that leave enough of what is to
    be kept.
    """
    limits = task.config.selection
    held = [at for at, point in enumerate(points) if _holds(point)]
    at, note = choose_point(
        [points[at] for at in held] if held else points, limits.target_rate, limits.kl_budget
    )
    if held:
        return held[at], note
    return at, f"no edit leaves {HELD:.0%} of the behaviour on the prompts to keep" + (
        f"; {note}" if note else ""
    )


def _holds(point: dict[str, Any]) -> bool:
    return bool(point.get("held", 1.0) >= HELD * point.get("held_base", 1.0))


class _Search:
    """One search: parameters, loss and steps."""

    def __init__(self, task: RecipeInput) -> None:
        self.task, self.chat = task, task.chat
        self.history: list[dict[str, float]] = []
        turned = None
        n_layers, given = self.chat.architecture.n_layers, task.config.selection.direction
        self.given = None if given is None else self._read(given)
        for start in (round(START * n_layers), 0):
            self._from(start)
            if self.given is not None:
                screened = {"layer": round(GIVEN * n_layers)}
                break
            screened = task.journal.get_or_compute(f"screened from {start}", self._screened)
            if not start or screened["reached"]:
                break
            turned = f"taking directions out from layer {start} on leaves the behaviour as it is; all layers and the embeddings are searched"
        # Setting up anew says anew which writers are out of reach; why it was set up anew is said
        # beside it.
        self.notes = [said for said in (turned, self.out_of_reach) if said]
        self.layer = int(screened["layer"])
        self.place = {"site": "resid_pre", "layer": self.layer, "position": -1}

    def _from(self, start: int) -> None:
        """Set up for the writers from layer `start` on; from 0 on with the embeddings."""
        task = self.task
        self.start = start
        inside = [w for w in task.writers if (not start if w.layer is None else w.layer >= start)]
        self.writers = [writer for writer in inside if hookable(writer)]
        self._check()
        left = sorted({writer.component for writer in inside} - {writer.component for writer in self.writers})
        self.out_of_reach = (
            f"writers that no hook reaches stay as they are: {', '.join(left)}" if left else None
        )
        self.targets = measure_targets(task, start)
        # Where a writer's directions stand among the groups.
        per_layer = task.config.per_layer
        self.groups = [max(0, (w.layer or 0) - start) if per_layer else 0 for w in self.writers]

    def _read(self, source: str) -> Float[Tensor, "k d_model"]:
        """A direction that was given, in place of the screened ones."""
        width, rank = self.chat.architecture.d_model, self.task.config.selection.rank
        given = direction_from(source, width).float()
        rows = given[None] if given.ndim == 1 else given
        if rows.shape != (rank, width) or not bool(rows.isfinite().all() & rows.any(dim=-1).all()):
            raise SelectionError(
                f"--direction {source} holds numbers of shape {list(given.shape)}; a search of --rank {rank} on this model takes {rank} "
                f"finite direction(s) of width {width}, none of them zero"
            )
        return linalg.normalise(rows)

    def _check(self) -> None:
        arch, rank = self.chat.architecture, self.task.config.selection.rank
        if not self.writers:
            raise SelectionError(
                f"no writer of this {arch.model_type} model can be learned by hooks from layer {self.start} on; use --recipe arditi"
            )
        normed = next((w for w in self.writers if w.norms), None)
        if rank > 1 and normed is not None:
            raise SelectionError(
                f"--rank {rank}: '{normed.norms[-1].module}' stands between '{normed.module}' and the stream, where directions with "
                "strengths of their own do not stay orthonormal; use --rank 1 or --per-layer"
            )
        if rank >= arch.d_model:
            raise SelectionError(f"--rank {rank}: the stream has width {arch.d_model}")

    # Where it starts

    def run(self) -> tuple[list[dict[str, Any]], list[Edit]]:
        """Points and their edits. While the target rate is missed, further rounds go on from the
        nearest point, with the openings that it has left among those to change; a KL budget is met
        by choosing, not by more rounds.
        """
        task, limits = self.task, self.task.config.selection
        search = SearchSplitEvaluator(task, self.targets.packed, self.targets.layer)
        first = {"tensors": write_state(self._first(self.layer)), "step": 0}
        # Two sets that the same layers tell apart take room (docs/log/selective.md).
        press = STEEP if task.preserve is None else GENTLE
        states = self._round(first, Phase(0, task.config.steps, press))
        points, edits = self.measured(search, states)
        for number in range(1, MORE_ROUNDS + 1):
            tried = [at for at, point in enumerate(points) if point["rejected"] is None]
            if limits.kl_budget is not None or any(self._enough(points[at]) for at in tried):
                break
            nearest = min(
                tried, key=lambda at: (not _holds(points[at]), points[at]["rate"], points[at]["kl"])
            )
            self.targets = with_openings_left(task, self.targets, edits[nearest], f"openings left {number}")
            begin = {**states[nearest], "step": states[-1]["step"]}
            more = self._round(begin, Phase(states[-1]["step"], max(STRIDE, task.config.steps // 2), GENTLE))
            found = self.measured(search, more)
            states, points, edits = states + more, points + found[0], edits + found[1]
        return points, edits

    def _enough(self, point: dict[str, Any]) -> bool:
        return bool(point["rate"] <= self.task.config.selection.target_rate and _holds(point))

    def _round(self, state: dict[str, Any], now: Phase) -> list[dict[str, Any]]:
        """The states at every STRIDE of a round, those behind its settling; journalled."""
        sizes = {kind: len(getattr(self.targets, kind)) for kind in ("change", "keep", "hold")}
        orders = {
            kind: PassOrder(size, f"{kind} {now.first}", self.task.config.seed)
            for kind, size in sizes.items()
        }
        states: list[dict[str, Any]] = []
        with self.targets.running() as run, self.task.progress("learning", now.steps, "steps") as update:
            for step in range(0, now.steps, STRIDE):
                end = min(step + STRIDE, now.steps)
                ahead = partial(self._advance, state, now, now.first + end, orders, run)
                state = self.task.journal.get_or_compute(f"steps to {now.first + end}", ahead)
                self.history += state["history"]
                states.append(state)
                update(end - step)
        return [held for held in states if held["step"] >= now.settled] or states[-1:]

    def _candidates(self) -> dict[int, Float[Tensor, " d_model"]]:
        n = self.chat.architecture.n_layers
        low, high = (round(share * n) for share in SCREENED)
        layers = sorted(
            {round(low + (high - low) * at / (SCREENED_LAYERS - 1)) for at in range(SCREENED_LAYERS)}
        )
        found = {layer: self._direction(layer) for layer in layers}
        return {layer: vector for layer, vector in found.items() if bool(vector.any())}

    def _direction(self, layer: int) -> Float[Tensor, " d_model"]:
        return linalg.normalise(self.task.directions.at("resid_pre", layer, -1).float())

    def _screened(self) -> dict[str, Any]:
        """Tries closed-form directions by taking them out wholly: first by loss, then, in that
        order, by what the model says.

        An opening may be gone and the behaviour still be there, in other words, so the losses do
        not decide alone.
        """
        found = self._candidates()
        if not found:
            raise SelectionError(
                "the two prompt sets have the same mean at every layer; there is no direction to start from"
            )
        base, losses = self._losses(torch.stack(list(found.values())))
        both = [sum(pair) for pair in zip(*losses.values(), strict=True)]
        order = sorted(range(len(found)), key=lambda at: both[at])
        left: dict[int, float] = {}
        for at in order if self.task.judge is not None else ():
            layer = list(found)[at]
            edit = Edit.from_directions(found[layer], self.task.base, self.writers)
            left[layer] = share_left(self.task, edit, SCREENED_PROMPTS)
            if left[layer] <= LEFT:
                break
        least = min(left.values()) if left else min(losses["change"]) / base
        best = min(left, key=lambda layer: left[layer]) if left else list(found)[order[0]]
        return {
            "layer": best,
            "layers": list(found),
            "left": left,
            "reached": least <= REACHED,
            "base": base,
            **losses,
        }

    @torch.no_grad()
    def _losses(self, vectors: Float[Tensor, "copy d_model"]) -> tuple[float, dict[str, list[float]]]:
        """The behaviour's loss as it is, and both losses with each direction taken out wholly: all
        in one batch, an edit of its own per row.
        """
        with self.targets.running() as run:
            base = float(self._behaviour(self.targets.change[0], run(self.targets.change[0])[0]))
            changes = [(w, taking_out_by_row(fold(self.chat.model, w, vectors))) for w in self.writers]
            with change_outputs(self.chat.model, changes):
                return base, {
                    part: [float(loss(target, now)) for now in run(target, len(vectors))]
                    for part, loss, target in (
                        ("change", self._behaviour, self.targets.change[0]),
                        ("keep", self._damage, self.targets.keep[0]),
                    )
                }

    def _first(self, layer: int) -> dict[str, Tensor]:
        """Parameters as they start, and the moments of Adam."""
        limits, n = self.task.config.selection, self.chat.architecture.n_layers
        strengths = torch.full((len(self.writers), limits.rank), FIRST_STRENGTH)
        if self.given is not None:
            return {
                "strengths": strengths,
                "vectors": self.given.expand(max(self.groups) + 1, -1, -1).clone(),
            }
        starts = range(self.start, n) if self.task.config.per_layer else [layer]
        # At the first layer the two sets may still be the same.
        own = torch.stack(
            [found if (found := self._direction(at)).any() else self._direction(layer) for at in starts]
        )
        # Further directions are the closed-form ones of the layers next to it, as far as they
        # differ.
        near = [self._direction(min(n - 1, layer + 2 * more)) for more in range(1, limits.rank)]
        vectors = torch.stack([own, *(row.expand_as(own) for row in near)], dim=1)
        return {"strengths": strengths, "vectors": vectors}

    # Steps

    def _advance(
        self,
        state: dict[str, Any],
        now: Phase,
        end: int,
        orders: Mapping[str, PassOrder],
        run: Callable[..., Tensor],
    ) -> dict[str, Any]:
        """Steps from a state to `end`, as another state."""
        stepper = Optimizer(state["tensors"], state["step"], self.task.config.selection.learn_direction)
        history = []
        with torch.enable_grad():
            for step in range(state["step"], end):
                history.append({"step": step, **self._step(stepper, now, step, orders, run)})
        return {"tensors": stepper.stored(), "history": history, "step": end}

    def _step(
        self,
        stepper: Optimizer,
        now: Phase,
        step: int,
        orders: Mapping[str, PassOrder],
        run: Callable[..., Tensor],
    ) -> dict[str, float]:
        ease, weight = now.at(step)

        def backward() -> dict[str, float]:
            losses = {}
            for name, loss, scale in (
                ("change", self._behaviour, 1.0),
                ("keep", self._damage, weight),
                ("hold", self._damage, weight),
            ):
                if getattr(self.targets, name):
                    target = getattr(self.targets, name)[orders[name].at(step - now.first)]
                    with change_outputs(self.chat.model, self._changes(stepper.learned)):
                        value = loss(target, run(target)[0])
                        (scale * value).backward()
                    losses[name] = float(value.detach())
            return losses

        return stepper.step(ease, backward)

    def _changes(self, learned: EditParameters) -> list[tuple[Writer, Callable[[Tensor], Tensor]]]:
        bases = learned.basis()
        return [
            (writer, taking_out(fold(self.chat.model, writer, bases[group]), learned.strengths[at]))
            for at, (writer, group) in enumerate(zip(self.writers, self.groups, strict=True))
        ]

    def _behaviour(self, target: TrainPass, now: Float[Tensor, "label d_model"]) -> Tensor:
        """softplus(log p + margin) / margin, p the probability of an opening as a whole; mean over
        openings.
        """
        one = target.forced
        each = self.chat.log_probs(now).gather(-1, one.labels[:, None])[:, 0]
        whole = torch.zeros(len(one.first), device=each.device).index_add(0, one.answer, each)
        return functional.softplus(whole + MARGIN).mean() / MARGIN

    def _damage(self, target: TrainPass, now: Float[Tensor, "label d_model"]) -> Tensor:
        """KL(base || edited) per token, and of the first token once more."""
        kl = kl_divergence(self.chat.log_probs(target.base), self.chat.log_probs(now))
        return kl.mean() + kl[target.forced.first].mean()

    # What came out

    def edit(self, state: dict[str, Any]) -> Edit:
        held = read_state(state["tensors"])
        bases = EditParameters(held["strengths"], held["vectors"]).basis().contiguous()
        operations = [
            Operation(w.component, w.layer, bases[group], strengths)
            for w, group, strengths in zip(self.writers, self.groups, held["strengths"], strict=True)
            if bool(strengths.any())
        ]
        return Edit(self.task.base, tuple(operations))

    def measured(
        self, search: SearchSplitEvaluator, states: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[Edit]]:
        """The states as points, measured on the search split: KL of all; the behaviour of those
        within the budget or, without one, of as many as it takes to find the least KL at which it
        is gone. What is not tried then is out already.
        """
        task, budget = self.task, self.task.config.selection.kl_budget
        edits = [self.edit(state) for state in states]
        damages = task.journal.get_or_compute(
            f"damage up to {states[-1]['step']}", partial(search.damage, edits)
        )
        points: list[dict[str, Any]] = [
            {
                "step": state["step"],
                **damage,
                "rate": None,
                "writers": len(edit.operations),
                "rejected": UNTRIED,
            }
            for state, edit, damage in zip(states, edits, damages, strict=True)
        ]
        order = sorted(range(len(points)), key=lambda at: points[at]["kl"])

        def enough(place: int) -> bool:
            at = order[place]
            rate = task.journal.get_or_compute(f"rate {points[at]['step']}", partial(search.rate, edits[at]))
            points[at] |= {"rejected": None, "rate": rate}
            if task.preserve is not None:
                held = partial(self._held, search, edits[at])
                points[at] |= task.journal.get_or_compute(f"held {points[at]['step']}", held)
            return self._enough(points[at])

        if budget is None:
            try_in_halves(len(order), enough)
        for place, at in enumerate(order):
            if budget is not None and place and points[at]["kl"] > budget:
                points[at]["rejected"] = f"KL is above {budget:g}"
            elif budget is not None:
                enough(place)
        return points, edits

    def _held(self, search: SearchSplitEvaluator, edit: Edit) -> dict[str, float]:
        preserve = self.task.preserve
        assert preserve is not None
        chat, c = self.task.chat, self.task.config
        base = self.task.journal.get_or_compute(
            "answers held",
            lambda: chat.answer(chat.tokens(preserve.search), c.answer_tokens, c.runtime.batch_tokens),
        )
        return {"held": search.held(edit, base), "held_base": search.held(None, base)}
