"""What the tests of healing share: a damaged tiny chat model, rows to learn from, and jobs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tiny_chat
import torch
from tiny import unit
from torch import Tensor

from vectomy.data.preferences import Preference
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.healing.heal_config import HealConfig, parse_heal
from vectomy.healing.job import Job
from vectomy.healing.pairs import Pair, encode_pairs
from vectomy.workflows.heal.heal_inputs import compute_protected_directions

# Small and quick: float32, no dropout, a rate at which a few steps show.
QUICK: dict[str, Any] = {
    "objective": "dpo",
    "method": "lora",
    "device": "cpu",
    "dtype": "float32",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "epochs": 1.0,
    "micro_batch": 2,
    "accumulation": 1,
    "max_length": 32,
    "save_steps": 2,
    "gradient_checkpointing": False,
}


def quick(**more: Any) -> HealConfig:
    return parse_heal({**QUICK, **more})


@cache
def edit() -> Edit:
    """A removal along a direction that carries no behaviour: nothing but damage."""
    return Edit.ablation(tiny_chat.folder(), unit(3), about={"behaviour": "refusal"})


@cache
def damaged() -> Path:
    out = tiny_chat.scratch() / "edited"
    bake(edit(), tiny_chat.folder(), out)
    return out


@cache
def protected_directions() -> dict[str, Tensor]:
    return compute_protected_directions(edit(), tiny_chat.folder())


def preferences(count: int = 12) -> list[Preference]:
    texts = [prompt.text for prompt in tiny_chat.prompts(tiny_chat.DAY, count)]
    return [Preference(Prompt(text), tiny_chat.answer_of(text), "now here is the sure") for text in texts]


@cache
def pairs(count: int = 12) -> tuple[Pair, ...]:
    found, left_out = encode_pairs(tiny_chat.chat(), preferences(count), 32)
    assert not left_out
    return tuple(found)


def job(
    folder: Path,
    config: HealConfig,
    rows: tuple[Pair, ...] = (),
    project: bool = True,
    model: Path | None = None,
) -> Job:
    return Job.write(
        folder, model or damaged(), config, list(rows or pairs()), protected_directions() if project else {}
    )


def curve(folder: Path) -> list[float]:
    return [
        row["loss"] for row in json.loads((folder / "losses.json").read_text(encoding="utf-8"))["history"]
    ]


def trained(folder: Path, project: bool = True, **more: Any) -> Job:
    from vectomy.healing.training import train

    made = job(folder, quick(**more), project=project)
    train(made)
    return made


def log_probs(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """What transformers itself gives for each token of the answer: the oracle."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].double()
    rows = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return rows[torch.arange(len(answer)), torch.tensor(answer)]
