"""Nothing of another start slips into a run: what changed between two starts is read anew, wherever
the first was cut.

Also what is refused before anything is done: weights that are not all there or not numbers, a run
folder in the model.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from safetensors.torch import load_file, save_file
from tiny import file_hashes

from vectomy.core.errors import ActivationError, ArchitectureError, ArtifactError, CheckpointError
from vectomy.metrics.variants import evaluate_variant
from vectomy.workflows import run_stages
from vectomy.workflows.run import run

TIER = "chat"
# Whole runs with checked signatures are those of test_run.py and test_evaluation.py.
pytestmark = pytest.mark.usefixtures("unchecked")

SHORT = {"device": "cpu", "answer_tokens": 8, "behaviour_tokens": ["I"], "drop_overlap": True}
# In neither of the tiny chat's sets; the first are refused, the second, as many, are not.
EARLIER = ["show the owl", "show the bat", "name the owl", "name the bat"]
LATER = ["show the bee", "show the sun", "name the bee", "name the sun"]
WEIGHTS = "model.safetensors"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_chat.folder(), tmp_path / "model"))


def go(model: Path, out: Path, **options: Any) -> dict[str, Any]:
    return run(str(model), out, **{**tiny_chat.sources(), **SHORT, **options})


def write(path: Path, prompts: list[str]) -> str:
    path.write_text(json.dumps(prompts), encoding="utf-8")
    return str(path)


def change_weights(model: Path, change: Any) -> None:
    tensors = load_file(model / WEIGHTS)
    change(tensors)
    save_file(tensors, model / WEIGHTS, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def before_evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the earlier prompts up to its evaluation."""
    folder = tmp_path_factory.mktemp("earlier")
    options = {"positive_test": write(folder / "test.json", EARLIER)}
    go(tiny_chat.folder(), folder / "run", until="apply", **options)
    return folder


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Summary and answers of a run that has seen the later prompts alone."""
    folder = tmp_path_factory.mktemp("later")
    options = {"positive_test": write(folder / "test.json", LATER)}
    summary = go(tiny_chat.folder(), folder / "run", **options)
    return summary, (folder / "run" / "completions.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("cut_at", ["base", "hooks", "baked"])
def test_answers_to_old_test_prompts_are_not_taken_for_the_new_ones(
    before_evaluation: Path,
    fresh: tuple[dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cut_at: str,
) -> None:
    """Evaluation cut off, the test file rewritten with as many other prompts, the same command
    again.
    """

    def cut(*args: Any, form: str, **more: Any) -> Any:
        if form == cut_at:
            raise KeyboardInterrupt
        return evaluate_variant(*args, form=form, **more)

    folder = Path(shutil.copytree(before_evaluation, tmp_path / "earlier"))
    file = folder / "test.json"
    options, lines = {"positive_test": str(file)}, list[str]()
    monkeypatch.setattr(run_stages, "evaluate_variant", cut)
    with pytest.raises(KeyboardInterrupt):
        go(tiny_chat.folder(), folder / "run", log=lines.append, **options)
    assert [line for line in lines if line.startswith("apply: done before")]
    assert (folder / "run" / "stages" / "evaluate.journal").exists()
    monkeypatch.setattr(run_stages, "evaluate_variant", evaluate_variant)
    write(file, LATER)
    resumed = go(tiny_chat.folder(), folder / "run", **options)
    assert resumed["forms"] == fresh[0]["forms"]
    assert resumed["base"] == fresh[0]["base"]
    assert (folder / "run" / "completions.jsonl").read_text(encoding="utf-8") == fresh[1]


def test_another_chat_template_reruns_everything(model: Path, tmp_path: Path) -> None:
    go(model, tmp_path / "run")
    template = model / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    told: list[str] = []
    go(model, tmp_path / "run", log=told.append, overwrite=True)
    assert not [line for line in told if "not run again" in line]
    assert (tmp_path / "run" / "checkpoint" / template.name).read_bytes() == template.read_bytes()


def test_a_checkpoint_that_was_deleted_comes_back_with_its_card(model: Path, tmp_path: Path) -> None:
    (model / "README.md").write_text("# The base\n", encoding="utf-8")
    go(model, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    go(model, tmp_path / "run")
    card = (tmp_path / "run" / "checkpoint" / "README.md").read_text(encoding="utf-8")
    assert "refusal" in card
    assert "# The base" not in card


def test_a_later_run_without_baking_leaves_no_checkpoint_of_another_edit(model: Path, tmp_path: Path) -> None:
    go(model, tmp_path / "run")
    summary = go(model, tmp_path / "run", bake=False, overwrite=True)
    assert summary["checkpoint"] is None
    assert summary["receipt"] is None
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_missing_weight_is_named_and_not_filled_with_random_numbers(model: Path, tmp_path: Path) -> None:
    change_weights(model, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        go(model, tmp_path / "run")


def test_a_scale_beside_a_weight_is_no_plain_weight(model: Path, tmp_path: Path) -> None:
    scale = {"model.layers.0.self_attn.o_proj.weight_scale": torch.ones(1)}
    change_weights(model, lambda tensors: tensors.update(scale))
    with pytest.raises(ArchitectureError, match="weight_scale' is not known"):
        go(model, tmp_path / "run")


def test_a_quantised_model_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "aqlm"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ArchitectureError, match=r"quantised .*'aqlm'.*bfloat16"):
        go(model, tmp_path / "run")


def test_nan_weights_are_said_to_be_nan_and_not_a_model_without_the_behaviour(
    model: Path, tmp_path: Path
) -> None:
    change_weights(model, lambda tensors: tensors["model.layers.2.mlp.down_proj.weight"].fill_(torch.nan))
    with pytest.raises(ActivationError, match="NaN"):
        go(model, tmp_path / "run")


def test_a_run_folder_inside_the_model_is_refused_and_nothing_is_written_there(model: Path) -> None:
    before = file_hashes(model)
    for out in (model, model / "runs" / "x"):
        with pytest.raises(ArtifactError, match="input is never touched"):
            go(model, out)
    assert file_hashes(model) == before
    assert not (model / "runs").exists()
