"""Axolotl configurations of the same training, written and read; a setting without a counterpart is
named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vectomy.core.errors import ConfigError
from vectomy.core.quoted_error import quote_error
from vectomy.core.run_folder import write_whole
from vectomy.core.text_file import read_text
from vectomy.healing.heal_config import ARTICLE_PREFERENCES, OWN, HealConfig, parse_heal

__all__ = ["read_axolotl", "to_axolotl", "write_axolotl"]

Values = dict[str, Any]
"""Keys and values of a configuration file, ours or Axolotl's."""
RL = {"dpo": "dpo", "ipo": "ipo", "orpo": "orpo"}
ADAPTERS = {"lora": "lora", "qlora": "qlora", "full": None}
# Our keys and Axolotl's, where the value is the same.
SAME = {
    "rank": "lora_r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "learning_rate": "learning_rate",
    "schedule": "lr_scheduler",
    "warmup_steps": "warmup_steps",
    "epochs": "num_epochs",
    "micro_batch": "micro_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "max_length": "sequence_len",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
    "gradient_checkpointing": "gradient_checkpointing",
    "save_steps": "save_steps",
    "logging_steps": "logging_steps",
}
# Axolotl's keys that do not change the result, or that `vectomy heal` sets by itself.
SILENT = frozenset(
    [
        "base_model",
        "model_type",
        "tokenizer_type",
        "chat_template",
        "dataset_prepared_path",
        "output_dir",
        "strict",
        "val_set_size",
        "sample_packing",
        "pad_to_sequence_len",
        "save_safetensors",
        "bf16",
        "fp16",
        "tf32",
        "load_in_8bit",
        "load_in_4bit",
        "special_tokens",
        "deepspeed",
        "fsdp",
        "fsdp_config",
        "wandb_entity",
        "wandb_watch",
        "wandb_name",
        "wandb_log_model",
        "lora_model_dir",
        "lora_fan_in_fan_out",
        "local_rank",
        "debug",
        "evals_per_epoch",
        "eval_table_size",
        "eval_max_new_tokens",
        "saves_per_epoch",
        "early_stopping_patience",
        "resume_from_checkpoint",
        "xformers_attention",
        "hub_model_id",
        "hub_strategy",
        "train_on_inputs",
        "group_by_length",
        "trust_remote_code",
        "remove_unused_columns",
    ]
)


def to_axolotl(config: HealConfig, model: str, data: str | None = None, launch: str | None = None) -> Values:
    """The configuration in Axolotl's keys.

    Args:
        model: the value of `base_model`: the edited checkpoint.
        data: a .jsonl of preference rows as `vectomy heal` writes it (preferences.jsonl); needed
            for `preferences: own`.
        launch: zero2 or zero3 add Axolotl's DeepSpeed configuration.

    Raises:
        ConfigError: the rows are the models' own answers and do not exist yet.
    """
    method = "qlora" if config.method == "auto" else config.method
    optimizer = "paged_adamw_8bit" if config.optimizer == "auto" else config.optimizer
    values: Values = {
        "base_model": model,
        "trust_remote_code": config.runtime.trust_remote_code,
        "load_in_4bit": method == "qlora",
        "adapter": ADAPTERS[method],
        "datasets": [_make_dataset(config, data)],
        "val_set_size": 0.0,
        "optimizer": optimizer,
        "bf16": config.runtime.dtype in ("auto", "bfloat16"),
        "fp16": config.runtime.dtype == "float16",
        "flash_attention": config.attention in ("auto", "flash_attention_2"),
        **{theirs: getattr(config, ours) for ours, theirs in SAME.items()},
    }
    if config.objective in RL:
        values |= {
            "rl": RL[config.objective],
            "orpo_alpha" if config.objective == "orpo" else "rl_beta": config.beta,
        }
    if config.objective in ("dpo", "ipo") and config.chosen_weight:
        values["rpo_alpha"] = config.chosen_weight
    if config.max_steps is not None:
        values["max_steps"] = config.max_steps
    if method != "full":
        whole = config.target_modules == ("all-linear",)
        values |= (
            {"lora_target_linear": True} if whole else {"lora_target_modules": list(config.target_modules)}
        )
    if config.report_to == "wandb":
        values["wandb_project"] = "vectomy"
    elif config.report_to != "none":
        values[f"use_{config.report_to}"] = True
    if launch in ("zero2", "zero3"):
        values["deepspeed"] = f"deepspeed_configs/{launch}.json"
    return values


def _make_dataset(config: HealConfig, data: str | None) -> Values:
    if data is None and config.preferences == OWN:
        raise ConfigError(
            "the rows are the models' own answers, which do not exist yet; run `vectomy heal --until rows` "
            "first, then export"
        )
    local = data or (config.preferences if Path(config.preferences).suffix else None)
    if config.objective == "sft":
        shape: Values = {"type": "chat_template", "field_messages": "messages"}
    elif data is None and config.preferences == f"{ARTICLE_PREFERENCES}-flat":
        shape = {"type": "chatml.intel"}
    else:
        shape = {
            "type": "chat_template.default",
            "field_messages": "messages",
            "field_chosen": "chosen",
            "field_rejected": "rejected",
        }
    if local is not None:
        return {"path": "json", "data_files": [local], "split": "train", **shape}
    name, _, split = config.preferences.partition(":")
    return {"path": name, "split": split or "train", **shape}


def write_axolotl(path: Path, values: Values, project: bool) -> None:
    """Write the configuration as YAML; comments at its top name what Axolotl cannot do."""
    notes = ["Written by vectomy heal."]
    if project:
        notes.append(
            "Axolotl cannot keep an adapter out of the removed directions. Bring the adapter back with "
            "`vectomy heal --trained DIR`, which projects it before it is merged and measured."
        )
    text = "".join(f"# {note}\n" for note in notes) + yaml.safe_dump(
        values, sort_keys=False, allow_unicode=True
    )
    with write_whole(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")


def read_axolotl(path: Path) -> tuple[Values, list[str]]:
    """Our keys that an Axolotl file sets, and its keys that have no counterpart here.

    Raises:
        ConfigError: the file is missing, does not parse, or asks for a training that `vectomy heal`
            does not do.
    """
    try:
        values = yaml.safe_load(read_text(path))
    except OSError as error:
        raise ConfigError(f"the Axolotl configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the Axolotl configuration {path} does not parse: {quote_error(error, 300)}"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"the Axolotl configuration {path} holds no keys")
    given = {key: value for key, value in values.items() if value is not None}
    result: Values = {ours: given.pop(theirs) for ours, theirs in SAME.items() if theirs in given}
    result |= _read_objective(path, given) | _read_adapter(given)
    result |= _read_rows(given) | _read_others(given)
    parse_heal(result)
    return result, sorted(str(key) for key in given if key not in SILENT)


def _read_objective(path: Path, given: Values) -> Values:
    rl = given.pop("rl", None)
    if rl is not None and rl not in RL:
        raise ConfigError(
            f"the Axolotl configuration {path} asks for rl: {rl}; vectomy heal does {', '.join(RL)}, and SFT "
            "without rl"
        )
    result: Values = {"objective": rl or "sft"}
    betas = [given.pop(name) for name in ("rl_beta", "dpo_beta", "orpo_alpha") if name in given]
    if betas:
        result["beta"] = betas[0]
    if "rpo_alpha" in given:
        result["sft_weight"] = given.pop("rpo_alpha")
    return result


def _read_adapter(given: Values) -> Values:
    result: Values = {"method": given.pop("adapter", None) or "full"}
    whole, named = given.pop("lora_target_linear", False), given.pop("lora_target_modules", None)
    if named and not whole:
        result["target_modules"] = list(named)
    return result


def _read_rows(given: Values) -> Values:
    sets = given.pop("datasets", None) or []
    if not sets:
        return {}
    if len(sets) > 1:
        raise ConfigError(
            f"the Axolotl configuration names {len(sets)} data sets; vectomy heal reads one. "
            "Put their rows into one .jsonl"
        )
    dataset = sets[0]
    files = dataset.get("data_files")
    if files:
        return {"preferences": files if isinstance(files, str) else files[0]}
    split, path = dataset.get("split", "train"), dataset["path"]
    return {"preferences": path if split == "train" else f"{path}:{split}"}


def _read_others(given: Values) -> Values:
    result: Values = {}
    for name in ("optimizer", "max_steps"):
        if name in given:
            result[name] = given.pop(name)
    if given.pop("flash_attention", False):
        result["attention"] = "auto"
    elif given.pop("sdp_attention", False):
        result["attention"] = "sdpa"
    if given.get("fp16"):
        result["dtype"] = "float16"
    if given.get("trust_remote_code"):
        result["trust_remote_code"] = True
    trackers = [name for name in ("tensorboard", "trackio") if given.pop(f"use_{name}", False)]
    if given.pop("wandb_project", None):
        trackers.append("wandb")
    if trackers:
        result["report_to"] = trackers[0]
    return result
