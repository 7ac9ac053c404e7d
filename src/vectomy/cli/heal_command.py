"""`vectomy heal MODEL`: train an edited model so that what the edit cost comes back, measured
before and after.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vectomy.cli.options import Options
from vectomy.cli.progress_bars import bars
from vectomy.cli.run_command import AsJson, Config
from vectomy.core.config import load_config
from vectomy.core.errors import ConfigError

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    app.command("heal")(_heal)


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


def _heal(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="The base of the Edit (a folder, a Hub id or `demo`); with --base an edited checkpoint of any maker.",
        ),
    ],
    out: Annotated[
        Path | None, _option(help="Folder for the result; an interrupted run goes on there.", metavar="DIR")
    ] = None,
    edit: Annotated[
        Path | None, _option(help="The Edit: a file, or the folder of a run that holds one.", metavar="FILE")
    ] = None,
    strength: Annotated[float | None, _option(help="Times this (1): the dial of the Edit.")] = None,
    base: Annotated[
        str | None,
        _option(help="MODEL is an edited checkpoint, and this what it was made from.", metavar="MODEL"),
    ] = None,
    objective: Annotated[
        str | None, _option(help="sft (the base's own answers), dpo, ipo or orpo (dpo).")
    ] = None,
    preferences: Annotated[
        str | None,
        _option(
            help="Rows to learn from: FILE.jsonl, OWNER/NAME[:SPLIT] on the Hub (mlabonne/orpo-dpo-mix-40k), or `own`: the base's own answers "
            "against the edited model's.",
            metavar="SRC",
        ),
    ] = None,
    prompts: Annotated[
        str | None, _option(help="own: harmless prompts to answer (mlabonne/harmless_alpaca).", metavar="SRC")
    ] = None,
    limit: Annotated[int | None, _option(help="At most so many rows: a seeded sample.")] = None,
    own_tokens: Annotated[int | None, _option(help="own: greedy tokens per answer (48).")] = None,
    method: Annotated[
        str | None, _option(help="auto (qlora on CUDA with bitsandbytes, else lora), lora, qlora or full.")
    ] = None,
    project: Annotated[
        bool | None,
        _option("--project/--no-project", help="Keep what is learned out of the removed directions (yes)."),
    ] = None,
    rank: Annotated[int | None, _option(help="Rank of the adapter (64).")] = None,
    alpha: Annotated[float | None, _option(help="Its alpha (32).")] = None,
    dropout: Annotated[float | None, _option(help="Its dropout (0.05).")] = None,
    target_modules: Annotated[
        str | None, _option(help="Modules to adapt, by commas (all-linear).", metavar="NAME,...")
    ] = None,
    learning_rate: Annotated[
        float | None, _option("--learning-rate", "--lr", help="Highest learning rate (5e-6).")
    ] = None,
    schedule: Annotated[
        str | None, _option(help="cosine, linear, constant or constant_with_warmup (cosine).")
    ] = None,
    warmup_steps: Annotated[int | None, _option(help="Steps up to the learning rate (100).")] = None,
    epochs: Annotated[float | None, _option(help="Passes over the rows (1).")] = None,
    max_steps: Annotated[int | None, _option(help="Stop after so many steps.")] = None,
    micro_batch: Annotated[int | None, _option(help="Rows in one forward pass of one process (1).")] = None,
    accumulation: Annotated[int | None, _option(help="Forward passes to a step (8).")] = None,
    max_length: Annotated[int | None, _option(help="Most tokens of prompt and answer (2048).")] = None,
    optimizer: Annotated[
        str | None,
        _option(help="auto (paged_adamw_8bit on CUDA with bitsandbytes, else adamw_torch), or one by name."),
    ] = None,
    weight_decay: Annotated[float | None, _option(help="Weight decay (0).")] = None,
    max_grad_norm: Annotated[float | None, _option(help="Gradients are cut at this norm (1).")] = None,
    beta: Annotated[
        float | None, _option(help="dpo: how much the reference holds; ipo: tau; orpo: lambda (0.1).")
    ] = None,
    sft_weight: Annotated[
        float | None,
        _option(help="dpo, ipo: add the chosen answers' cross-entropy with this weight (0; own answers 1)."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None, _option(help="Compute activations again instead of keeping them (yes).")
    ] = None,
    attention: Annotated[str | None, _option(help="auto, eager, sdpa or flash_attention_2.")] = None,
    save_steps: Annotated[int | None, _option(help="Steps between checkpoints (50).")] = None,
    logging_steps: Annotated[int | None, _option(help="Steps between points of the curve (1).")] = None,
    report_to: Annotated[str | None, _option(help="none, tensorboard, wandb or trackio (none).")] = None,
    launch: Annotated[
        str | None,
        _option(
            help="Train in several processes by accelerate: ddp, zero2, zero3, fsdp, cpu, or a configuration file of its own.",
            metavar="NAME|FILE",
        ),
    ] = None,
    processes: Annotated[int | None, _option(help="How many (one a card).")] = None,
    trained: Annotated[
        Path | None,
        _option(
            help="Train nothing: merge and measure this adapter, trained elsewhere on the edited model.",
            metavar="DIR",
        ),
    ] = None,
    merge: Annotated[
        bool | None,
        _option(
            "--merge/--adapter",
            help="Merge into the checkpoint (yes), or leave the adapter over the edited one.",
        ),
    ] = None,
    resume: Annotated[
        bool, _option("--resume/--restart", help="Go on where an interrupted run was (yes), or begin anew.")
    ] = True,
    positive_test: Annotated[
        str | None,
        _option(help="Prompts that show the behaviour, to see whether it comes back.", metavar="SRC"),
    ] = None,
    negative_test: Annotated[
        str | None, _option(help="Harmless prompts on whose answers damage is measured.", metavar="SRC")
    ] = None,
    test_limit: Annotated[int | None, _option(help="At most so many of each (100).")] = None,
    judge: Annotated[str | None, _option(help="Who says what a refusal is (refusal).")] = None,
    answer_tokens: Options.answer_tokens = None,
    tasks: Annotated[
        str | None, _option(help="Capability tasks for all three models: suites, tasks or files, by commas.")
    ] = None,
    task_limit: Annotated[int | None, _option(help="At most so many documents a task.")] = None,
    seed: Annotated[
        int | None, _option(help="Seed of samples, of the adapter and of the order of rows (0).")
    ] = None,
    device: Options.device = None,
    dtype: Options.dtype = None,
    batch_tokens: Options.batch_tokens = None,
    trust_remote_code: Options.trust_remote_code = None,
    config: Config = None,
    export_axolotl: Annotated[
        Path | None,
        _option(help="Write the same training as an Axolotl configuration, and stop.", metavar="FILE"),
    ] = None,
    from_axolotl: Annotated[
        Path | None,
        _option(help="Take the training from an Axolotl configuration; options override it.", metavar="FILE"),
    ] = None,
    until: Annotated[str | None, _option(help="Stop behind edited, rows, train, merge or measure.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train an edited model by DPO, IPO, ORPO or on the base's own answers, so that what the edit
    cost comes back and what it removed does not; with a table before the edit, after it and after
    healing.
    """
    given = dict(locals())
    from vectomy.healing.heal_config import HealConfig, parse_heal

    options = {name: given[name] for name in HealConfig.model_fields if given.get(name) is not None}
    say = Console(stderr=True)
    values, notes = _files(config, from_axolotl)
    for note in notes:
        say.print(f"not taken from {from_axolotl}: {note}", highlight=False, markup=False)
    if model == "demo":
        values = {"prompts": "bundled:harmless", "preferences": "own", **values}
    parsed = parse_heal({**values, **options})
    out = out or Path("runs") / f"{Path(model).resolve().name}-healed"
    if export_axolotl is not None:
        _export(export_axolotl, parsed, out, launch)
        return
    if not resume:
        _restart(out)
    from vectomy.workflows.heal.heal_model import STAGES, heal_model

    if until is not None and until not in STAGES:
        raise ConfigError(f"--until is '{until}'; it is one of {', '.join(STAGES)}")
    summary = heal_model(
        model,
        out,
        parsed,
        edit=_edit(edit, strength),
        base=base,
        trained=trained,
        launcher=launch,
        processes=processes,
        until=until or "report",
        command=shlex.join(["vectomy", *sys.argv[1:]]),
        progress=bars,
        log=lambda line: say.print(line, highlight=False, markup=False, soft_wrap=True),
    )
    if as_json:
        typer.echo(json.dumps(summary or {"folder": str(out), "until": until}, indent=2))
    elif summary:
        from vectomy.cli.tables.healing_table import print_healing

        print_healing(summary, str(out))
    else:
        typer.echo(f"done up to {until}; see {out}")


def _files(config: Path | None, axolotl: Path | None) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    notes: list[str] = []
    if axolotl is not None:
        from vectomy.healing.axolotl import read_axolotl

        values, notes = read_axolotl(axolotl)
    if config is not None:
        values |= load_config(config)
    return values, notes


def _edit(file: Path | None, strength: float | None) -> Any:
    if file is None:
        return None
    from vectomy.edits.edit import Edit

    edit = Edit.load(file / "edit.safetensors" if file.is_dir() else file)
    return edit if strength is None else edit * strength


def _export(file: Path, config: Any, out: Path, launch: str | None) -> None:
    from vectomy.healing.axolotl import to_axolotl, write_axolotl

    rows = out / "preferences.jsonl"
    values = to_axolotl(config, str(out / "edited"), str(rows) if rows.is_file() else None, launch)
    write_axolotl(file, values, config.project)
    typer.echo(f"{file}: trains {out / 'edited'}, which `vectomy heal --until edited` writes")


def _restart(out: Path) -> None:
    """Drop what a run left in its folder; any other folder is left alone."""
    import shutil

    from vectomy.core.run_folder import RunFolder

    if out.exists():
        with RunFolder(out):
            pass
        shutil.rmtree(out)
