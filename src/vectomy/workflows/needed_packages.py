"""The optional packages that a command needs and that are not installed, each in one sentence with
the command that installs it. A command says them before it reads or writes anything. Loads no
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from vectomy.core.choices import ExportFormat
from vectomy.core.config import LoadIn
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.packages import describe_missing
from vectomy.core.run_config import DEMO_PROMPTS, HUB_PROMPTS, Contrast, RunConfig, Source
from vectomy.data.sources import find_hub_name, is_parquet, local_path
from vectomy.healing.heal_config import OWN, HealConfig
from vectomy.workflows.trait_config import TraitRun

__all__ = [
    "list_missing_for_direction",
    "list_missing_for_evaluation",
    "list_missing_for_export",
    "list_missing_for_healing",
    "list_missing_for_model",
    "list_missing_for_run",
    "name_sources",
]

ADAPTER = "adapter_config.json"
GGUF_FORMS: tuple[ExportFormat, ...] = ("gguf", "gguf-lora", "control-vector")


def list_missing_for_run(config: RunConfig, *, searches: bool, measures: bool) -> list[str]:
    """What a run lacks.

    Args:
        searches: whether it comes to the choice of an Edit.
        measures: whether it comes to the evaluation.
    """
    return _keep(
        *list_missing_for_model(config.model, config.runtime.load_in),
        *_for_sources(name_sources(config), "--positive and --negative"),
        describe_missing("the recipe tpe", "optuna") if searches and config.recipe == "tpe" else None,
        describe_missing("measuring the adapter of --lora", "peft") if measures and config.lora else None,
    )


def list_missing_for_direction(config: RunConfig) -> list[str]:
    """What `vectomy direction` lacks."""
    return list_missing_for_run(config, searches=False, measures=False)


def list_missing_for_evaluation(config: EvaluationConfig) -> list[str]:
    """What `vectomy evaluate` lacks."""
    subjects = [item.rpartition("@")[0] or item for item in config.subjects]
    adapted = any((Path(name).expanduser() / ADAPTER).is_file() for name in (*config.subjects, *subjects))
    sources = [
        spec if local_path(spec) is not None else spec.partition("=")[2] or spec for spec in config.prompts
    ]
    return _keep(
        *_for_models((*config.subjects, *([config.base] if config.base else []))),
        *_for_load_in(config.runtime.load_in),
        *_for_sources(sources, "--prompts"),
        describe_missing("measuring an adapter", "peft") if adapted else None,
        describe_missing("measuring capability (--tasks)", "lm_eval") if config.tasks else None,
        describe_missing("--engine vllm", "vllm") if config.engine == "vllm" else None,
    )


def list_missing_for_healing(
    config: HealConfig, model: str, base: str | None = None, *, trains: bool = True
) -> list[str]:
    """What `vectomy heal` lacks.

    Args:
        trains: False: an adapter that was trained elsewhere is merged and measured.
    """
    defaults = DEMO_PROMPTS if model == "demo" else HUB_PROMPTS
    tests = [config.positive_test or defaults["positive"], config.negative_test or defaults["negative"]]
    learned = config.prompts if config.preferences == OWN else config.preferences
    return _keep(
        describe_missing("healing", "trl", "peft", "datasets") if trains else None,
        *_for_models((model, *([base] if base else []))),
        *_for_load_in(config.runtime.load_in),
        *_for_sources(
            [*([learned] if trains else []), *tests],
            "--preferences, --prompts, --positive-test and --negative-test",
        ),
        describe_missing("measuring capability (--tasks)", "lm_eval") if config.tasks else None,
    )


def list_missing_for_export(form: ExportFormat, model: str) -> list[str]:
    """What `vectomy apply` lacks."""
    writes = describe_missing("writing a GGUF file", "gguf") if form in GGUF_FORMS else None
    return _keep(*_for_models([model]), writes)


def list_missing_for_model(model: str, load_in: LoadIn | None = None) -> list[str]:
    """What reading a model lacks."""
    return [*_for_models([model]), *_for_load_in(load_in)]


def name_sources(config: RunConfig) -> list[str]:
    """The prompt sources that a run reads."""
    if isinstance(config, TraitRun):
        return [config.trait.prompts.source]
    given = (getattr(config.contrast, name) for name in Contrast.model_fields)
    return [source.prompts for source in given if isinstance(source, Source)]


def _for_models(names: Iterable[str]) -> Iterator[str]:
    if any(name in ("demo", "demo-base") for name in names):
        yield from _keep(describe_missing("the demo model", "gguf"))
    files = [name for name in names if name.endswith(".gguf")]
    if files:
        yield from _keep(describe_missing(f"reading the GGUF file {files[0]}", "gguf"))


def _for_load_in(load_in: LoadIn | None) -> Iterator[str]:
    if load_in is not None:
        yield from _keep(describe_missing(f"--load-in {load_in}", "bitsandbytes"))


def _for_sources(specs: Iterable[str], options: str) -> Iterator[str]:
    specs = list(dict.fromkeys(specs))
    names = list(dict.fromkeys(name for spec in specs if (name := find_hub_name(spec)) is not None))
    if names:
        sets = f"the data set{'s' if len(names) > 1 else ''} {' and '.join(names)}"
        missing = describe_missing(f"reading {sets} of the Hub", "datasets")
        yield from _keep(None if missing is None else f"{missing}; or give local files ({options})")
    tables = [spec for spec in specs if is_parquet(spec)]
    if tables:
        yield from _keep(describe_missing(f"reading the Parquet file {tables[0]}", "pyarrow"))


def _keep(*sentences: str | None) -> list[str]:
    return [sentence for sentence in sentences if sentence]
