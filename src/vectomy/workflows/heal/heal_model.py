"""`vectomy heal`: bake the Edit, make the rows, train, merge, and measure before the edit, after it
and after healing.

Each stage is kept in the folder by its inputs. A killed one continues; training continues from its
last checkpoint.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vectomy.core.arguments import require, require_name, require_path
from vectomy.core.output_path import check_run_output
from vectomy.core.progress import Progress, automatic, tell_in_notebook
from vectomy.core.results import HealingResults
from vectomy.core.run_folder import RunFolder, hash_of, read_json
from vectomy.core.versions import versions
from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import OWN, HealConfig, parse_heal
from vectomy.healing.launching import launch_file
from vectomy.healing.machine import resolve_machine
from vectomy.models import check_lengths
from vectomy.workflows.heal.heal_examples import list_own_prompts
from vectomy.workflows.heal.heal_inputs import open_inputs
from vectomy.workflows.heal.heal_stages import STAGES, HealWorkflow, StageName, list_heal_stages
from vectomy.workflows.needed_packages import list_missing_for_healing
from vectomy.workflows.preflight import refuse
from vectomy.workflows.stages import Log

__all__ = ["STAGES", "StageName", "heal_model"]


def heal_model(
    model: str,
    out: str | Path,
    config: HealConfig | None = None,
    *,
    edit: Edit | None = None,
    base: str | None = None,
    trained: Path | None = None,
    launcher: str | None = None,
    processes: int | None = None,
    until: StageName = "report",
    overwrite: bool = False,
    command: str = "",
    progress: Progress = automatic,
    log: Log = tell_in_notebook,
    **options: Any,
) -> HealingResults:
    """Train an edited model to regain what the edit cost; the results go into the folder `out`.

    Returns:
        The values of summary.json, as fields and as keys; no field is set if the work stopped
        before the report.

    Args:
        model: the base of the Edit (a folder, a Hub id or `demo`), or with `base` an edited
            checkpoint.
        config: the whole configuration, or keys of it as `options`.
        edit: the Edit to apply; its directions are protected during training.
        base: the base, if `model` is an edited checkpoint without its Edit.
        trained: an adapter trained elsewhere (for example with Axolotl), to merge and measure
            instead of training.
        launcher: train in several processes: ddp, cpu, zero2, zero3, fsdp, or a configuration file
            of accelerate.
        processes: number of training processes; None: one for each card.
        until: the last stage to run.
        overwrite: replace finished results of other settings in `out`.
        options: keys of HealConfig, where no whole configuration is given.

    Raises:
        FinishedRunError: `out` holds finished results of other settings; nothing was changed.
        VectomyError: see core/errors.py; finished stages are kept and not run again.
    """
    require(model, str, "the model", "give a folder, a Hub id or `demo`")
    require_path(out, "the folder `out`")
    require_name(until, STAGES, "stage")
    config = parse_heal(options) if config is None else config
    refuse(*list_missing_for_healing(config, str(model), base, trains=trained is None))
    check_run_output(out)
    resolve_machine(config)
    if launcher is not None:
        launch_file(launcher)
    inputs = open_inputs(
        model,
        base,
        edit,
        project=config.project,
        trust_remote_code=config.runtime.trust_remote_code,
        progress=progress,
    )
    check_run_output(out, *(folder for folder in (inputs.base, inputs.edited) if folder is not None))
    with RunFolder(Path(out)) as folder:
        work = HealWorkflow(
            model=inputs.name,
            runtime=config.runtime,
            folder=folder,
            command=command,
            progress=progress,
            log=log,
            overwrite=overwrite,
            config=config,
            inputs=inputs,
            trained=trained,
            launcher=launcher,
            processes=processes,
        )
        chat = work.check_prompts(work.sets.prompts, config.answer_tokens)
        if trained is None and config.preferences == OWN:
            learned, _ = list_own_prompts(config, work.sets.prompts)
            check_lengths(chat, learned, chat.tokens(learned), config.own_tokens)
        work.run_stages(list_heal_stages(work), hash_of([versions()["vectomy"], inputs.identity]), until)
        return HealingResults.from_json(read_json(folder.file("summary.json")) if until == "report" else {})
