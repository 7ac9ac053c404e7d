"""The configuration of a healing run. Its defaults are the article's recipe (mlabonne, 2024-06-04).
Loads no torch.

What depends on the machine is `auto`: QLoRA and the paged 8-bit optimiser on CUDA with
bitsandbytes, as in the article; LoRA and plain AdamW elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from vectomy.core.config import JobConfig, validate_config

__all__ = ["OWN", "PAIRED", "HealConfig", "Method", "Objective", "parse_heal"]

Objective = Literal["sft", "dpo", "ipo", "orpo"]
Method = Literal["auto", "lora", "qlora", "full"]
OWN = "own"
"""The preference source that the models make themselves (own_answers.py)."""
PAIRED: tuple[Objective, ...] = ("dpo", "ipo", "orpo")
"""Objectives that need a rejected answer beside the chosen one."""
ARTICLE_PREFERENCES = "mlabonne/orpo-dpo-mix-40k"
ARTICLE_PROMPTS = "mlabonne/harmless_alpaca"


class HealConfig(JobConfig):
    """How an edited model is trained, and how it is measured before and after."""

    # Training renders the chat template itself, so thinking is not an option here.
    RUNTIME_KEYS: ClassVar[tuple[str, ...]] = ("device", "dtype", "batch_tokens", "trust_remote_code")

    objective: Objective = "dpo"
    """sft: the base's own answers; dpo: sigmoid (arXiv 2305.18290); ipo (2310.12036); orpo
    (2403.07691).
    """
    preferences: str = ARTICLE_PREFERENCES
    """FILE.jsonl, OWNER/NAME[:SPLIT] on the Hub, or `own`: the base's own answers against the
    edited model's.
    """
    prompts: str = ARTICLE_PROMPTS
    """own: the harmless prompts that are answered (see prompts.py); of a set with splits the test
    split is left out.
    """
    limit: int | None = Field(None, ge=1)
    """At most so many rows: a seeded sample."""
    own_tokens: int = Field(48, ge=1)
    """own: greedy tokens per answer."""

    method: Method = "auto"
    project: bool = True
    """Keep what is learned out of the removed directions, in the writers that the Edit names
    (projection.py).
    """
    rank: int = Field(64, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("all-linear",)

    learning_rate: float = Field(5e-6, gt=0)
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1)
    """Stop after so many steps, however many epochs that is."""
    micro_batch: int = Field(1, ge=1)
    """Rows in one forward pass of one process."""
    accumulation: int = Field(8, ge=1)
    """Forward passes to a step."""
    max_length: int = Field(2048, ge=8)
    """Tokens of prompt and answer together; longer answers are cut, rows with a longer prompt are
    left out.
    """
    optimizer: Literal[
        "auto", "adamw_torch", "adamw_torch_fused", "paged_adamw_8bit", "paged_adamw_32bit", "adamw_bnb_8bit"
    ] = "auto"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    beta: float = Field(0.1, gt=0)
    """dpo: how much the reference holds; ipo: tau; orpo: weight of the odds ratio (lambda)."""
    sft_weight: float | None = Field(None, ge=0)
    """dpo, ipo: the cross-entropy of the chosen answers is added with this weight (RPO, arXiv
    2404.19733). Absent: 0, and 1 for own answers, where the margin alone is soonest had by making
    both answers less likely.
    """
    gradient_checkpointing: bool = True
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"
    """auto: flash attention where the package is and the card can, else PyTorch's own."""
    save_steps: int = Field(50, ge=1)
    """Steps between checkpoints, from which a killed run goes on."""
    logging_steps: int = Field(1, ge=1)
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"

    seed: int = Field(0, ge=0)
    merge: bool = True
    """Merge what was learned into the checkpoint; without it the adapter lies beside the edited
    checkpoint.
    """

    positive_test: str | None = None
    """Prompts that show the behaviour in the base, to see whether it comes back; absent: those of
    the demo model or of the article.
    """
    negative_test: str | None = None
    """Harmless prompts on whose answers damage is measured."""
    test_limit: int | None = Field(100, ge=2)
    judge: str = "refusal"
    answer_tokens: int = Field(64, ge=1)
    """Greedy tokens per judged answer."""
    tasks: str | None = None
    """Capability tasks to run on all three models, as `measure_capability` takes them."""
    task_limit: int | None = Field(None, ge=1)

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


def parse_heal(values: dict[str, Any], typed: Mapping[str, str] | None = None) -> HealConfig:
    """Check values from any source; None counts as not given.

    Raises:
        ConfigError: as `validate_config`, which explains `typed`.
    """
    given = {name: value for name, value in json.loads(json.dumps(values)).items() if value is not None}
    return validate_config(HealConfig, given, typed)
