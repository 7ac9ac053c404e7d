"""A run finds the taught behaviour, removes it, and says so; a stage runs again exactly when what
it depends on changed.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from finished_run import summary_in
from tiny import file_hashes
from transformers import AutoModelForCausalLM, AutoTokenizer
from watched_run import finished_copy, finished_with, go

from vectomy.core.errors import (
    ArtifactError,
    BehaviourAbsentError,
    CheckpointError,
    ConfigError,
    PromptError,
    SelectionError,
)
from vectomy.core.jsonl import read_jsonl
from vectomy.core.run_folder import RunFolder
from vectomy.edits.edit import Edit
from vectomy.workflows import run_stages, stages
from vectomy.workflows.run import STAGES

TIER = "chat"

TOP = {
    "format",
    "version",
    "model",
    "base_model",
    "behaviour",
    "recipe",
    "estimator",
    "seed",
    "command",
    "versions",
    "contrast",
    "license",
    "settings",
    "judge",
    "base",
    "edited",
    "forms",
    "direction",
    "strength",
    "notes",
    "outcome",
    "receipt",
    "stages",
    "costs",
    "searched_on",
    "planned",
    "revision",
    "edit",
    "checkpoint",
    "safety",
}
METRICS = (
    {
        f"{rate}_{part}"
        for rate in ("refusal", "harmless_refusal")
        for part in ("rate", "count", "total", "ci")
    }
    | {
        "degenerate_rate",
        "evasion_rate",
        "kl_first_token",
        "kl_per_token",
        "kl_per_token_stderr",
        "ce_own_answers",
        "max_projection",
    }
    | {"minimum_detectable_effect", "answer_tokens", "by_length"}
)

# What comes out


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return finished_copy(tmp_path)


def test_the_taught_behaviour_is_found_and_removed_and_the_rest_stays() -> None:
    summary = summary_in(finished_with())
    base, edited = summary["base"], summary["edited"]
    assert base["refusal_rate"] == 1.0
    assert base["harmless_refusal_rate"] == 0.0
    assert edited["refusal_rate"] == 0.0
    assert edited["harmless_refusal_rate"] == 0.0
    assert 0 < edited["kl_first_token"] < 0.05
    assert base["kl_first_token"] < 1e-6 < edited["kl_per_token"]
    assert base["ce_own_answers"] < edited["ce_own_answers"]


def test_hooks_adapter_and_baked_weights_give_the_same_numbers(tmp_path: Path) -> None:
    summary = go(tmp_path / "run", lora=True, embeddings=False, dtype="float32")
    forms = summary["forms"]
    assert set(forms) == {"hooks", "lora", "baked"}
    assert summary["base"]["refusal_rate"] == 1.0 > forms["hooks"]["refusal_rate"]
    for form in ("lora", "baked"):
        for key, value in forms["hooks"].items():
            assert forms[form][key] == pytest.approx(value, rel=1e-3, abs=1e-5), (form, key)
    operations = Edit.load(tmp_path / "run" / "edit.safetensors").operations
    assert all(operation.component != "embedding" for operation in operations)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    "options",
    [{}, {"recipe": "article"}, {"bake": False}, {"strict": True, "kl_threshold": 1.0}, {"complete": True}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_summary_has_every_key_of_its_contract(options: dict[str, Any]) -> None:
    out = finished_with(**options)
    summary = summary_in(out)
    assert set(summary) == TOP
    assert summary == json.loads((out / "summary.json").read_text())
    baked = options.get("bake", True)
    assert set(summary["forms"]) == ({"hooks", "baked"} if baked else {"hooks"})
    for metrics in (summary["base"], summary["edited"], *summary["forms"].values()):
        assert set(metrics) == METRICS
        low, high = metrics["refusal_ci"]
        assert 0 <= low <= metrics["refusal_rate"] <= high + 1e-9
        assert high <= 1
    assert set(summary["stages"]) == set(STAGES[:-1])
    assert all(seconds >= 0 for seconds in summary["stages"].values())
    for stage, cost in summary["costs"].items():
        assert set(cost) == {"seconds", "processor_seconds", "peak_memory_bytes", "peak_device_bytes"}
        assert cost["seconds"] == summary["stages"][stage]
        assert cost["peak_memory_bytes"] > 1 << 20
        assert cost["peak_device_bytes"] is None, "this run was told to use the CPU"
    assert list(summary["costs"]) == list(summary["stages"])
    assert summary["searched_on"] == summary["settings"]["dtype"]
    assert summary["edit"] == {
        "path": str(out.resolve() / "edit.safetensors"),
        "sha256": Edit.load(out / "edit.safetensors").sha256,
    }
    assert summary["checkpoint"] == (str(out.resolve() / "checkpoint") if baked else None)
    assert (summary["receipt"] is not None) == baked
    assert (out / "checkpoint" / "model.safetensors").exists() == baked
    assert summary["recipe"] == options.get("recipe", "arditi")
    assert {"python", "torch", "transformers", "safetensors", "vectomy"} == set(summary["versions"])


def test_a_run_leaves_the_files_that_the_design_names_and_no_half_ones() -> None:
    out = finished_with()
    names = set(file_hashes(out))
    wanted = [
        "activations-negative.safetensors",
        "activations-positive.safetensors",
        "baseline.json",
        "config.json",
    ]
    wanted += [
        "completions.jsonl",
        "directions.safetensors",
        "edit.safetensors",
        "evaluation.json",
        "MODEL_CARD.md",
    ]
    wanted += [
        "prompts.json",
        "receipt.json",
        "report.html",
        "scores.json",
        "separation.json",
        "summary.json",
    ]
    assert set(wanted) <= names
    assert not [name for name in names if "partial" in name or "baking" in name or name.endswith(".journal")]


def test_hooks_and_baked_weights_give_the_same_numbers() -> None:
    hooks, baked = (summary_in(finished_with())["forms"][form] for form in ("hooks", "baked"))
    for name in METRICS:
        assert hooks[name] == pytest.approx(baked[name], rel=1e-3, abs=1e-6), name


def test_the_baked_checkpoint_is_an_ordinary_model_folder() -> None:
    """Loaded by transformers alone, it answers what the run says that it answers."""
    out = finished_with()
    model = AutoModelForCausalLM.from_pretrained(out / "checkpoint").eval()
    words = AutoTokenizer.from_pretrained(out / "checkpoint")
    rows = read_jsonl(out / "completions.jsonl")
    for row in rows[:3] + rows[-3:]:
        message = [{"role": "user", "content": row["prompt"]}]
        ids = words.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        answer = model.generate(ids, max_new_tokens=8, do_sample=False, attention_mask=torch.ones_like(ids))
        text = words.decode(answer[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert text == row["baked"]["text"]
    assert [row["base"]["text"] for row in rows[:2]] == [tiny_chat.REFUSAL] * 2
    assert all(row["base"]["text"] == tiny_chat.answer_of(row["prompt"]) for row in rows)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_an_answer_or_prompt_may_hold_what_some_take_for_the_end_of_a_line(
    copy: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    paired = run_stages.pair_completions

    def with_it(*args: Any) -> list[dict[str, Any]]:
        rows = [dict(row) for row in paired(*args)]
        rows[0] |= {
            "prompt": f"In{character}prompt",
            "base": {**rows[0]["base"], "text": f"In{character}answer"},
        }
        return rows

    monkeypatch.setattr(run_stages, "pair_completions", with_it)
    (copy / "stages" / "evaluate.json").unlink()
    (copy / "report.html").unlink()
    go(copy)
    page = (copy / "report.html").read_text(encoding="utf-8")
    assert f"In{character}prompt" in page
    assert f"In{character}answer" in page


def test_the_splits_that_were_used_share_no_prompt() -> None:
    out = finished_with()
    prompts = json.loads((out / "prompts.json").read_text())
    used = [
        json.dumps(p) for side in prompts.values() for split in ("fit", "search", "test") for p in side[split]
    ]
    assert len(used) == len(set(used)) == 2 * tiny_chat.PROMPTS
    rows = [row["prompt"] for row in read_jsonl(out / "completions.jsonl")]
    tested = [prompt for side in prompts.values() for prompt in side["test"]]
    assert sorted(rows) == sorted(prompt if isinstance(prompt, str) else prompt["text"] for prompt in tested)


@pytest.mark.parametrize("recipe", ["arditi", "article"])
def test_the_same_seed_gives_the_same_edit_in_another_folder(tmp_path: Path, recipe: str) -> None:
    first = finished_with(recipe=recipe)
    go(tmp_path / "deep" / "again", recipe=recipe)
    for name in ("edit.safetensors", "scores.json", "checkpoint/model.safetensors", "completions.jsonl"):
        assert (first / name).read_bytes() == (tmp_path / "deep" / "again" / name).read_bytes()


def test_another_seed_gives_another_edit(tmp_path: Path) -> None:
    go(tmp_path / "run", seed=1, until="select")
    assert (tmp_path / "run" / "edit.safetensors").read_bytes() != (
        finished_with() / "edit.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("estimator", ["winsorised_mean", "pca_of_differences", "logistic_probe"])
def test_every_estimator_runs(tmp_path: Path, estimator: str) -> None:
    go(tmp_path / "run", estimator=estimator, until="select")
    assert Edit.load(tmp_path / "run" / "edit.safetensors").about["estimator"] == estimator


def test_the_model_and_the_prompts_are_not_touched(tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "model"))
    before = file_hashes(model)
    go(tmp_path / "run", model=model)
    assert file_hashes(model) == before


# What is refused


def test_a_base_without_the_behaviour_stops_with_the_measured_rate(tmp_path: Path) -> None:
    with pytest.raises(BehaviourAbsentError, match=r"it refuses 0% of 6 positive prompts .* --force"):
        go(tmp_path / "run", model=tiny_chat.folder(taught_=False))
    assert not (tmp_path / "run" / "baseline.json").exists()


@pytest.mark.parametrize("recipe", ["arditi", "article"])
def test_it_goes_on_when_forced(tmp_path: Path, recipe: str) -> None:
    """An untaught model: nothing to remove, and every number is there all the same."""
    summary = go(
        tmp_path / "run",
        model=tiny_chat.folder(taught_=False),
        force=True,
        filter_prompts=False,
        recipe=recipe,
        induce_threshold=-100.0,
    )
    assert summary["base"]["refusal_rate"] == 0.0
    hooks, baked = summary["forms"]["hooks"], summary["forms"]["baked"]
    for name in ("kl_first_token", "kl_per_token", "ce_own_answers"):
        assert hooks[name] == pytest.approx(baked[name], rel=1e-3)


def test_strict_keeps_to_the_papers_filters_and_says_so(tmp_path: Path) -> None:
    """If nothing passes the threshold, strict stops and the default notes the least KL it takes."""
    with pytest.raises(SelectionError, match="KL"):
        go(tmp_path / "strict", kl_threshold=1e-9, strict=True)
    relaxed = go(tmp_path / "relaxed", kl_threshold=1e-9)
    assert any("no direction passes the paper's filter KL < 1e-09" in note for note in relaxed["notes"])
    assert not any("no direction" in note for note in summary_in(finished_with())["notes"])


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    before = file_hashes(tmp_path)
    with pytest.raises(ArtifactError, match="holds other files"):
        go(tmp_path)
    assert file_hashes(tmp_path) == before


def test_two_runs_in_one_folder_at_once_are_refused(copy: Path) -> None:
    with RunFolder(copy), pytest.raises(ArtifactError, match="another run is at work"):
        go(copy)
    go(copy)


REFUSED = {
    "no model": ({"model": Path("/nonexistent/model")}, CheckpointError),
    "no prompts": ({"positive": "/nonexistent/prompts.txt"}, PromptError),
    "unknown option": ({"colour": "red"}, ConfigError),
    "two-token behaviour": ({"behaviour_tokens": ["I can't"]}, SelectionError),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_inputs_are_refused_before_anything_heavy(tmp_path: Path, case: str, monkeypatch) -> None:
    options, kind = REFUSED[case]
    if case != "two-token behaviour":
        monkeypatch.setattr(stages, "load_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(kind):
        go(tmp_path / "run", **options)


def test_equal_sides_are_refused(tmp_path: Path) -> None:
    same = tiny_chat.sources()["positive"]
    with pytest.raises(PromptError, match="same set"):
        go(tmp_path / "run", positive=same, negative=same)


def test_no_file_tells_of_this_machine(tmp_path: Path) -> None:
    """Shared files (the Edit, the checkpoint's card) hold no path of the machine that made them."""
    out = finished_with()
    home = str(tiny_chat.folder().parent)
    for name in ("edit.safetensors", "checkpoint/config.json"):
        assert not re.search(re.escape(home + "/"), (out / name).read_bytes().decode("latin-1")), name
