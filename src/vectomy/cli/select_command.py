"""`vectomy select`: a run up to the choice of a direction, or the paper's rule on a score table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vectomy.cli.help import STAGES, SectionedCommand
from vectomy.cli.options import SOURCE_HELP, command_of
from vectomy.cli.run_command import FLAGS, RUN_OPTIONS, SHARED, run_until
from vectomy.cli.vocabulary import MODEL_HELP, option
from vectomy.core.config import SEARCH
from vectomy.core.errors import ConfigError, SelectionError, UsageError
from vectomy.core.json_value import JsonObject, without_nan
from vectomy.core.run_config import Selection, parse_selection
from vectomy.core.text_file import read_text

if TYPE_CHECKING:
    from vectomy.search.arditi_rule import RuleOutcome

__all__ = ["register"]

# Rejected directions that are named to a person.
SHOWN = 5

Model = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help=MODEL_HELP,
        show_default=False,
    ),
]
FromScores = Annotated[
    Path | None,
    option(
        "--from-scores",
        help="Choose from a list of {position, layer, refusal_score, steering_score, kl_div_score}, such as "
        "direction_evaluations.json of Arditi et al., by the rule of their code.",
        panel=SEARCH,
        metavar="FILE.json",
    ),
]
Layers = Annotated[
    int | None,
    option("--layers", help="With --from-scores: number of layers of the model.", panel=SEARCH, metavar="N"),
]


def register(app: typer.Typer) -> None:
    parameters = {"model": Model, "from_scores": FromScores, "layers": Layers, **RUN_OPTIONS, **SHARED}
    app.command("select", cls=SectionedCommand, rich_help_panel=STAGES, epilog=SOURCE_HELP)(
        command_of(_select, parameters, FLAGS)
    )


def _select(values: JsonObject) -> None:
    """Choose the edit. With `--from-scores`: choose a direction from a table of scores by the rule
    of Arditi et al.
    """
    if values["from_scores"] is not None:
        _from_scores(values)
    elif values["model"] is None:
        raise UsageError("select needs a MODEL, or --from-scores FILE.json with --layers N")
    else:
        run_until("select", values)


def _from_scores(values: JsonObject) -> None:
    """Prints the chosen row as JSON, and to stderr why others were rejected; with `--json` the JSON
    says both.
    """
    from vectomy.search.arditi_rule import explain_choice

    layers = values["layers"]
    if not isinstance(layers, int) or layers < 1:
        given = "" if layers is None else f", not {layers}"
        raise UsageError(f"--from-scores needs --layers N, the number of layers of the model{given}")
    options = {name: values[name] for name in Selection.model_fields if values.get(name) is not None}
    rows = _read_scores(Path(str(values["from_scores"])), layers)
    outcome = explain_choice(rows, layers, parse_selection(options, flags=True))
    result: JsonObject = dict(outcome.chosen)
    if values["as_json"]:
        result |= {"candidates": len(rows), "passing": outcome.passing, "rejected_by": outcome.rejected_by}
        result["lower_but_rejected"] = [{**row, "rejected": reason} for row, reason in outcome.lower]
    typer.echo(json.dumps(without_nan(result), indent=2))
    if not values["as_json"]:
        _tell_reasons(len(rows), outcome)


def _tell_reasons(candidates: int, outcome: RuleOutcome) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in outcome.rejected_by.items())
    rejected = f" (rejected by: {counts})" if counts else ""
    typer.echo(f"{outcome.passing} of {candidates} directions pass the filters{rejected}", err=True)
    for row, reason in outcome.lower[:SHOWN]:
        place = f"position {row['position']}, layer {row['layer']}"
        typer.echo(f"{place} has a lower refusal score ({row['refusal_score']:.3g}), but {reason}", err=True)
    if len(outcome.lower) > SHOWN:
        typer.echo(f"so do {len(outcome.lower) - SHOWN} more; --json lists them", err=True)


def _read_scores(path: Path, layers: int) -> list[JsonObject]:
    try:
        rows = json.loads(read_text(path))
    except FileNotFoundError:
        raise ConfigError(f"the score file {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the score file {path} does not parse: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise SelectionError(f"the score file {path} holds no list of candidates")
    for number, row in enumerate(rows):
        for key, kind in (
            ("position", int),
            ("layer", int),
            ("refusal_score", float),
            ("steering_score", float),
            ("kl_div_score", float),
        ):
            value = row.get(key) if isinstance(row, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
                raise SelectionError(
                    f"candidate {number} of {path} has {key} = {value!r}; a number is needed"
                )
        if not 0 <= row["layer"] < layers:
            raise SelectionError(
                f"candidate {number} of {path} is of layer {row['layer']}, but --layers {layers} ends at "
                f"layer {layers - 1}; give the number of layers of the model that was scored"
            )
    return rows
