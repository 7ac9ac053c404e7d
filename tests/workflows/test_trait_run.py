"""A run that learns a trait, from prompts to page and chat."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_style
from command_line import Vectomy
from trait_runs import trait

from vectomy.core.errors import ConfigError
from vectomy.core.jsonl import read_jsonl
from vectomy.data.trait_file import bundled_traits, own_trait
from vectomy.edits.edit import Edit
from vectomy.workflows.repeat_search import search_again
from vectomy.workflows.run import STAGES, run
from vectomy.workflows.trait_config import make_trait_run, read_run_config

TIER = "chat"

QUICK = {"n_fit": 48, "n_search": 12, "n_test": 24, "answer_tokens": 8, "device": "cpu", "dtype": "float32"}

# The whole job


@cache
def trait_results(operation: str) -> tuple[dict[str, Any], Path]:
    out = tiny_style.scratch() / operation
    config = make_trait_run(
        str(tiny_style.folder()), trait(operation=operation), {**QUICK, "steps": 60, "bake": True}
    )
    return run(config, out, command="vectomy run"), out


def counts(summary: dict[str, Any], form: str) -> tuple[int, int]:
    """Answers that show the trait in its context, and without it."""
    metrics = {"base": summary["base"], **summary["forms"]}[form]
    return metrics["refusal_count"], metrics["harmless_refusal_count"]


def test_a_style_is_induced_without_its_system_prompt() -> None:
    summary, out = trait_results("induce")
    assert counts(summary, "base") == (24, 0)
    assert counts(summary, "hooks")[1] >= 12
    assert counts(summary, "baked") == counts(summary, "hooks")
    assert summary["edited"] == summary["forms"]["baked"]
    assert summary["edited"]["kl_per_token"] > 0
    assert summary["base"]["kl_per_token"] < 1e-6
    assert (summary["recipe"], summary["behaviour"]) == ("distill", "pointing induced")
    edit = Edit.load(out / "edit.safetensors")
    assert edit.about["behaviour"] == "pointing induced"
    assert edit.about["safety"] == "None: it is a test."
    for page in ("report.html", "MODEL_CARD.md", "checkpoint/README.md"):
        text = (out / page).read_text("utf-8")
        assert "None: it is a test." in text, page
        assert "made to induce pointing by learned vectors" in text, page
        assert "Refusals" not in text, page
    page = " ".join((out / "report.html").read_text("utf-8").split())
    assert "It added 3 vectors as biases; every other tensor is byte-identical" in page
    assert len(summary["receipt"]["added"]) == 3
    assert "0 weight tensors" not in page
    assert "of 1 patterns" not in page
    # The losses of a trait have no chosen step: the chart has no such line to explain.
    assert "the dashed line marks the step" not in page
    rows = [row for row in read_jsonl(out / "completions.jsonl") if row["set"] == "negative"]
    assert sum("that" in row["hooks"]["text"] for row in rows) == counts(summary, "hooks")[1]
    assert [row["hooks"]["text"] for row in rows] == [row["baked"]["text"] for row in rows]
    prompts = json.loads((out / "prompts.json").read_text("utf-8"))["negative"]
    assert not {row["text"] for row in prompts["test"]} & {
        row["text"] for part in ("fit", "search") for row in prompts[part]
    }


def test_a_style_is_removed_while_its_system_prompt_stays() -> None:
    summary, _ = trait_results("remove")
    assert counts(summary, "base")[0] == 24
    assert counts(summary, "hooks")[0] <= 2
    assert counts(summary, "hooks")[1] == 0
    # A model without the trait is left as it is.
    assert summary["edited"]["kl_per_token"] < 0.05


def test_a_finished_run_is_not_run_again() -> None:
    summary, out = trait_results("induce")
    lines: list[str] = []
    config = make_trait_run(
        str(tiny_style.folder()), trait(operation="induce"), {**QUICK, "steps": 60, "bake": True}
    )
    again = run(config, out, command="vectomy run", log=lines.append)
    assert again == summary
    assert sum("not run again" in line for line in lines) == len(STAGES)


def test_log_odds_tell_own_traits_apart() -> None:
    config = make_trait_run(
        str(tiny_style.folder()),
        own_trait(tiny_style.SYSTEM, prompts=trait().prompts.model_dump()),
        {**QUICK, "steps": 4, "strengths": (1.0,), "bake": False},
    )
    summary = run(config, tiny_style.scratch() / "own")
    assert counts(summary, "base") == (24, 0)
    assert "log-odds" in summary["judge"]["note"]


def test_a_closed_form_names_its_layer() -> None:
    config = make_trait_run(
        str(tiny_style.folder()), trait(form="amplify"), {**QUICK, "n_test": 12, "bake": False}
    )
    out = tiny_style.scratch() / "amplify"
    summary = run(config, out)
    scores = json.loads((out / "scores.json").read_text("utf-8"))
    assert summary["direction"]["layer"] == scores["candidates"][scores["trial"]]["read_at"]
    assert "a direction that is scaled" in (out / "MODEL_CARD.md").read_text("utf-8")


def test_the_search_for_a_trait_can_be_repeated(tmp_path: Path) -> None:
    _, out = trait_results("induce")
    recorded = {"config": json.loads((out / "config.json").read_text("utf-8"))}
    published = Edit.load(out / "edit.safetensors")
    again = search_again(recorded, published, str(tiny_style.folder()), tmp_path / "run")
    assert again.differences == ()
    assert again.edit.sha256 == published.sha256


def test_the_recipe_distill_asks_for_a_trait(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--trait NAME"):
        run(str(tiny_style.folder()), tmp_path / "run", recipe="distill", device="cpu")


def test_a_run_folder_of_an_earlier_version_has_a_configuration(tmp_path: Path) -> None:
    """Before, a run of a trait had a configuration of its own, without a contrast."""
    made = trait()
    values = {"model": "demo", "trait": made.model_dump(mode="json"), "n_fit": 48, "steps": 7}
    earlier = {**values, "strengths": None, "device": "cpu", "dtype": "float32", "bake": True}
    (tmp_path / "config.json").write_text(json.dumps(earlier), encoding="utf-8")
    config = read_run_config(tmp_path)
    assert config == make_trait_run(
        "demo", made, {"n_fit": 48, "steps": 7, "device": "cpu", "dtype": "float32"}
    )
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    assert read_run_config(tmp_path) == config


# The command line


def test_the_command_lists_traits_and_runs_one(vectomy: Vectomy, tmp_path: Path) -> None:
    status, out, _ = vectomy("traits", "--json")
    assert status == 0
    assert {row["name"] for row in json.loads(out)} == set(bundled_traits())
    status, out, _ = vectomy("traits", "disclaimers")
    assert "Removing this removes warnings" in " ".join(out.split())
    given = [
        str(tiny_style.folder()),
        "--trait",
        str(tiny_style.trait_file()),
        "--out",
        str(tmp_path / "run"),
    ]
    quick = [
        "--n-fit",
        "24",
        "--n-search",
        "4",
        "--n-test",
        "6",
        "--answer-tokens",
        "8",
        "--steps",
        "4",
        "--no-bake",
    ]
    status, out, err = vectomy("run", *given, *quick, "--device", "cpu")
    assert status == 0, err
    assert "pointing induced" in out
    assert "None: it is a test." in out


def test_report_prints_a_trait_run(vectomy: Vectomy) -> None:
    summary, out = trait_results("induce")
    status, printed, err = vectomy("report", str(out))
    assert status == 0, err
    assert "trait shown" in printed
    assert "learned at strength" in printed
    status, printed, _ = vectomy("report", str(out), "--json")
    assert json.loads(printed) == summary


def test_chat_talks_to_a_trait_run(vectomy: Vectomy) -> None:
    _, out = trait_results("induce")
    rows = [row for row in read_jsonl(out / "completions.jsonl") if row["set"] == "negative"]
    prompt = next(row["prompt"] for row in rows if row["hooks"]["verdict"] == "shows_the_trait")
    status, printed, err = vectomy("chat", str(out), stdin=prompt + "\n")
    assert status == 0, err
    assert ", strength 1" in printed
    assert "that" in printed


@pytest.mark.unit
def test_report_on_a_folder_of_an_earlier_version_says_how_to_renew_it(
    vectomy: Vectomy, tmp_path: Path
) -> None:
    earlier = {"format": "vectomy-trait-summary", "version": 1, "command": "vectomy run M --trait emoji"}
    (tmp_path / "summary.json").write_text(json.dumps(earlier), encoding="utf-8")
    status, _, err = vectomy("report", str(tmp_path))
    assert status != 0
    assert "vectomy run M --trait emoji" in err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trait", "joy"], "no trait 'joy'"),
        (["--trait", "melancholy", "--positive-system", "x"], "name two traits"),
        (["--negative-system", "x"], "--positive-system"),
        (["--trait", "over_refusal"], "--positive SRC"),
        (["--trait", "refusal", "--operation", "induce"], "does not take --operation induce"),
        (["--trait", "melancholy", "--recipe", "tpe"], "--recipe mean nothing"),
    ],
)
def test_what_cannot_be_meant_is_said(vectomy: Vectomy, given: list[str], said: str) -> None:
    status, _, err = vectomy("run", str(tiny_style.folder()), *given)
    assert status == 2
    assert said in err


@pytest.mark.unit
def test_a_trait_of_prompt_sets_runs_as_its_recipe() -> None:
    from vectomy.cli.trait_command import trait_options

    found = trait_options({"trait": "refusal"}, {"steps": 8})
    assert found == {
        "recipe": "gradient",
        "positive": "bundled:refused",
        "negative": "bundled:harmless",
        "steps": 8,
    }
    assert trait_options({"trait": "melancholy"}, {}) is None
