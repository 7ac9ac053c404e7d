"""Options that several commands share, written once. None means: not given, the configuration's own value holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Model", "Options", "default_folder"]

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model folder, a Hub id, or `demo`.")]


def _option(help: str, **more: Any) -> Any:
    return typer.Option(help=help, show_default=False, **more)


_SOURCE = "FILE (.jsonl .json .csv .parquet .txt), OWNER/NAME[:SPLIT] on the Hub, or bundled:refused|harmless; #COLUMN picks a column."


class Options:
    """The options of a run, as annotated types; their names are the configuration's short names (config.FLAT)."""

    positive = Annotated[str | None, _option(f"Prompts that show the behaviour: {_SOURCE}", metavar="SRC")]
    negative = Annotated[str | None, _option("Prompts that do not.", metavar="SRC")]
    positive_search = Annotated[str | None, _option("Own prompts to choose the edit on.", metavar="SRC")]
    negative_search = Annotated[str | None, _option("Likewise.", metavar="SRC")]
    positive_test = Annotated[str | None, _option("Own prompts to report on.", metavar="SRC")]
    negative_test = Annotated[str | None, _option("Likewise.", metavar="SRC")]
    positive_system = Annotated[str | None, _option("System prompt of the positive side.", metavar="TEXT")]
    negative_system = Annotated[str | None, _option("System prompt of the negative side.", metavar="TEXT")]
    drop_overlap = Annotated[bool | None, _option("Drop prompts that a later split shares with an earlier one.")]
    n_fit = Annotated[int | None, _option("Most prompts a side to fit on (256).")]
    n_search = Annotated[int | None, _option("Most prompts a side to choose on (32).")]
    n_test = Annotated[int | None, _option("Most prompts a side to report on (100).")]
    behaviour = Annotated[str | None, _option("What the behaviour is called (refusal).")]
    recipe = Annotated[str | None, _option("How the direction is chosen: arditi or article.")]
    estimator = Annotated[
        str | None,
        _option("difference_of_means, projected, winsorised_mean, pca_of_differences or logistic_probe."),
    ]
    pick = Annotated[int | None, _option("article: take the candidate of this rank.")]
    kl_threshold = Annotated[float | None, _option("arditi: largest KL in nats (0.1).")]
    induce_threshold = Annotated[float | None, _option("arditi: smallest steering score (0).")]
    strict = Annotated[bool | None, _option("arditi: stop when no direction passes the filters.")]
    complete = Annotated[bool | None, _option("arditi: score every direction in full, for the picture.")]
    filter_prompts = Annotated[
        bool | None, _option("arditi: keep only prompts that the base treats as the contrast says (yes).")
    ]
    behaviour_tokens = Annotated[
        list[str] | None, _option("A first token of answers with the behaviour; may be repeated.", metavar="TOKEN")
    ]
    seed = Annotated[int | None, _option("Seed of the splits (0).")]
    device = Annotated[str | None, _option("auto, cpu, cuda, cuda:N or mps.")]
    dtype = Annotated[str | None, _option("auto (the checkpoint's own), bfloat16, float16 or float32.")]
    batch_tokens = Annotated[int | None, _option("Tokens in one forward pass (4096); lower it when memory is short.")]
    answer_tokens = Annotated[int | None, _option("Greedy tokens per judged answer (64).")]
    thinking = Annotated[bool | None, _option("Let models with a thinking block think first.")]
    keep_activations = Annotated[bool | None, _option("Store every activation.")]
    covariance = Annotated[bool | None, _option("Store covariances.")]
    bake = Annotated[bool | None, _option("Write the edited checkpoint (yes).")]
    force = Annotated[bool | None, _option("Go on although the base does not show the behaviour.")]
    trust_remote_code = Annotated[bool | None, _option("Run code that comes with the model.")]


def default_folder(model: str, recipe: str | None) -> Path:
    """runs/NAME-RECIPE, where nothing else is asked for."""
    return Path("runs") / f"{Path(model).resolve().name}-{recipe or 'arditi'}"
