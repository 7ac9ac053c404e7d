"""A trait on the demo model's base: what tells its two contexts apart, and that a short run moves the one towards the other."""

import re
from pathlib import Path

import pytest

from vectomy.demo import model_folder
from vectomy.traits import load_trait
from vectomy.traits.config import make_trait_run
from vectomy.traits.running import run_trait

pytestmark = pytest.mark.demo

QUICK = {"n_fit": 20, "n_search": 2, "n_test": 12, "answer_tokens": 24, "steps": 12, "strengths": (1.0,), "bake": False}


def test_melancholy_moves_from_its_system_prompt_into_the_model(tmp_path: Path) -> None:
    assert (
        re.match(r"demo-base-\w+", model_folder("demo-base").name)
        or (model_folder("demo-base") / "config.json").exists()
    )
    config = make_trait_run("demo-base", load_trait("melancholy"), {**QUICK, "dtype": "bfloat16"})
    summary = run_trait(config, tmp_path / "run")
    shown = {form["name"]: form["shown"]["count"] for form in summary["forms"]}
    assert shown["base"] == 0
    assert shown["base in the positive context"] >= 8
    # Twelve steps are few; what they do goes the right way, and is no noise.
    assert shown["edited"] >= 1 or summary["damage"]["kl_first_token"] > 0.1
    assert "in distress" in summary["safety"]
