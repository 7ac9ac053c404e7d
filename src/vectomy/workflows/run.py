"""`vectomy run`: seven stages from two prompt sets to an edited checkpoint and its numbers.

With `until` a run stops after a stage. A stage whose inputs have not changed is not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectomy.core.arguments import require, require_name, require_path
from vectomy.core.errors import ConfigError
from vectomy.core.output_path import check_run_output
from vectomy.core.progress import Progress, automatic, silent, tell_in_notebook
from vectomy.core.results import RunResults
from vectomy.core.run_config import RunConfig, make_config
from vectomy.core.run_folder import RunFolder, read_json
from vectomy.metrics.judges import is_slow
from vectomy.models import explain_divided, join_ranks, limit_memory
from vectomy.models.demo import is_demo
from vectomy.search.recipe import Ask
from vectomy.search.recipes import SEARCHES
from vectomy.workflows.distill_stages import (
    run_distill_baseline,
    run_distill_collect,
    run_distill_directions,
    run_distill_evaluate,
    run_distill_select,
)
from vectomy.workflows.distill_workflow import DistillWorkflow
from vectomy.workflows.layerwise_evaluation import run_layerwise_evaluate
from vectomy.workflows.needed_packages import list_missing_for_run
from vectomy.workflows.preflight import refuse
from vectomy.workflows.run_stages import (
    STAGES,
    StageName,
    run_apply,
    run_baseline,
    run_collect,
    run_directions,
    run_evaluate,
    run_report,
    run_select,
)
from vectomy.workflows.run_workflow import RunWorkflow, digest_given_direction
from vectomy.workflows.stages import Log, Stage, ignore
from vectomy.workflows.trait_config import TraitRun

__all__ = ["STAGES", "StageName", "list_distill_stages", "list_stages", "open_workflow", "run"]


def run(
    model: str | RunConfig,
    out: str | Path,
    *,
    until: StageName = "report",
    overwrite: bool = False,
    ask_user: Ask | None = None,
    command: str = "",
    progress: Progress = automatic,
    log: Log = tell_in_notebook,
    **options: Any,
) -> RunResults:
    """Find the direction of a behaviour, edit the weights and measure; the results go into `out`.

    Several processes of a launcher (`accelerate launch`, `torchrun`) share the work; each of them
    has to call this.

    Args:
        model: a folder, a Hub id or `demo`; or a whole configuration.
        until: the last stage to run.
        overwrite: replace finished results of other settings in `out`.
        ask_user: shows candidates to a person and returns the picked rank (recipe `article`); None:
            nobody is asked.
        command: the command line, for the report.
        log: is called with lines for a person: the cost of the run, stages that are not repeated.
        options: the options of the command line as keys: positive, negative, recipe, seed, ...

    Returns:
        The values of summary.json, as fields (`.outcome.sentence`, `.edited.refusal_rate`) and as
        keys; no field is set if the run stopped before the report.

    Raises:
        UsageError, ConfigError: an argument or option that is not known, or of another type.
        FinishedRunError: `out` holds finished results of other settings; nothing was changed.
        VectomyError: see core/errors.py; finished stages are kept and not run again.
    """
    require(model, (str, RunConfig), "the model", "give a folder, a Hub id, `demo` or a RunConfig")
    require_path(out, "the folder `out`")
    require_name(until, STAGES, "stage")
    config = model if isinstance(model, RunConfig) else make_config(model, options)
    ranks = join_ranks(config.runtime.device, config.runtime.tensor_parallel)
    if not ranks.is_first:
        progress, log = silent, ignore
    searches, measures = (STAGES.index(until) >= STAGES.index(name) for name in ("select", "evaluate"))
    refuse(
        *list_missing_for_run(config, searches=searches, measures=measures), explain_divided(config.runtime)
    )
    check_run_output(out, *(() if is_demo(config.model) else (config.model,)))
    with limit_memory(config.runtime.max_memory), RunFolder(Path(out)) as folder:
        work = open_workflow(
            config,
            folder,
            overwrite=overwrite,
            ask_user=ask_user,
            command=command,
            progress=progress,
            log=log,
        )
        digest = work.prepare()
        log(work.describe())
        if isinstance(work, DistillWorkflow):
            work.run_stages(list_distill_stages(work), digest, until)
        else:
            work.run_stages(list_stages(work), digest, until)
        return RunResults.from_json(read_json(folder.file("summary.json")) if until == "report" else {})


def open_workflow(config: RunConfig, folder: RunFolder, **options: Any) -> RunWorkflow:
    """The workflow of a run in its folder; nothing is read or run yet.

    Args:
        options: progress, log, ask_user, command and overwrite, as of `run`.

    Raises:
        ConfigError: a trait is to be learned, and none is named.
    """
    shared = {"model": config.model, "runtime": config.runtime, "folder": folder, **options}
    if isinstance(config, TraitRun):
        return DistillWorkflow(config=config, **shared)
    if config.recipe == "distill":
        raise ConfigError("the recipe distill learns a trait; name it with --trait NAME|FILE")
    return RunWorkflow(config=config, **shared)


def list_stages(work: RunWorkflow) -> Sequence[Stage[RunWorkflow]]:
    """The stages of a run in their order, with all that each depends on and writes."""
    config, judge = work.config, work.judge
    # Two servers, or two models of one, may call themselves the same.
    asked = [config.judge] if is_slow(config.judge) else []
    # Measured without generating: with more memory it is measured again.
    layerwise = {"layerwise": True} if work.layerwise else {}
    selection = config.selection.model_dump(mode="json")
    baseline = {
        "answer_tokens": config.answer_tokens,
        "force": config.force,
        "behaviour": config.contrast.behaviour,
        "judge": [judge.name, judge.version, *asked],
        "selection": {key: selection.pop(key) for key in ("behaviour_tokens", "filter_prompts")},
    }
    select = {
        "selection": selection,
        "embeddings": config.embeddings,
        "direction": digest_given_direction(config),
        **layerwise,
    }
    return (
        Stage("baseline", baseline, ["baseline.json"], run_baseline, shared=True),
        Stage(
            "collect",
            {"covariance": config.covariance, "samples": work.samples},
            ["activations-positive.safetensors", "activations-negative.safetensors"],
            run_collect,
            shared=True,
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
            shared=True,
        ),
        _apply_stage(work),
        Stage(
            "evaluate",
            {"prompts": [side.to_json()["test"] for side in work.prompt_sets.values()], **layerwise},
            ["evaluation.json", "completions.jsonl", "separation.json"],
            run_layerwise_evaluate if work.layerwise else run_evaluate,
            shared=True,
        ),
        _report_stage(work),
    )


def list_distill_stages(work: DistillWorkflow) -> Sequence[Stage[DistillWorkflow]]:
    """The same stages for a trait: the base's answers in two contexts, distilled into an Edit."""
    config = work.config
    trait = config.trait.model_dump(mode="json")
    return (
        Stage(
            "baseline",
            {"answer_tokens": config.answer_tokens, "trait": trait},
            ["baseline.json", "answers.json"],
            run_distill_baseline,
            shared=True,
        ),
        Stage(
            "collect",
            {},
            ["activations-positive.safetensors", "activations-negative.safetensors"],
            run_distill_collect,
        ),
        Stage("directions", {}, ["directions.safetensors"], run_distill_directions),
        Stage(
            "select",
            {"steps": config.steps, "strengths": config.dial, "embeddings": config.embeddings},
            ["scores.json", "edit.safetensors"],
            run_distill_select,
        ),
        _apply_stage(work),
        Stage(
            "evaluate",
            {"prompts": work.texts("test")},
            ["evaluation.json", "completions.jsonl", "separation.json"],
            run_distill_evaluate,
            shared=True,
        ),
        _report_stage(work),
    )


def _apply_stage(work: RunWorkflow) -> Stage[RunWorkflow]:
    config = work.config
    writes = [
        *(["checkpoint", "receipt.json"] if config.bake else []),
        *(["edited.gguf", "receipt-gguf.json"] if work.writes_gguf else []),
        *(["adapter"] if config.lora else []),
    ]
    return Stage("apply", {"bake": config.bake, "lora": config.lora}, writes, run_apply)


def _report_stage(work: RunWorkflow) -> Stage[RunWorkflow]:
    config = work.config
    pages = ["report.html", "MODEL_CARD.md", *(["checkpoint/README.md"] if config.bake else [])]
    needs = {"command": work.command, "config": config.model_dump(mode="json")}
    return Stage("report", needs, ["summary.json", *pages], run_report)
