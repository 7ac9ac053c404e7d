"""The parameters of the gradient search: how they are stored bit by bit, and the schedule and step
of the optimiser.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core import linalg

__all__ = [
    "SETTLE",
    "EditParameters",
    "Optimizer",
    "Phase",
    "SearchState",
    "ablate_by_row",
    "ablate_with_strengths",
    "read_state",
    "scale_state",
    "write_state",
]

SearchState = dict[str, Any]
"""A journalled state: `tensors` (as `write_state` stores them), `step`, and `history` of losses."""

# Learning rates of strengths and directions, and the fraction of them that remains at the end.
RATES = (0.05, 0.004)
LAST_RATE = 0.3
# The KL weight is 1 for this fraction of the steps, then it grows to LAST_WEIGHT. With a steeper
# growth, a behaviour that comes back in other words leaves no room to remove them, and the dial
# makes up for a gentle one (docs/log/gradient-search.md).
SETTLE, LAST_WEIGHT = 0.4, 8.0
# Each step shrinks every strength by this fraction of its learning rate.
THRESHOLD = 0.02


@dataclass(frozen=True)
class Phase:
    """Consecutive steps of the optimiser, with a schedule of the KL weight and of the learning
    rates.
    """

    first: int
    steps: int
    settle: float
    """The fraction of steps with a KL weight of 1, before it rises."""
    last_weight: float = LAST_WEIGHT
    last_rate: float = LAST_RATE

    @classmethod
    def removal(cls, first: int, steps: int) -> Phase:
        """The behaviour is removed: a KL weight of 1, and the full learning rates."""
        return cls(first, steps, settle=1.0, last_weight=1.0, last_rate=1.0)

    @classmethod
    def annealing(cls, first: int, steps: int) -> Phase:
        """The KL weight rises from the first step, and the learning rates fall."""
        return cls(first, steps, settle=0.0)

    @classmethod
    def both(cls, first: int, steps: int) -> Phase:
        """First the behaviour is removed, then the KL weight rises."""
        return cls(first, steps, settle=SETTLE)

    @property
    def settled(self) -> float:
        """The step at which the KL weight starts to rise."""
        return self.first + self.settle * self.steps

    def at(self, step: int) -> tuple[float, float]:
        """(fraction of the learning rates, KL weight) at a step. The weight grows exponentially."""
        part = (step - self.first) / self.steps
        rate_scale = 1.0 if part < 0.5 else 1.0 - (1.0 - self.last_rate) * 2 * (part - 0.5)
        rising = 0.0 if part < self.settle else (part - self.settle) / (1 - self.settle)
        return rate_scale, self.last_weight**rising


@dataclass
class EditParameters:
    """`strengths` (writer, k) and `vectors` (group, k, d_model). `basis` makes the vectors
    orthonormal.
    """

    strengths: Float[Tensor, "writer k"]
    vectors: Float[Tensor, "group k d_model"]

    def basis(self) -> Float[Tensor, "group k d_model"]:
        if self.vectors.shape[1] == 1:
            return linalg.normalise(self.vectors)
        return torch.linalg.qr(self.vectors.mT).Q.mT

    def clear_gradient(self) -> None:
        self.strengths.grad = self.vectors.grad = None

    def take_gradient(self) -> list[Tensor]:
        """The gradients of both, which are cleared."""
        result = [
            torch.zeros_like(value) if value.grad is None else value.grad
            for value in (self.strengths, self.vectors)
        ]
        self.clear_gradient()
        return result

    def add_gradient(self, gradient: Sequence[Tensor]) -> None:
        for value, more in zip((self.strengths, self.vectors), gradient, strict=True):
            value.grad = more.clone() if value.grad is None else value.grad + more


class Optimizer:
    """Adam over the parameters, from one stored state to the next.

    Args:
        text: a state of `write`, or parameters alone (`write_state`) at the first step.
        step: the number of steps so far.
        directions: learn the directions too; otherwise only the strengths.
        device: where the parameters live; on the model's, no step moves them.
    """

    def __init__(self, text: str, step: int, directions: bool, device: str | torch.device = "cpu") -> None:
        stored = {name: value.to(device) for name, value in read_state(text).items()}
        self.parameters = EditParameters(
            stored["strengths"].requires_grad_(), stored["vectors"].requires_grad_()
        )
        self.rates = (RATES[0], RATES[1] if directions else 0.0)
        groups = [{"params": [self.parameters.strengths]}, {"params": [self.parameters.vectors]}]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
        for group, name in zip(self.adam.param_groups, ("strengths", "vectors"), strict=True):
            if f"{name}.exp_avg" in stored:
                moments = {moment: stored[f"{name}.{moment}"] for moment in ("exp_avg", "exp_avg_sq")}
                self.adam.state[group["params"][0]] = {"step": torch.tensor(float(step)), **moments}

    def step(self, rate_scale: float, backward: Callable[[], dict[str, float]]) -> dict[str, float]:
        """One step at a fraction of the learning rates, then the soft threshold on the strengths.

        Returns:
            The result of `backward`, which computes the gradients.
        """
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_scale
        self.adam.zero_grad()
        losses = backward()
        self.adam.step()
        with torch.no_grad():
            a = self.parameters.strengths
            a.copy_(a.sign() * (a.abs() - THRESHOLD * RATES[0] * rate_scale).clamp_min(0))
        return losses

    def write(self) -> str:
        """The parameters and the moments of Adam, as `write_state` stores them."""
        tensors = {"strengths": self.parameters.strengths, "vectors": self.parameters.vectors}
        for name, parameter in list(tensors.items()):
            tensors |= {
                f"{name}.{moment}": self.adam.state[parameter][moment] for moment in ("exp_avg", "exp_avg_sq")
            }
        return write_state(tensors)


def write_state(tensors: dict[str, Tensor]) -> str:
    """Tensors as text; every bit is kept."""
    return base64.b64encode(
        safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    ).decode()


def read_state(text: str) -> dict[str, Tensor]:
    """The tensors that `write_state` stored."""
    return safetensors.torch.load(base64.b64decode(text))


def scale_state(state: SearchState, strength: float) -> SearchState:
    """A state with all its strengths times `strength`; the moments of Adam stay."""
    tensors = read_state(state["tensors"])
    return {**state, "tensors": write_state({**tensors, "strengths": tensors["strengths"] * strength})}


def ablate_with_strengths(
    basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> Callable[[Tensor], Tensor]:
    """A change of a writer's output: each direction is removed by its strength."""
    return lambda output: linalg.remove(output, basis, strengths)


def ablate_by_row(vectors: Float[Tensor, "copy d_model"]) -> Callable[[Tensor], Tensor]:
    """A change of a writer's output that removes a different direction from each copy of the batch.

    Experts receive all tokens of the batch as one list, which is divided into copies in the same
    way.
    """

    def change(output: Tensor) -> Tensor:
        rows = vectors.to(output)
        copies = output.reshape(len(rows), -1, output.shape[-1])
        along = torch.einsum("ctd,cd->ct", copies, rows)
        return (copies - along[..., None] * rows[:, None]).reshape(output.shape)

    return change
