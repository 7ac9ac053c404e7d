"""Form `learned`: one context distilled into the other, by hooks on the writers' outputs.

The output y of a writer becomes y - B^T diag(a) B y + c, with a vector c and strengths a of its
own and one direction B per layer. Adam minimises over the fit prompts

    KL(base in the target context || edited in the source context)
        per token of the target's own answers
    + w KL(base || edited)
        the same in the target context, where nothing is to change

The second term is for removal alone: a model without the trait is to stay as it is. No weight gets
a gradient. Context distillation is Snell et al., arXiv 2209.15189; one learned vector per layer is
bias tuning (BitFit, arXiv 2106.10199).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vectomy.architecture import Writer
from vectomy.core import linalg
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.placed_module import execution_device
from vectomy.core.progress import Progress
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.edits.operation import Operation
from vectomy.hooks.writer_outputs import change_outputs
from vectomy.models import ChatModel
from vectomy.models.label_scores import kl_divergence, map_labels
from vectomy.search.distill.distill_examples import DistillBatch, split_batch
from vectomy.search.gradient.pass_memory import PassMemory

__all__ = ["Learnable", "distance", "learn_edit"]

# Learning rates of additions (as a share of the mean length of the writer's output), strengths and
# directions.
ADDITION, STRENGTH, DIRECTION = 0.02, 0.03, 0.01
# Weight of the term that preserves the model without the trait.
PRESERVE = 1.0


@dataclass
class Learnable:
    """The parameters of one writer. `direction` is shared by the writers of a layer; None where
    nothing is removed.
    """

    writer: Writer
    scale: float
    addition: Tensor | None
    strength: Tensor | None
    direction: Tensor | None

    def change(self, output: Tensor) -> Tensor:
        """The output as the Edit will change it."""
        if self.direction is not None and self.strength is not None:
            basis, strength = linalg.normalise(self.direction)[None], self.strength
            output = linalg.remove(output, basis.to(output.device), strength.to(output.device))
        if self.addition is None:
            return output
        return output + (self.scale * self.addition).to(output.device)

    def operation(self) -> Operation:
        direction = (
            torch.eye(1, _width(self))
            if self.direction is None
            else linalg.normalise(self.direction.detach())[None]
        )
        strength = torch.zeros(1) if self.strength is None else self.strength.detach()
        addition = None if self.addition is None else (self.scale * self.addition.detach()).cpu()
        return Operation(
            self.writer.component, self.writer.layer, direction.cpu(), strength.cpu(), addition=addition
        )


def _width(one: Learnable) -> int:
    assert one.addition is not None
    return len(one.addition)


def learn_edit(
    chat: ChatModel,
    base: BaseModelRef,
    learnables: Sequence[Learnable],
    change: Sequence[DistillBatch],
    keep: Sequence[DistillBatch],
    *,
    steps: int,
    seed: int,
    progress: Progress,
    memory: PassMemory | None = None,
) -> tuple[Edit, list[dict[str, float]]]:
    """The learned Edit, and the losses by step. Passes that do not fit into memory run with
    recomputed blocks, and in pieces.
    """
    _place(chat.model, learnables)
    memory = PassMemory(chat) if memory is None else memory
    orders = [_endless(part, seed + at) for at, part in enumerate((change, keep))]
    adam = torch.optim.Adam(_groups(learnables), betas=(0.9, 0.98))
    rates = [group["lr"] for group in adam.param_groups]
    history: list[dict[str, float]] = []
    with torch.enable_grad(), progress("learning", steps, "steps") as update:
        with change_outputs(chat.model, [(one.writer, one.change) for one in learnables]):
            memory.measure([*change, *keep], lambda target: chat.hidden(target.forced))
        for step in range(steps):
            # The learning rate rises over 4 steps and falls to a tenth over the second half.
            ease = min(1.0, (step + 1) / 4, max(0.1, 2 * (1 - step / steps)))
            for group, rate in zip(adam.param_groups, rates, strict=True):
                group["lr"] = rate * ease
            adam.zero_grad()
            losses = {}
            for name, order, weight in (("change", orders[0], 1.0), ("keep", orders[1], PRESERVE)):
                target = next(order, None)
                if target is not None:
                    losses[name] = _add_gradient(chat, learnables, memory, target, weight)
            adam.step()
            history.append(losses)
            update(1)
    return Edit(base, tuple(one.operation() for one in learnables)), history


def _add_gradient(
    chat: ChatModel, learnables: Sequence[Learnable], memory: PassMemory, target: DistillBatch, weight: float
) -> float:
    """The backward pass of a weighted loss, in less memory if it runs out. Returns the loss."""
    parameters = [value for group in _groups(learnables) for value in group["params"]]
    before = [None if value.grad is None else value.grad.clone() for value in parameters]
    first = min((one.writer.layer or 0 for one in learnables), default=0)
    while True:
        loss = 0.0
        try:
            for piece in memory.pieces_of(partial(split_batch, chat), target):
                changes = [(one.writer, one.change) for one in learnables]
                with change_outputs(chat.model, changes), memory.saving(first):
                    part = piece.share * distance(chat, piece)
                    (weight * part).backward()
                loss += float(part.detach())
            return loss
        except (RuntimeError, MemoryError) as error:
            if memory.lowest or not is_out_of_memory(error):
                raise
        # Out of the handler, whose traceback holds the tensors of the failed pass.
        for value, gradient in zip(parameters, before, strict=True):
            value.grad = None if gradient is None else gradient.clone()
        memory.lower()


def distance(chat: ChatModel, target: DistillBatch) -> Tensor:
    """KL(base || edited) per token; for tokens without a teacher, minus their log-probability."""
    one = target.forced

    def score(part: Tensor, rows: slice) -> Tensor:
        now = chat.log_probs(part)
        each = kl_divergence(chat.log_probs(target.base[rows]), now)
        has_teacher = target.has_teacher[rows].to(each.device)
        if bool(has_teacher.all()):
            return each
        return torch.where(has_teacher, each, -now.gather(-1, one.labels[rows, None].to(each.device))[:, 0])

    each = map_labels(chat, one.predicting(chat.hidden(one)), score)
    weight = target.weight.to(each.device)
    return (each * weight).sum() / weight.sum()


def _place(model: nn.Module, learnables: Sequence[Learnable]) -> None:
    """Put the parameters where their writers are, so that no step moves them."""
    placed: dict[tuple[int, torch.device], Tensor] = {}
    for one in learnables:
        device = execution_device(model.get_submodule(one.writer.module))
        for name in ("addition", "strength", "direction"):
            value: Tensor | None = getattr(one, name)
            if value is not None and value.device != device:
                # The writers of a layer share one direction.
                moved = placed.setdefault((id(value), device), value.detach().to(device).requires_grad_())
                setattr(one, name, moved)


def _groups(learnables: Sequence[Learnable]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, rate in (("addition", ADDITION), ("strength", STRENGTH), ("direction", DIRECTION)):
        unique = {id(value): value for one in learnables if (value := getattr(one, name)) is not None}
        if unique:
            found.append({"params": list(unique.values()), "lr": rate})
    return found


def _endless(part: Sequence[DistillBatch], seed: int) -> Iterator[DistillBatch]:
    chance = random.Random(seed)
    while part:
        yield from chance.sample(list(part), len(part))
