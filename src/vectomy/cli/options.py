"""Options that several commands share, written once. None means: not given, the configuration's own
value holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Model", "Options", "default_folder"]

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A model folder, a Hub id, a GGUF file, or `demo`.")
]


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, show_default=False, **more)


_SOURCE = "FILE (.jsonl .json .csv .parquet .txt), OWNER/NAME[:SPLIT] on the Hub, or bundled:refused|harmless; #COLUMN picks a column."


class Options:
    """The options of a run, as annotated types; their names are the configuration's short names
    (config.FLAT).
    """

    positive = Annotated[str | None, _option(f"Prompts that show the behaviour: {_SOURCE}", metavar="SRC")]
    negative = Annotated[str | None, _option("Prompts that do not.", metavar="SRC")]
    positive_search = Annotated[str | None, _option("Own prompts to choose the edit on.", metavar="SRC")]
    negative_search = Annotated[str | None, _option("Likewise.", metavar="SRC")]
    positive_test = Annotated[str | None, _option("Own prompts to report on.", metavar="SRC")]
    negative_test = Annotated[str | None, _option("Likewise.", metavar="SRC")]
    keep = Annotated[
        str | None, _option("selective: prompts that must go on to show the behaviour.", metavar="SRC")
    ]
    keep_search = Annotated[str | None, _option("Own prompts of that kind to choose on.", metavar="SRC")]
    keep_test = Annotated[str | None, _option("Own prompts of that kind to report on.", metavar="SRC")]
    positive_system = Annotated[str | None, _option("System prompt of the positive side.", metavar="TEXT")]
    negative_system = Annotated[str | None, _option("System prompt of the negative side.", metavar="TEXT")]
    drop_overlap = Annotated[
        bool | None, _option("Drop prompts that a later split shares with an earlier one.")
    ]
    n_fit = Annotated[int | None, _option("Most prompts a side to fit on (256).")]
    n_search = Annotated[int | None, _option("Most prompts a side to choose on (32).")]
    n_test = Annotated[int | None, _option("Most prompts a side to report on (100).")]
    behaviour = Annotated[str | None, _option("What the behaviour is called (refusal).")]
    recipe = Annotated[
        str | None, _option("How the edit is found: gradient, selective, tpe, arditi, cosmic or article.")
    ]
    estimator = Annotated[
        str | None,
        _option("difference_of_means, projected, winsorised_mean, pca_of_differences or logistic_probe."),
    ]
    pick = Annotated[int | None, _option("article: take the candidate of this rank.")]
    kl_threshold = Annotated[float | None, _option("arditi, cosmic: largest KL in nats (0.1).")]
    induce_threshold = Annotated[float | None, _option("arditi: smallest steering score (0).")]
    strict = Annotated[bool | None, _option("arditi, cosmic: stop when no direction passes the filters.")]
    complete = Annotated[
        bool | None, _option("arditi, cosmic: score every direction in full, for the picture.")
    ]
    filter_prompts = Annotated[
        bool | None, _option("arditi: keep only prompts that the base treats as the contrast says (yes).")
    ]
    behaviour_tokens = Annotated[
        list[str] | None,
        _option("A first token of answers with the behaviour; may be repeated.", metavar="TOKEN"),
    ]
    target_rate = Annotated[
        float | None,
        _option(
            "gradient, selective, tpe: share of positive search prompts that may still show the behaviour (0.05)."
        ),
    ]
    kl_budget = Annotated[
        float | None,
        _option("gradient, selective, tpe: most KL per token; then the strongest edit within it is chosen."),
    ]
    steps = Annotated[int | None, _option("gradient, selective: optimiser steps (36; selective 96).")]
    rank = Annotated[int | None, _option("gradient, selective: orthonormal directions to learn (1).")]
    per_layer = Annotated[
        bool | None, _option("gradient, selective: directions of its own for each layer (selective: yes).")
    ]
    direction = Annotated[
        str | None,
        _option(
            "gradient, selective: begin with this direction (.npy, .safetensors) instead of the best of a screening.",
            metavar="FILE|random:SEED",
        ),
    ]
    learn_direction = Annotated[
        bool | None, _option("gradient, selective: learn the direction as well as the strengths (yes).")
    ]
    trials = Annotated[int | None, _option("tpe: edits to try (200).")]
    startup_trials = Annotated[int | None, _option("tpe: random ones at first (60).")]
    processes = Annotated[int | None, _option("tpe: processes at work side by side (1).")]
    seed = Annotated[int | None, _option("Seed of the splits (0).")]
    device = Annotated[str | None, _option("auto, cpu, cuda, cuda:N or mps.")]
    dtype = Annotated[
        str | None,
        _option(
            "auto (the checkpoint's own; float32 on a processor without 16-bit arithmetic), bfloat16, float16 or float32."
        ),
    ]
    batch_tokens = Annotated[
        int | None, _option("Tokens in one forward pass (4096); lower it when memory is short.")
    ]
    answer_tokens = Annotated[int | None, _option("Greedy tokens per judged answer (64).")]
    thinking = Annotated[bool | None, _option("Let models with a thinking block think first.")]
    keep_activations = Annotated[bool | None, _option("Store every activation.")]
    covariance = Annotated[bool | None, _option("Store covariances.")]
    bake = Annotated[bool | None, _option("Write the edited checkpoint (yes).")]
    lora = Annotated[bool | None, _option("Write and evaluate a PEFT adapter too (no).")]
    embeddings = Annotated[bool | None, _option("Edit token and position embeddings too (yes).")]
    force = Annotated[bool | None, _option("Go on although the base does not show the behaviour.")]
    trust_remote_code = Annotated[bool | None, _option("Run code that comes with the model.")]


def default_folder(model: str, recipe: str | None) -> Path:
    """runs/NAME-RECIPE, where nothing else is asked for."""
    return Path("runs") / f"{Path(model).resolve().name}-{recipe or 'gradient'}"
