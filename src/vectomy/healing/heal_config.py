"""The configuration of a healing run. Its defaults are the article's recipe (mlabonne, 2024-06-04).
Loads no torch.

What depends on the machine is `auto`: QLoRA and the paged 8-bit optimiser on CUDA with
bitsandbytes, as in the article; LoRA and plain AdamW elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from vectomy.core.choices import JudgeName
from vectomy.core.config import EXPERT, MACHINE, OUTPUT, PROMPTS, JobConfig, Panel, validate_config
from vectomy.core.json_value import JsonObject

__all__ = ["OWN", "PAIRED", "HealConfig", "Method", "Objective", "parse_heal"]

Objective = Literal["sft", "dpo", "ipo", "orpo"]
Method = Literal["auto", "lora", "qlora", "full"]
OWN = "own"
"""The preference source that the models make themselves (own_answers.py)."""
PAIRED: tuple[Objective, ...] = ("dpo", "ipo", "orpo")
"""Objectives that need a rejected answer beside the chosen one."""
TRAINING = Panel("Training")
ARTICLE_PREFERENCES = "mlabonne/orpo-dpo-mix-40k"
ARTICLE_PROMPTS = "mlabonne/harmless_alpaca"


class HealConfig(JobConfig):
    """How an edited model is trained, and how it is measured before and after."""

    PANEL: ClassVar[Panel] = EXPERT
    # Training renders the chat template itself, so thinking is not an option here.
    RUNTIME_KEYS: ClassVar[tuple[str, ...]] = (
        "device",
        "dtype",
        "load_in",
        "batch_tokens",
        "threads",
        "trust_remote_code",
    )

    objective: Annotated[Objective, TRAINING] = "dpo"
    """sft: the base's own answers; dpo: sigmoid (arXiv 2305.18290); ipo (arXiv 2310.12036); orpo
    (arXiv 2403.07691).
    """
    preferences: Annotated[str, PROMPTS] = ARTICLE_PREFERENCES
    """Preference rows: FILE.jsonl, OWNER/NAME[:SPLIT] on the Hub, or `own`: the base's own answers
    against the edited model's.
    """
    prompts: Annotated[str, PROMPTS] = ARTICLE_PROMPTS
    """Prompts that the models answer: harmless ones, for `--preferences own`. The test split of a
    set with splits is left out.
    """
    limit: Annotated[int | None, PROMPTS] = Field(None, ge=1)
    """Maximum number of rows: a seeded sample of the preferences."""
    own_tokens: int = Field(48, ge=1)
    """own: greedy tokens in each answer."""

    method: Annotated[Method, TRAINING] = "auto"
    """Weights that are trained; auto is qlora on CUDA with bitsandbytes, lora elsewhere."""
    project: Annotated[bool, TRAINING] = True
    """Project the training out of the removed directions, in the writers of the Edit."""
    rank: Annotated[int, TRAINING] = Field(64, ge=1)
    """Rank of the learned change: of the adapter."""
    alpha: float = Field(32.0, gt=0)
    """Alpha of the adapter."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout of the adapter."""
    target_modules: tuple[str, ...] = ("all-linear",)
    """Modules to adapt, separated by commas."""

    learning_rate: Annotated[float, TRAINING] = Field(5e-6, gt=0)
    """Highest learning rate."""
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Schedule of the learning rate."""
    warmup_steps: int = Field(100, ge=0)
    """Steps until the highest learning rate."""
    epochs: Annotated[float, TRAINING] = Field(1.0, gt=0)
    """Passes over the rows."""
    max_steps: Annotated[int | None, TRAINING] = Field(None, ge=1)
    """Stop after this many steps, whatever the number of epochs."""
    micro_batch: Annotated[int, MACHINE] = Field(1, ge=1)
    """Rows in one forward pass of one process."""
    accumulation: int = Field(8, ge=1)
    """Forward passes in one step."""
    max_length: int = Field(2048, ge=8)
    """Maximum number of tokens of prompt and answer; longer answers are cut, rows with a longer
    prompt are left out.
    """
    optimizer: Literal[
        "auto", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit", "adamw_bnb_8bit"
    ] = "auto"
    """auto is paged_adamw_8bit on CUDA with bitsandbytes, adamw_torch elsewhere."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the optimiser."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Norm at which gradients are clipped."""
    beta: Annotated[float, TRAINING] = Field(0.1, gt=0)
    """dpo: strength of the KL constraint to the reference; ipo: tau; orpo: weight of the odds ratio
    (lambda).
    """
    sft_weight: float | None = Field(None, ge=0)
    """dpo, ipo: weight of the cross-entropy of the chosen answers (RPO, arXiv 2404.19733). With
    `own`, the margin alone is cheapest to raise by making both answers less likely. [default: 0; 1
    for `own`]
    """
    gradient_checkpointing: bool = True
    """Compute activations again in the backward pass instead of keeping them."""
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """auto is flash_attention_2 where the package and the card support it, else sdpa."""
    save_steps: int = Field(50, ge=1)
    """Steps between checkpoints, from which an interrupted run resumes."""
    logging_steps: int = Field(1, ge=1)
    """Steps between points of the training curve."""
    report_to: Annotated[Literal["none", "tensorboard", "wandb", "trackio"], OUTPUT] = "none"
    """Tracker: of the training curve."""

    seed: Annotated[int, TRAINING] = Field(0, ge=0)
    """Random seed: of samples, of the adapter and of the order of rows."""
    merge: Annotated[bool, OUTPUT] = True
    """Merge the training into the checkpoint; otherwise the adapter is written next to the edited
    checkpoint.
    """

    positive_test: Annotated[str | None, PROMPTS] = None
    """Positive prompts on which the result is reported: harmful ones. [default: those of the
    demo model or of the article]
    """
    negative_test: Annotated[str | None, PROMPTS] = None
    """Negative prompts on which the result is reported: harmless ones. [default: those of the
    demo model or of the article]
    """
    test_limit: Annotated[int | None, PROMPTS] = Field(100, ge=2)
    """Maximum number of prompts of each test set."""
    judge: JudgeName = "refusal"
    answer_tokens: int = Field(64, ge=1)
    """Greedy tokens in each answer."""
    tasks: str | None = None
    """Tasks of lm-evaluation-harness: for all three models; suites, task names or task files,
    separated by commas.
    """
    task_limit: int | None = Field(None, ge=1)
    """Maximum number of documents of each task: the first ones."""

    @model_validator(mode="before")
    @classmethod
    def _whole_list(cls, values: Any) -> Any:
        """One module pattern may be written without a list."""
        if isinstance(values, dict) and isinstance(values.get("target_modules"), str):
            return {**values, "target_modules": tuple(values["target_modules"].split(","))}
        return values

    @property
    def chosen_weight(self) -> float:
        """`sft_weight`, or what it is where it is not given."""
        if self.sft_weight is not None:
            return self.sft_weight
        return 1.0 if self.preferences == OWN else 0.0

    @property
    def paired(self) -> bool:
        return self.objective in PAIRED


def parse_heal(values: JsonObject, typed: Mapping[str, str] | None = None) -> HealConfig:
    """Check values from any source; None counts as not given.

    Raises:
        ConfigError: as `validate_config`, which explains `typed`.
    """
    given = {name: value for name, value in json.loads(json.dumps(values)).items() if value is not None}
    return validate_config(HealConfig, given, typed)
