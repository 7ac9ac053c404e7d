"""What a search by gradients learns, how it is stored to the bit, and how far each of its steps
goes.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from vectomy.core import linalg

__all__ = [
    "EditParameters",
    "Optimizer",
    "Phase",
    "read_state",
    "taking_out",
    "taking_out_by_row",
    "write_state",
]

# Learning rates of strengths and directions, and the share of them that is left at the end.
RATES = (0.05, 0.004)
LAST_RATE = 0.3
# What every step takes off each strength, as a share of its learning rate.
THRESHOLD = 0.02


@dataclass(frozen=True)
class KLWeightSchedule:
    """How what is to be kept presses: with weight 1 for a share `settle` of the steps, then more
    and more, up to `last`.
    """

    settle: float
    last: float


# A steep rise finds the least damage, where the behaviour stays away by itself. Where it comes back
# in other words, these are added to what is to be changed, and a gentle rise leaves room for them
# (docs/log/gradient-search.md).
STEEP = KLWeightSchedule(0.4, 32.0)
GENTLE = KLWeightSchedule(0.4, 8.0)


@dataclass(frozen=True)
class Phase:
    """Some steps in a row: first the behaviour is taken away, then what is to be kept presses more
    and more.
    """

    first: int
    steps: int
    press: KLWeightSchedule = STEEP

    @property
    def settled(self) -> float:
        """The step from which on the weight rises."""
        return self.first + self.press.settle * self.steps

    def at(self, step: int) -> tuple[float, float]:
        """(share of the learning rates, weight of what is kept) at a step."""
        part, settle = (step - self.first) / self.steps, self.press.settle
        ease = 1.0 if part < 0.5 else 1.0 - (1.0 - LAST_RATE) * 2 * (part - 0.5)
        return ease, 1.0 if part < settle else self.press.last ** ((part - settle) / (1 - settle))


@dataclass
class EditParameters:
    """`strengths` (writer, k) and `vectors` (group, k, d_model), which are made orthonormal where
    they are used.
    """

    strengths: Float[Tensor, "writer k"]
    vectors: Float[Tensor, "group k d_model"]

    def basis(self) -> Float[Tensor, "group k d_model"]:
        if self.vectors.shape[1] == 1:
            return linalg.normalise(self.vectors)
        return torch.linalg.qr(self.vectors.mT).Q.mT


class Optimizer:
    """Adam over what is learned, from a stored state to a stored state.

    Args:
        directions: learn the directions too; otherwise the strengths alone.
    """

    def __init__(self, text: str, step: int, directions: bool) -> None:
        held = read_state(text)
        self.learned = EditParameters(held["strengths"].requires_grad_(), held["vectors"].requires_grad_())
        self.rates = (RATES[0], RATES[1] if directions else 0.0)
        groups = [{"params": [self.learned.strengths]}, {"params": [self.learned.vectors]}]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99))
        for group, name in zip(self.adam.param_groups, ("strengths", "vectors"), strict=True):
            if f"{name}.exp_avg" in held:
                moments = {moment: held[f"{name}.{moment}"] for moment in ("exp_avg", "exp_avg_sq")}
                self.adam.state[group["params"][0]] = {"step": torch.tensor(float(step)), **moments}

    def step(self, ease: float, backward: Callable[[], dict[str, float]]) -> dict[str, float]:
        """One step at a share of the learning rates, then the threshold on the strengths; gives
        what `backward` gave.
        """
        for group, rate in zip(self.adam.param_groups, self.rates, strict=True):
            group["lr"] = rate * ease
        self.adam.zero_grad()
        losses = backward()
        self.adam.step()
        with torch.no_grad():
            a = self.learned.strengths
            a.copy_(a.sign() * (a.abs() - THRESHOLD * RATES[0] * ease).clamp_min(0))
        return losses

    def stored(self) -> str:
        found = {"strengths": self.learned.strengths, "vectors": self.learned.vectors}
        for name, parameter in list(found.items()):
            found |= {
                f"{name}.{moment}": self.adam.state[parameter][moment] for moment in ("exp_avg", "exp_avg_sq")
            }
        return write_state(found)


def write_state(tensors: dict[str, Tensor]) -> str:
    """Tensors as text, to the bit."""
    return base64.b64encode(
        safetensors.torch.save({k: v.detach().contiguous() for k, v in tensors.items()})
    ).decode()


def read_state(text: str) -> dict[str, Tensor]:
    """The tensors of `stored`."""
    return safetensors.torch.load(base64.b64decode(text))


def taking_out(
    basis: Float[Tensor, "k d_model"], strengths: Float[Tensor, " k"]
) -> Callable[[Tensor], Tensor]:
    return lambda output: linalg.remove(output, basis.to(output.device), strengths.to(output.device))


def taking_out_by_row(vectors: Float[Tensor, "copy d_model"]) -> Callable[[Tensor], Tensor]:
    """Each copy of a batch without its own direction; a writer that sees all tokens in one list
    (experts) has copies in it too.
    """

    def change(output: Tensor) -> Tensor:
        rows = vectors.to(output)
        copies = output.reshape(len(rows), -1, output.shape[-1])
        along = torch.einsum("ctd,cd->ct", copies, rows)
        return (copies - along[..., None] * rows[:, None]).reshape(output.shape)

    return change
