"""`--dry-run` changes nothing, and says what the command itself then does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import published
import pytest
import tiny_chat
from tiny import file_hashes

from vectomy.core.run_config import make_config
from vectomy.core.run_folder import RunFolder
from vectomy.data.trait_file import bundled_traits, load_trait
from vectomy.workflows.run import open_workflow
from vectomy.workflows.run_plan import estimate_workload

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "chat"

QUICK = (
    *("--device", "cpu", "--answer-tokens", "8", "--behaviour-tokens", "I", "--layer-fraction", "1.0"),
    *("--n-search", "4", "--n-test", "4", "--recipe", "arditi"),
)


def words(out: Path, *more: str) -> list[str]:
    sources = tiny_chat.sources()
    sides = ("--positive", sources["positive"], "--negative", sources["negative"])
    return ["run", str(tiny_chat.folder()), "--out", str(out), *sides, *QUICK, *more]


def test_a_dry_run_of_a_run_is_what_the_run_does(tmp_path: Path, vectomy: Vectomy) -> None:
    out = tmp_path / "run"
    status, printed, err = vectomy(*words(out, "--dry-run", "--json"))
    assert status == 0, err
    assert not out.exists()
    planned = json.loads(printed)
    assert (planned["out"], planned["exists"]) == (str(out), False)
    assert not any(stage["done"] for stage in planned["stages"])
    assert any(
        reads.startswith("positive prompts: ") and "4 to test on" in reads for reads in planned["reads"]
    )
    assert vectomy(*words(out, "--yes", "--json"))[0] == 0
    for stage in planned["stages"]:
        assert (out / "stages" / f"{stage['name']}.json").exists()
        assert all((out / name).exists() for name in stage["writes"]), stage
    weights = sum(file.stat().st_size for file in (out / "checkpoint").glob("*.safetensors"))
    # The files have a header, too.
    assert planned["written_bytes"] == pytest.approx(weights, rel=0.1)
    before = file_hashes(out)
    for more, done in (((), True), (("--answer-tokens", "6"), False)):
        again = json.loads(vectomy(*words(out, "--dry-run", "--json", *more))[1])
        assert again["exists"]
        assert again["stages"][0]["done"] == done
    assert file_hashes(out) == before
    text = vectomy(*words(out, "--dry-run"))[1]
    assert "stage 1  baseline: done before" in text
    assert "how      recipe arditi, float32, on cpu, answers of up to 8 tokens\n" in text
    assert text.endswith("nothing was changed (--dry-run)\n")


def test_a_dry_run_names_how_long_the_run_takes_and_nothing_twice(tmp_path: Path, vectomy: Vectomy) -> None:
    status, text, err = vectomy(*words(tmp_path / "run", "--dry-run", "--recipe", "gradient"))
    assert status == 0, err
    assert re.search(r"recipe gradient, float32, on cpu, .*, about \d+ (s|min) \(an estimate", text)
    sizes = re.findall(r"[\d.]+ [KM]iB", text)
    assert len(sizes) == len(set(sizes)) == 2
    assert text.count("4 to test on") == 2
    assert "+ 4" not in text


def test_a_plan_counts_the_prompts_that_the_run_would_take(tmp_path: Path) -> None:
    sources = tiny_chat.sources()
    options = {"positive": sources["positive"], "negative": sources["negative"], "n_fit": 8, "n_test": 4}
    config = make_config(str(tiny_chat.folder()), options)
    work = open_workflow(config, RunFolder(tmp_path / "run"))
    work.prepare()
    assert work.planned is not None
    planned = estimate_workload(config, tiny_chat.folder())
    assert planned == work.planned.work
    assert (planned.fit, planned.test) == (8, 4)
    # Prompts of the Hub are not fetched for a plan.
    usual = estimate_workload(make_config("owner/name", {"n_fit": 8, "answer_tokens": 16}), tmp_path)
    assert (usual.fit, usual.search, usual.answer_tokens) == (8, 32, 16)


@pytest.mark.parametrize("recipe", ["arditi", "cosmic", "article", "selective"])
def test_a_plan_refuses_a_recipe_that_it_cannot_count(recipe: str, vectomy: Vectomy) -> None:
    status, _, err = vectomy("plan", str(tiny_chat.folder()), "--recipe", recipe)
    assert status == 2
    assert f"the work of recipe {recipe} is not counted" in " ".join(err.split())


def test_traits_are_a_line_each_and_one_is_shown_with_what_it_does_to_safety(vectomy: Vectomy) -> None:
    _, listed, _ = vectomy("traits")
    traits = [load_trait(name) for name in bundled_traits()]
    assert len(listed.splitlines()) == len(traits) + 2
    for trait in traits:
        assert trait.safety not in listed
        assert trait.safety in vectomy("traits", trait.name)[1]
    assert json.loads(vectomy("traits", "emoji", "--json")[1])[0]["name"] == "emoji"
    assert vectomy("traits", "emojy")[0] != 0


def test_settings_of_a_file_that_a_trait_ignores_are_named(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ("run", str(tiny_chat.folder()), "--trait", "emoji", "--device", "cpu", "--dry-run")
    for text, said in (
        ("[run]\n[run.contrast.positive]\n", None),
        ("[run]\nseed = 3\n[run.contrast]\nn_fit = 9\n", "seed, contrast.n_fit of the file are not used"),
    ):
        (tmp_path / "vectomy.toml").write_text(text, encoding="utf-8")
        err = " ".join(vectomy(*command)[2].split())
        assert said in err if said else "not used" not in err


@pytest.mark.parametrize(("form", "known"), [("checkpoint", True), ("lora", False), ("gguf-lora", False)])
def test_a_dry_run_of_apply_names_model_edit_and_size(
    form: str, known: bool, tmp_path: Path, vectomy: Vectomy
) -> None:
    run, base, out = published.finished(), published.base(), tmp_path / "edited"
    command = ("apply", str(run), str(base), "--out", str(out), "--as", form)
    status, printed, err = vectomy(*command, "--dry-run", "--json")
    assert status == 0, err
    assert not out.exists()
    planned = json.loads(printed)
    assert (planned["written_bytes"] is not None) == known
    assert any("operations" in reads for reads in planned["reads"])
    if form == "checkpoint":
        assert vectomy(*command, "--no-verify")[0] == 0
        weights = sum(file.stat().st_size for file in out.glob("*.safetensors"))
        assert planned["written_bytes"] == pytest.approx(weights, rel=0.1)


def test_a_dry_run_stops_where_the_command_would(tmp_path: Path, vectomy: Vectomy) -> None:
    run, out = published.finished(), tmp_path / "edited"
    status, _, err = vectomy("apply", str(run), str(run / "checkpoint"), "--out", str(out), "--dry-run")
    assert status == 1
    assert "Use the base it was made for" in err
    status, _, err = vectomy(*words(out, "--dry-run", "--positive", "none.txt"))
    assert status == 1
    assert "none.txt" in err
    assert not out.exists()


def test_a_dry_run_of_heal_lists_its_stages_and_deletes_nothing(tmp_path: Path, vectomy: Vectomy) -> None:
    out, sources = tmp_path / "healed", tiny_chat.sources()
    (out / "kept").mkdir(parents=True)
    held_out = ("--positive-test", sources["positive"], "--negative-test", sources["negative"])
    command = (
        *("heal", str(published.finished()), "--out", str(out), "--preferences", "own", *held_out),
        *("--prompts", sources["negative"], "--device", "cpu", "--answer-tokens", "8", "--test-limit", "4"),
    )
    status, printed, err = vectomy(*command, "--restart", "--dry-run", "--json")
    assert status == 0, err
    planned = json.loads(printed)
    names = ["edited", "rows", "train", "merge", "measure", "report"]
    assert [stage["name"] for stage in planned["stages"]] == names
    assert planned["written_bytes"] > 0
    assert [path.name for path in out.iterdir()] == ["kept"]


@pytest.mark.parametrize("model", ["owner/nothing", "demo"])
def test_a_dry_run_fetches_and_builds_no_model(
    model: str, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("VECTOMY_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out, edit = tmp_path / "out", str(published.finished())
    edit = str(Path(edit) / "edit.safetensors")
    for words in (
        ("run", model, "--out", str(out)),
        ("apply", edit, model, "--out", str(out)),
        ("heal", model, "--edit", edit, "--out", str(out)),
    ):
        status, printed, err = vectomy(*words, "--dry-run", "--json")
        assert status == 0, (words, err)
        assert json.loads(printed)["reads"][0].startswith(f"{model}: ")
        assert not out.exists()
        assert not cache.exists()
