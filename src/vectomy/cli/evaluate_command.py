"""`vectomy evaluate SUBJECT...`: models, Edits and adapters side by side on any prompts, with
intervals and controls.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vectomy.cli.config_file import read_config_file
from vectomy.cli.help import MEASURE, SectionedCommand
from vectomy.cli.options import SOURCE_HELP, command_of, config_options, flags_of, given_options
from vectomy.cli.output_folder import ask_about_folder, at_terminal, work_in_folder
from vectomy.cli.progress_bars import bars
from vectomy.cli.terminal import log_line
from vectomy.cli.vocabulary import AsJson, ConfigFile, Overwrite, out_option
from vectomy.core.chat_endpoint import split_endpoint
from vectomy.core.errors import UsageError
from vectomy.core.evaluation_config import EvaluationConfig, parse_evaluation
from vectomy.core.json_value import JsonObject

__all__ = ["register"]


# The options are called --text and --gate; the others have the names of their fields.
OPTIONS = config_options(
    EvaluationConfig,
    flags={"texts": ("--text",), "gates": ("--gate",)},
    metavars={
        "prompts": "[NAME=]SRC",
        "base": "MODEL",
        "texts": "FILE",
        "gates": "EXPR",
        "budgets": "N,...",
        "tasks": "SUITE|TASK|FILE.yaml,...",
    },
    without=("subjects",),
)
Subjects = Annotated[
    list[str],
    typer.Argument(
        metavar="SUBJECT...",
        help=" ".join((EvaluationConfig.model_fields["subjects"].description or "").split()),
    ),
]
Folder = Annotated[Path, out_option("DIR", "a folder; an interrupted evaluation resumes there.")]


def register(app: typer.Typer) -> None:
    parameters = {
        "subjects": Subjects,
        **OPTIONS,
        "out": Folder,
        "overwrite": Overwrite,
        "config": ConfigFile,
        "as_json": AsJson,
    }
    required = {"subjects": ..., "out": ..., "overwrite": False, "as_json": False}
    command = command_of(_evaluate, parameters, required)
    app.command(
        "evaluate",
        cls=SectionedCommand,
        rich_help_panel=MEASURE,
        epilog=f"{SOURCE_HELP} xstest is a set too.",
    )(command)


def _evaluate(values: dict[str, Any]) -> None:
    """Measure models, Edits and adapters on the same prompts: refusals and side effects. Results
    have intervals, paired tests and controls.
    """
    file = read_config_file("evaluate", values["config"])
    given = {**file, "subjects": values["subjects"], **given_options(values, OPTIONS)}
    if not given.get("prompts"):
        raise UsageError(
            "an evaluation needs prompts: give --prompts [NAME=]SRC, or the key `prompts` of the table "
            "[evaluate] of a configuration file"
        )
    if isinstance(given.get("budgets"), str):
        given["budgets"] = [part.strip() for part in given["budgets"].split(",") if part.strip()]
    from vectomy.models import join_ranks
    from vectomy.workflows.evaluate.evaluation import evaluate_models

    if "base" not in given and (base := _base_of(values["subjects"])) is not None:
        given["base"] = base
    config = parse_evaluation(
        given, {name: flag for name, flag in flags_of(OPTIONS).items() if values.get(name) is not None}
    )
    first = join_ranks(config.runtime.device, config.runtime.tensor_parallel).is_first

    def work(folder: Path, overwrite: bool) -> JsonObject:
        results = evaluate_models(
            config,
            folder,
            overwrite=overwrite,
            command=shlex.join(["vectomy", *sys.argv[1:]]),
            progress=bars,
            log=log_line,
        )
        return results.to_json()

    ask = ask_about_folder if at_terminal() else None
    result, out = work_in_folder(work, values["out"], values["out"], overwrite=values["overwrite"], ask=ask)
    if not first:
        return
    if values["as_json"]:
        typer.echo(json.dumps(result, indent=2))
    else:
        from vectomy.cli.tables.evaluation_table import print_comparison

        print_comparison(result, str(out))
    if status := _exit_status(result):
        raise typer.Exit(status)


def _exit_status(result: JsonObject) -> int:
    """0 where every gate is met, or there is none."""
    from vectomy.core.results import EvaluationResults
    from vectomy.metrics.gates import worst_status

    return {"met": 0, "missed": 4, "unresolved": 5}[worst_status(EvaluationResults.from_json(result).gates)]


def _base_of(subjects: list[str]) -> str | None:
    """The base that the first Edit names, if there is no model among the subjects.

    Raises:
        EditError: a run without an Edit, or another subject that is neither a model nor an Edit.
    """
    from vectomy.workflows.named_model import base_named_by, kind_of, open_edit

    # The base of a model on a server is not known.
    subjects = [item for item in subjects if split_endpoint(item) is None]
    names = [item if Path(item).exists() else item.rpartition("@")[0] or item for item in subjects]
    kinds = [kind_of(name) for name in names]
    for name, kind in zip(names, kinds, strict=True):
        if kind in ("run", "edit", "weights", "file", "evaluation", "folder"):
            open_edit(name)
    if not set(kinds) <= {"run", "edit", "adapter"}:
        return None
    return next((base for name in names if (base := base_named_by(name)) is not None), None)
