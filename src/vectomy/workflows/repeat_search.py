"""Repeat the search that found an Edit, from the recorded configuration, and compare the result."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vectomy.comparison.folders import FileDifference
from vectomy.core.chat_endpoint import PREFIX
from vectomy.core.errors import EditError, UsageError
from vectomy.core.progress import Progress, silent
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import hash_of, read_json
from vectomy.edits.edit import Edit
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import parse_run_config

__all__ = ["RepeatedSearch", "search_again"]


@dataclass(frozen=True)
class RepeatedSearch:
    """The Edit that the search found this time, and how it differs."""

    edit: Edit
    differences: tuple[FileDifference, ...]


def search_again(
    recorded: dict[str, Any],
    published: Edit,
    base: str,
    folder: Path,
    *,
    prompts: Path | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> RepeatedSearch:
    """Run the stages up to the choice of an Edit into `folder`.

    Args:
        recorded: `config` of the run, and the hashes of its `prompts`.
        base: the base to search on, a folder or `demo`.
        prompts: the folder of prompt files, of which the record has only the names.
        trust_remote_code: run Python code that the base contains, whatever the record says.

    Raises:
        UsageError: a prompt file is not there, or the judge was on a server.
        VectomyError: see run.run.
    """
    config = _config(recorded.get("config"), base, prompts or Path(), trust_remote_code)
    run(config, folder, until="select", progress=progress)
    result = Edit.load(folder / "edit.safetensors")
    # The base's name depends on how it was given, and is no part of what the edit does.
    result = replace(result, base=replace(result.base, name=published.base.name))
    differences = []
    now = {side: hash_of(rows) for side, rows in read_json(folder / "prompts.json").items()}
    for side, digest in (recorded.get("prompts") or {}).items():
        if now.get(side) != digest:
            differences.append(
                FileDifference(
                    "prompts", side, "other prompts than the search had (another file, seed or version)"
                )
            )
    if result.sha256 != published.sha256:
        differences.append(FileDifference("edit", "", _describe_difference(result, published)))
    return RepeatedSearch(result, tuple(differences))


def _config(recorded: Any, base: str, prompts: Path, trust_remote_code: bool) -> RunConfig:
    if not isinstance(recorded, dict):
        raise UsageError(
            "the search was not recorded, so it cannot be done again; leave out --from-scratch to rebuild "
            "from the Edit"
        )
    judge = str(recorded.get("judge"))
    if judge.startswith(PREFIX) and "://" not in judge:
        raise UsageError(
            f"the judge of the search was {judge} on a server, whose address is not published, so the search "
            "cannot be done again; leave out --from-scratch, or search with `vectomy run --judge openai:URL`"
        )
    values = {**recorded, "model": base, "bake": False, "lora": False, "trust_remote_code": trust_remote_code}
    contrast = dict(values.get("contrast") or {})
    for side, source in contrast.items():
        if isinstance(source, dict) and isinstance(source.get("prompts"), str):
            contrast[side] = {**source, "prompts": _find_source(source["prompts"], prompts)}
    values["contrast"] = contrast
    if isinstance(trait := values.get("trait"), dict) and isinstance(sets := trait.get("prompts"), dict):
        source = _find_source(str(sets.get("source")), prompts)
        values["trait"] = {**trait, "prompts": {**sets, "source": source}}
    return parse_run_config(values)


def _find_source(spec: str, folder: Path) -> str:
    """A prompt source that can be read: as recorded, or the file of that name in `folder`."""
    name, mark, column = spec.partition("#")
    if name.startswith("bundled:") or os.path.exists(os.path.expanduser(name)):
        return spec
    if (folder / name).is_file():
        return f"{folder / name}{mark}{column}"
    if Path(name.partition(":")[0]).suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt"):
        raise UsageError(
            f"the search had prompts from a file '{name}', which is not here; name the folder that holds it: "
            "--prompt-folder DIR"
        )
    return spec


def _describe_difference(result: Edit, published: Edit) -> str:
    mine, theirs = (
        {op.sort_key: op for op in result.operations},
        {op.sort_key: op for op in published.operations},
    )
    if mine.keys() != theirs.keys():
        same = len(mine.keys() & theirs.keys())
        return (
            f"another one: the search edits {len(mine)} writers, the published Edit {len(theirs)}, {same} of "
            "them the same"
        )
    try:
        cosine = float(result.main_direction @ published.main_direction)
    except EditError:
        return "another one, and one of the two removes nothing"
    shared = [
        float((mine[place].strengths - theirs[place].strengths).abs().max())
        for place in mine
        if mine[place].strengths.shape == theirs[place].strengths.shape
    ]
    apart = f", strengths apart by at most {max(shared):.2g}" if shared else ""
    return f"another one: the cosine of the main directions is {cosine:.6f}{apart}"
