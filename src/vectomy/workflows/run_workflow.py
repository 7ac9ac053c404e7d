"""One run at work: its prompts, model, judge and settings, which the stages share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from vectomy.architecture import Writer, architecture_of
from vectomy.checkpoint import architecture_in
from vectomy.checkpoint.gguf import is_gguf
from vectomy.checkpoint.quantization import count_written_bytes
from vectomy.core.component import OUTSIDE
from vectomy.core.errors import ArchitectureError, ModelError, PreflightError, PromptError
from vectomy.core.json_value import JsonObject
from vectomy.core.repo_name import split_revision
from vectomy.core.run_config import RunConfig
from vectomy.core.run_folder import hash_of, read_json, sha256_file, write_json
from vectomy.core.settings_change import RunSettings
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt
from vectomy.data.splits import Splits, split_contrast, split_preserve
from vectomy.data.trait_file import Trait
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import Judge, describe, open_judge
from vectomy.metrics.judges.endpoint_judge import EndpointJudge
from vectomy.metrics.judges.first_rank_judge import FirstRankJudge
from vectomy.models import ChatModel, check_known, describe_precision, is_local, load_layerwise
from vectomy.models.demo import is_demo
from vectomy.search.estimators import NEEDS_SAMPLES
from vectomy.search.recipe import Ask
from vectomy.workflows.larger_than_memory import ANSWER_TOKENS, explain_layerwise
from vectomy.workflows.run_pace import usual_speeds
from vectomy.workflows.run_plan import PlannedRun, count_workload, find_device, measure_shape
from vectomy.workflows.run_settings import hash_prompts, list_values, read_earlier_settings
from vectomy.workflows.stages import Workflow

__all__ = ["RunWorkflow", "digest_given_direction"]


@dataclass(kw_only=True)
class RunWorkflow(Workflow):
    """One run: its configuration, prompts and judge."""

    config: RunConfig
    ask_user: Ask | None = None
    layerwise: bool = field(default=False, init=False)
    planned: PlannedRun | None = field(default=None, init=False)
    """What the stages are counted as, by `vectomy plan`; None for a model that it cannot count."""
    """Whether the model is read block by block."""

    @cached_property
    def splits(self) -> tuple[Splits, Splits]:
        """Positive and negative prompts, each split into fit, search and test."""
        return split_contrast(self.config.contrast, self.config.seed, self.log)

    @cached_property
    def keep(self) -> Splits | None:
        """The third set, whose behaviour the edit must preserve (recipe `selective`)."""
        return split_preserve(self.config.contrast, self.config.seed, self.log)

    @property
    def prompt_sets(self) -> dict[str, Splits]:
        positive, negative = self.splits
        return {"positive": positive, "negative": negative} | ({"keep": self.keep} if self.keep else {})

    @cached_property
    def judge(self) -> Judge:
        judge = open_judge(self.config.judge)
        return FirstRankJudge(judge) if isinstance(judge, EndpointJudge) else judge

    @property
    def samples(self) -> bool:
        """Whether every activation is stored, not only their moments."""
        return self.config.keep_activations or self.config.direction_estimator in NEEDS_SAMPLES

    @property
    def writers(self) -> list[Writer]:
        """The writers that may be edited, by their names in the live model. Those of the folder
        differ where text is loaded out of the folder of a vision model.
        """
        embeddings, live = self.config.embeddings, architecture_of(self.chat.model)
        return [w for w in live.writers if embeddings or w.component not in OUTSIDE]

    @property
    def writes_gguf(self) -> bool:
        """Whether a model that is a GGUF file is edited in its own types as well."""
        return self.config.bake and is_gguf(self.model)

    @property
    def trait(self) -> Trait | None:
        """What recipe `distill` is run for."""
        return None

    @property
    def described_judge(self) -> JsonObject:
        """What results say of their judge."""
        return describe(self.judge)

    @property
    def base(self) -> BaseModelRef:
        """What an Edit records of its base."""
        name = self.model if is_demo(self.model) else Path(split_revision(self.model)[0]).name
        return BaseModelRef.of(self.checkpoint, name)

    def describe_setup(self) -> JsonObject:
        """What baseline.json says of the model that was measured and is searched on."""
        return {
            "measured_with": self.measured_with(),
            "searched_on": describe_precision(self.chat.model),
            **({"layerwise": True} if self.layerwise else {}),
        }

    def measured_with(self) -> JsonObject:
        """The dtype and device of the live model, the threads of a processor, and the date that its
        template writes, if any.
        """
        dtype = str(self.chat.model.dtype).removeprefix("torch.")
        date = self.chat.template.date
        dated = {} if date is None else {"template_date": date}
        counted = {"threads": torch.get_num_threads()} if self.chat.device.type == "cpu" else {}
        bits = self.runtime.load_in
        loaded = {} if bits is None else {"load_in": bits}
        return {"dtype": dtype, "device": str(self.chat.device), **loaded, **counted, **dated}

    @property
    def edit(self) -> Edit:
        return Edit.load(self.folder.file("edit.safetensors"))

    def kept_prompts(self, side: str, split: str) -> list[Prompt]:
        """The prompts of a split that the base treats as the contrast says."""
        kept = read_json(self.folder.file("baseline.json"))[f"{side}_kept"][split]
        prompts = getattr(self.prompt_sets[side], split)
        return [prompt for prompt, keep in zip(prompts, kept, strict=True) if keep]

    @cached_property
    def settings(self) -> RunSettings:
        weights, others = self.model_digest()
        prompts = {name: side.to_json() for name, side in self.prompt_sets.items()}
        contents = {
            "the weights of the model": weights,
            "the other files of the model": others,
            **hash_prompts(prompts),
        }
        if direction := digest_given_direction(self.config):
            contents["the file of --direction"] = direction
        return RunSettings({"vectomy": versions()["vectomy"], **list_values(self.config)}, contents)

    def stored_settings(self) -> RunSettings | None:
        return super().stored_settings() or read_earlier_settings(self.folder.path)

    def write_inputs(self) -> None:
        prompts = {name: side.to_json() for name, side in self.prompt_sets.items()}
        write_json(self.folder.file("prompts.json"), prompts)
        write_json(self.folder.file("config.json"), self.config.model_dump(mode="json"))

    def prepare(self) -> str:
        """Check the prompts and the model folder before anything heavy.

        Returns:
            The hash that all stages depend on.
        """
        if is_local(self.model) and not is_demo(self.model):
            # A wrong folder is reported before prompts are fetched. A download, or unpacking the
            # demo model, comes after the prompts are known to be good.
            _ = self.checkpoint
        elif not is_demo(self.model):
            check_known(self.model)
        # A judge of an unknown name is reported before the model is read.
        _ = self.judge
        sets = self.prompt_sets
        if self.config.recipe == "selective" and self.keep is None:
            raise PromptError(
                "the recipe selective needs a third set: prompts whose behaviour the edit must preserve; "
                "give it with --keep SRC"
            )
        self.check_architecture()
        self.choose_reading()
        prompts = [
            prompt for side in sets.values() for part in (side.fit, side.search, side.test) for prompt in part
        ]
        unloaded = self.check_prompts(prompts, self.config.answer_tokens)
        self.planned = self._plan(unloaded)
        c = self.config
        shared = {
            # A stage made by another version may mean something else.
            "vectomy": versions()["vectomy"],
            "model": self.model_digest(),
            # Test prompts are seen by `evaluate` alone.
            "prompts": [
                {split: rows for split, rows in side.to_json().items() if split != "test"}
                for side in sets.values()
            ],
            # Not batch_tokens: lowering it when memory is short must not throw away what is done.
            "settings": [c.recipe, c.seed, *c.runtime.list_precision()],
        }
        return hash_of(shared)

    def _plan(self, unloaded: ChatModel) -> PlannedRun | None:
        device = find_device(self.runtime.device)
        try:
            trusted, bits = self.runtime.trust_remote_code, self.runtime.load_in
            shape = measure_shape(self.checkpoint, device, trusted, bits)
        except (ArchitectureError, ModelError) as error:
            self.log(f"note: no later plan learns from this run's times: {error}")
            return None
        return PlannedRun(shape, count_workload(self.config, unloaded, self.splits))

    def plan_seconds(self) -> Mapping[str, float]:
        if self.planned is None:
            return {}
        device = find_device(self.runtime.device)
        stages = self.planned.stages(usual_speeds(self.planned.shape, device.type), device)
        return {stage.name: stage.seconds for stage in stages}

    def choose_reading(self) -> None:
        """Read the model block by block if it does not fit into memory.

        Raises:
            PreflightError: it does not fit, and the settings need it whole.
        """
        reason = explain_layerwise(self.checkpoint, self.config.recipe, self.runtime)
        if reason is None:
            return
        if self.config.lora:
            raise PreflightError(
                "--lora measures the adapter on the whole model, which does not fit into memory; leave it "
                f"out, and write the adapter with `vectomy apply {self.folder.path} {self.model} --as lora "
                "--out DIR`"
            )
        self.layerwise = True
        if "answer_tokens" not in self.config.model_fields_set:
            self.config = self.config.model_copy(update={"answer_tokens": ANSWER_TOKENS})
        self.log(reason)

    def load(self, path: Path, name: str) -> ChatModel:
        if self.layerwise:
            return load_layerwise(path, runtime=self.runtime, name=name, passes=True)
        return super().load(path, name)

    def describe(self) -> str:
        """What the run will read and write, in a sentence."""
        arch = architecture_in(self.checkpoint)
        counts = [f"{len(side.fit)} + {len(side.search)} + {len(side.test)}" for side in self.splits]
        size = self.checkpoint.bytes / 2**20
        written = count_written_bytes(self.checkpoint) / 2**20
        disk = f"; the edited checkpoint takes {written:.0f} MiB of disk" if self.config.bake else ""
        if self.writes_gguf:
            disk += ", and the file itself is edited to edited.gguf, in its own types"
        return (
            f"{arch.model_type} of {arch.n_layers} layers and width {arch.d_model}, {size:.0f} MiB; prompts "
            f"to fit + choose + test on: {counts[0]} positive, {counts[1]} negative, up to "
            f"{self.config.answer_tokens} tokens an answer{disk}"
        )


def digest_given_direction(config: RunConfig) -> str | None:
    """The hash of a given direction file: its name alone does not say whether it changed."""
    given = config.selection.direction
    return sha256_file(Path(given)) if given is not None and Path(given).is_file() else None
