"""One model is in memory at a time: whatever loads another has let go of the one before."""

import json
from pathlib import Path

import pytest
import tiny_chat
import tiny_style
from alive_models import counting_layerwise_models, counting_models
from healed import QUICK
from tiny import orthonormal
from trait_runs import trait

from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import parse_heal
from vectomy.workflows.heal.heal_model import heal_model
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import make_trait_run

TIER = "chat"
pytestmark = pytest.mark.usefixtures("unchecked")

SMALL = {"n_fit": 24, "n_search": 8, "n_test": 8, "answer_tokens": 8, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module", autouse=True)
def _taught() -> None:
    tiny_chat.folder()
    tiny_style.folder()


def test_a_run_that_bakes_and_writes_an_adapter_holds_one_model(tmp_path: Path) -> None:
    options = {**tiny_chat.sources(), **SMALL, "recipe": "arditi", "layer_fraction": 1.0, "lora": True}
    with counting_models() as alive:
        run(str(tiny_chat.folder()), tmp_path / "run", **options)
    assert alive == [0, 0]


def test_a_run_larger_than_memory_holds_one_model(tmp_path: Path) -> None:
    """The baked model is measured against the base's openings, without the base."""
    options = {**tiny_chat.sources(), **SMALL, "recipe": "gradient", "steps": 4, "max_memory": "1MB"}
    with counting_layerwise_models() as alive:
        run(str(tiny_chat.folder()), tmp_path / "run", **options)
    assert alive == [0, 0, 0]


@pytest.mark.parametrize(("scorer", "loads"), [("lexicon", 2), ("log_odds", 3)])
def test_a_trait_run_that_bakes_holds_one_model(tmp_path: Path, scorer: str, loads: int) -> None:
    """The log-odds of the baked model's answers are those of the base, which is loaded again."""
    changed = {} if scorer == "lexicon" else {"scorer": {"kind": "log_odds"}}
    config = make_trait_run(str(tiny_style.folder()), trait(**changed), {**SMALL, "steps": 20, "bake": True})
    with counting_models() as alive:
        run(config, tmp_path / "run", command="vectomy run")
    assert alive == [0] * loads


def test_healing_holds_one_model(tmp_path: Path) -> None:
    day, night = tiny_chat.texts(tiny_chat.DAY), tiny_chat.texts(tiny_chat.NIGHT)
    sets = {"prompts": day[:8], "negative_test": day[40:46], "positive_test": night[:6]}
    for name, texts in sets.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    sources = {name: str(tmp_path / f"{name}.json") for name in sets}
    short = {"preferences": "own", "own_tokens": 8, "answer_tokens": 8, "objective": "sft", "micro_batch": 4}
    edit = Edit.ablation(tiny_chat.folder(), orthonormal(8), about={"behaviour": "refusal"})
    with counting_models() as alive:
        heal_model(
            str(tiny_chat.folder()), tmp_path / "out", parse_heal({**QUICK, **sources, **short}), edit=edit
        )
    assert len(alive) >= 5
    assert not any(alive)
