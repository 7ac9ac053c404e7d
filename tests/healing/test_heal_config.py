"""The settings of healing: defaults, errors, and Axolotl's configuration of the same."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from vectomy.core.errors import ConfigError
from vectomy.healing.axolotl import read_axolotl, to_axolotl, write_axolotl
from vectomy.healing.heal_config import HealConfig, parse_heal

TIER = "unit"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"objective": "kto"}, "'objective' is 'kto'"),
        ({"lora_r": 3}, "unknown configuration key 'lora_r'"),
        ({"rank": 0}, "'rank' is 0"),
        ({"learning_rate": -1}, "'learning_rate' is -1"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_heal(values)


def test_the_defaults_are_the_articles_recipe() -> None:
    c = HealConfig()
    assert (c.objective, c.preferences, c.rank, c.alpha, c.dropout, c.target_modules) == (
        "dpo",
        "mlabonne/orpo-dpo-mix-40k",
        64,
        32,
        0.05,
        ("all-linear",),
    )
    assert (c.epochs, c.learning_rate, c.schedule, c.warmup_steps, c.max_length) == (
        1,
        5e-6,
        "cosine",
        100,
        2048,
    )
    assert (c.micro_batch, c.accumulation, c.beta, c.weight_decay) == (1, 8, 0.1, 0.0)


# Axolotl


@pytest.mark.parametrize("objective", ["sft", "dpo", "ipo", "orpo"])
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_an_exported_configuration_is_read_back_as_it_was(
    tmp_path: Path, objective: str, method: str
) -> None:
    config = parse_heal(
        {
            "objective": objective,
            "method": method,
            "rank": 16,
            "alpha": 8,
            "dropout": 0.1,
            "learning_rate": 2e-5,
            "epochs": 2.0,
            "preferences": "mlabonne/orpo-dpo-mix-40k:train",
            "optimizer": "adamw_torch",
            "beta": 0.1 if objective == "sft" else 0.3,
            "max_steps": 7,
            "report_to": "wandb",
            "warmup_steps": 3,
        }
    )
    file = tmp_path / "axolotl.yaml"
    write_axolotl(file, to_axolotl(config, "edited"), config.project)
    values, left = read_axolotl(file)
    assert left == []
    again = parse_heal({"target_modules": ["all-linear"], **values})
    expected = config.model_copy(
        update={"preferences": "mlabonne/orpo-dpo-mix-40k", **({} if method != "full" else {"rank": 16})}
    )
    assert again == expected
    text = file.read_text(encoding="utf-8")
    assert "--trained" in text
    assert yaml.safe_load(text)["base_model"] == "edited"


def test_the_articles_own_configuration_is_read(tmp_path: Path) -> None:
    """Its keys, in our words; those without a counterpart are named."""
    file = tmp_path / "article.yaml"
    values = {
        "base_model": "mlabonne/Daredevil-8B-abliterated",
        "load_in_4bit": True,
        "rl": "dpo",
        "chat_template": "chatml",
        "datasets": [{"path": "mlabonne/orpo-dpo-mix-40k-flat", "split": "train", "type": "chatml.intel"}],
        "adapter": "qlora",
        "sequence_len": 2048,
        "lora_r": 64,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "lora_target_linear": True,
        "gradient_accumulation_steps": 8,
        "micro_batch_size": 1,
        "num_epochs": 1,
        "optimizer": "paged_adamw_8bit",
        "lr_scheduler": "cosine",
        "learning_rate": 5e-6,
        "gradient_checkpointing": True,
        "flash_attention": True,
        "warmup_steps": 100,
        "weight_decay": 0.0,
        "deepspeed": "deepspeed_configs/zero2.json",
        "wandb_project": "axolotl",
        "lora_mlp_kernel": True,
    }
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    found, left = read_axolotl(file)
    assert left == ["lora_mlp_kernel"]
    usual = HealConfig().model_dump()
    differs = {key: value for key, value in parse_heal(found).model_dump().items() if value != usual[key]}
    assert differs == {
        "preferences": "mlabonne/orpo-dpo-mix-40k-flat",
        "method": "qlora",
        "optimizer": "paged_adamw_8bit",
        "report_to": "wandb",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rl: kto\n", "asks for rl: kto"),
        ("- 1\n", "holds no keys"),
        ("a: [\n", "does not parse"),
        (None, "cannot be read"),
    ],
)
def test_a_configuration_that_cannot_be_followed_is_refused(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "axolotl.yaml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        read_axolotl(file)
