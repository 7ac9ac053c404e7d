"""`vectomy select`: a run up to the choice of a direction, or the paper's rule on a score table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vectomy.cli.help import STAGES, SectionedCommand
from vectomy.cli.options import SOURCE_HELP, command_of
from vectomy.cli.run_command import FLAGS, RUN_OPTIONS, SHARED, run_until
from vectomy.cli.vocabulary import MODEL_HELP, option
from vectomy.core.config import SEARCH
from vectomy.core.errors import ConfigError, SelectionError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import Selection, parse_selection
from vectomy.core.text_file import read_text

__all__ = ["register"]

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
        help="Choose from a list of {position, layer, refusal_score, steering_score, kl_div_score} by the "
        "rule of Arditi et al.",
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


def _from_scores(values: dict[str, Any]) -> None:
    from vectomy.search.arditi_rule import choose

    layers = values["layers"]
    if layers is None or layers < 1:
        raise UsageError(
            f"--from-scores needs --layers N, the number of layers of the model (given: {layers})"
        )
    given = {name: values[name] for name in Selection.model_fields if values.get(name) is not None}
    chosen = choose(_read_scores(values["from_scores"]), layers, parse_selection(given, flags=True))
    typer.echo(json.dumps(dict(chosen), indent=2))


def _read_scores(path: Path) -> list[JsonObject]:
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
    return rows
