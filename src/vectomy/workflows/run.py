"""`vectomy run`: seven stages from two prompt sets to an edited checkpoint and its numbers.

With `until` a run stops after a stage. A stage whose inputs have not changed is not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectomy.checkpoint.gguf import is_gguf
from vectomy.core.config import RunConfig, make_config
from vectomy.core.progress import Progress, silent
from vectomy.core.run_folder import RunFolder, check_output, read_json
from vectomy.models.demo import is_demo
from vectomy.search.article import Ask
from vectomy.search.recipes import SEARCHES
from vectomy.workflows.run_stages import (
    STAGES,
    RunWorkflow,
    StageName,
    digest_given_direction,
    run_apply,
    run_baseline,
    run_collect,
    run_directions,
    run_evaluate,
    run_report,
    run_select,
)
from vectomy.workflows.stages import Log, Stage, ignore

__all__ = ["STAGES", "StageName", "list_stages", "run"]


def run(
    model: str | RunConfig,
    out: str | Path,
    *,
    until: StageName = "report",
    ask_user: Ask | None = None,
    command: str = "",
    progress: Progress = silent,
    log: Log = ignore,
    **options: Any,
) -> dict[str, Any]:
    """Run the stages into the folder `out`.

    Args:
        model: a folder, a Hub id or `demo`; or a whole configuration.
        until: the last stage to run.
        ask_user: shows candidates to a person and returns the picked rank (recipe `article`); absent:
            nobody is asked.
        command: the command line, for the report.
        log: takes lines for a person: what the run will take, which stages are not run again.
        options: short names of configuration keys (config.FLAT): positive, negative, recipe, seed,
            ...

    Returns:
        The summary, as in summary.json; `{}` when stopped before the report.

    Raises:
        VectomyError: see errors.py; finished stages are kept and not run again.
    """
    config = model if isinstance(model, RunConfig) else make_config(model, options)
    check_output(out, *(() if is_demo(config.model) else (config.model,)))
    with RunFolder(Path(out)) as folder:
        work = RunWorkflow(
            model=config.model,
            runtime=config.runtime,
            config=config,
            folder=folder,
            ask_user=ask_user,
            command=command,
            progress=progress,
            log=log,
        )
        digest = work.prepare()
        log(work.describe())
        work.run_stages(list_stages(work), digest, until)
        return dict(read_json(folder.file("summary.json"))) if until == "report" else {}


def list_stages(work: RunWorkflow) -> Sequence[Stage[RunWorkflow]]:
    """The stages of a run in their order, with all that each depends on and writes."""
    config, judge = work.config, work.judge
    selection = config.selection.model_dump(mode="json")
    baseline = {
        "answer_tokens": config.answer_tokens,
        "force": config.force,
        "behaviour": config.contrast.behaviour,
        "judge": [judge.name, judge.version],
        "selection": {key: selection.pop(key) for key in ("behaviour_tokens", "filter_prompts")},
    }
    select = {
        "selection": selection,
        "embeddings": config.embeddings,
        "direction": digest_given_direction(config),
    }
    gguf = config.bake and is_gguf(config.model)
    return (
        Stage("baseline", baseline, ["baseline.json"], run_baseline),
        Stage(
            "collect",
            {"covariance": config.covariance, "samples": work.samples},
            ["activations-positive.safetensors", "activations-negative.safetensors"],
            run_collect,
        ),
        Stage(
            "directions",
            {"estimator": config.direction_estimator},
            ["directions.safetensors"],
            run_directions,
        ),
        Stage(
            "select",
            select,
            ["scores.json", "edit.safetensors", *(["frontier"] if config.recipe in SEARCHES else [])],
            run_select,
        ),
        Stage(
            "apply",
            {"bake": config.bake, "lora": config.lora},
            [
                *(["checkpoint", "receipt.json"] if config.bake else []),
                *(["edited.gguf", "receipt-gguf.json"] if gguf else []),
                *(["adapter"] if config.lora else []),
            ],
            run_apply,
        ),
        Stage(
            "evaluate",
            {"prompts": [side.to_json()["test"] for side in work.prompt_sets.values()]},
            ["evaluation.json", "completions.jsonl", "separation.json"],
            run_evaluate,
        ),
        Stage(
            "report",
            {"command": work.command, "config": config.model_dump(mode="json")},
            [
                "summary.json",
                "report.html",
                "MODEL_CARD.md",
                *(["checkpoint/README.md"] if config.bake else []),
            ],
            run_report,
        ),
    )
