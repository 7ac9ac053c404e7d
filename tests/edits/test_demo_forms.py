"""One Edit of the real demo model in all its forms: as hooks, as an adapter, merged, and baked,
with the same numbers.

In float32, in which forms that are the same function agree to rounding; bfloat16 rounds each of
them differently.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from vectomy import Edit, bake
from vectomy.core.progress import silent
from vectomy.core.run_config import make_config
from vectomy.data.splits import split_contrast
from vectomy.edits.export import write_lora
from vectomy.metrics.judges import JUDGES
from vectomy.metrics.variants import BaseAnswers, VariantResult, answer_base, evaluate_variant
from vectomy.models import ChatModel, load_model
from vectomy.models.demo import demo_folder

TIER = "demo"


PROMPTS, BUDGET = 3, (8, 4096, silent)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float32")
    AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo_folder()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def edit(base: Path) -> Edit:
    """Along the difference of the two sides' means at two thirds of the depth."""
    chat = load_model(base, device="cpu")
    sides = [chat.tokens(side.fit[:8]) for side in split_contrast(make_config("demo", {}).contrast)]
    means = []
    for tokens in sides:
        (batch,) = chat.batches(tokens, 1 << 16)
        with torch.no_grad():
            states = chat.model(**batch.inputs(), output_hidden_states=True).hidden_states
        means.append(states[20][:, -1].mean(0))
    return Edit.ablation(base, means[0] - means[1], embeddings=False)


@pytest.fixture(scope="module")
def asked(base: Path) -> tuple[ChatModel, BaseAnswers]:
    chat = load_model(base, device="cpu")
    positive, negative = (side.test[:PROMPTS] for side in split_contrast(make_config("demo", {}).contrast))
    return chat, answer_base(chat, positive, negative, *BUDGET)


def numbers(chat: ChatModel, base: BaseAnswers, edit: Edit, form: str) -> dict[str, Any]:
    found: VariantResult = evaluate_variant(
        chat, base, JUDGES["refusal"](), *BUDGET, form=form, direction=edit.operations[0].basis[0]
    )
    return found.metrics.to_json()


def test_every_form_gives_the_same_numbers(
    base: Path, edit: Edit, asked: tuple[ChatModel, BaseAnswers], tmp_path: Path
) -> None:
    chat, questions = asked
    before = numbers(chat, questions, edit, "base")
    with edit.hooks(chat.model):
        hooks = numbers(chat, questions, edit, "hooks")
    assert hooks["kl_per_token"] > 1e-3 > before["kl_per_token"]
    assert hooks["max_projection"] < before["max_projection"]

    bake(edit, base, tmp_path / "baked")
    baked = numbers(load_model(tmp_path / "baked", device="cpu"), questions, edit, "baked")
    write_lora(edit, base, tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(load_model(base, device="cpu").model, str(tmp_path / "adapter"))
    live = numbers(replace(chat, model=adapted.base_model.model), questions, edit, "lora")
    merged = numbers(replace(chat, model=adapted.merge_and_unload()), questions, edit, "merged")
    for form in (baked, live, merged):
        assert form == {
            key: value if value is None else pytest.approx(value, rel=1e-3, abs=1e-5)
            for key, value in hooks.items()
        }
