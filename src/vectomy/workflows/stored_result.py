"""The stored result of a run, a healing or an evaluation. Loads no torch unless there is none."""

from __future__ import annotations

from pathlib import Path

from vectomy.core.absent_path import explain_absent_run
from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import MARK, read_json

__all__ = ["read_result"]


def read_result(run: Path) -> JsonObject:
    """summary.json, or evaluation.json.

    Raises:
        ArtifactError: there is none, or an earlier version wrote it.
    """
    file = run / "summary.json"
    if not file.is_file() and (run / "evaluation.json").is_file() and not (run / "config.json").is_file():
        file = run / "evaluation.json"
    if run.exists() and not file.is_file():
        raise ArtifactError(_explain_missing(run))
    try:
        result = read_json(file)
    except ArtifactError:
        if run.exists():
            raise
        raise ArtifactError(explain_absent_run(run)) from None
    if not isinstance(result, dict):
        raise ArtifactError(f"{file} is no summary of a run; run the command that wrote it again")
    if result.get("format") == "vectomy-trait-summary":
        raise ArtifactError(
            f"{run} was written by an earlier version; bring it up to date with the same command again: "
            f"{result.get('command') or 'vectomy run MODEL --trait NAME --out DIR'}"
        )
    return result


def _explain_missing(run: Path) -> str:
    """Why a path has no result to print, and what to give instead."""
    from vectomy.workflows.named_model import kind_of, name_resuming

    if (run / MARK).is_file():
        return f"the run in {run} is not finished; resume it with {name_resuming(str(run))}"
    around = next((folder for folder in run.absolute().parents[:2] if (folder / MARK).is_file()), None)
    if around is not None:
        return f"{run} is a part of the run {around}; give that folder"
    if kind_of(str(run)) == "edit":
        return f"{run} is an Edit, not the folder of a run; `vectomy show {run}` shows it"
    return f"{run} is not the folder of a run (no summary.json); give the --out of `vectomy run`"
