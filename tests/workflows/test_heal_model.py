"""`vectomy heal` from end to end on a damaged tiny chat model, and its bad inputs."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import yaml
from healed import QUICK, curve, damaged, edit, quick, trained
from integer_folder import integer_folder
from interrupted import interrupting
from quantised_folder import quantised
from tiny import file_hashes, orthonormal

from vectomy.cli import main
from vectomy.core.errors import FingerprintError, FinishedRunError, ModelError, PromptError, UsageError
from vectomy.core.jsonl import read_jsonl
from vectomy.core.progress import silent
from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import parse_heal
from vectomy.report import render_healing
from vectomy.workflows.heal.heal_inputs import open_inputs
from vectomy.workflows.heal.heal_measurements import MODELS
from vectomy.workflows.heal.heal_model import heal_model

TIER = "chat"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prompts to learn from, and others to measure on."""
    folder = tmp_path_factory.mktemp("sources")
    day, night = tiny_chat.texts(tiny_chat.DAY), tiny_chat.texts(tiny_chat.NIGHT)
    made = {"prompts": day[:40], "negative_test": day[40:60], "positive_test": night[:20]}
    for name, texts in made.items():
        (folder / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    return {name: str(folder / f"{name}.json") for name in made}


def options(sources: dict[str, str], **more: Any) -> dict[str, Any]:
    return {
        **QUICK,
        **sources,
        "preferences": "own",
        "own_tokens": 10,
        "answer_tokens": 10,
        "epochs": 3.0,
        "micro_batch": 4,
        **more,
    }


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Edit that does damage, as a file: it takes a quarter of the stream."""
    file = tmp_path_factory.mktemp("edit") / "edit.safetensors"
    Edit.ablation(tiny_chat.folder(), orthonormal(8), about={"behaviour": "refusal"}).save(file)
    return file


@pytest.fixture(scope="module")
def healed_folder(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, str], strong: Path) -> Path:
    out = tmp_path_factory.mktemp("healed") / "out"
    heal_model(
        str(tiny_chat.folder()),
        out,
        parse_heal(options(sources, objective="sft", save_steps=10)),
        edit=Edit.load(strong),
    )
    return out


def test_learning_the_bases_own_answers_takes_back_what_the_edit_cost(healed_folder: Path) -> None:
    summary = json.loads((healed_folder / "summary.json").read_text(encoding="utf-8"))
    base, edited, healed = (summary["measures"][name] for name in MODELS)
    assert base["kl_per_token"] < 1e-4 < edited["kl_per_token"]
    assert healed["kl_per_token"] < 0.5 * edited["kl_per_token"]
    assert healed["ce_own_answers"] - base["ce_own_answers"] < 0.5 * (
        edited["ce_own_answers"] - base["ce_own_answers"]
    )
    assert summary["outcome"]["recovered"]["kl_per_token"] == pytest.approx(
        1 - (healed["kl_per_token"] - base["kl_per_token"]) / (edited["kl_per_token"] - base["kl_per_token"])
    )
    assert summary["judge"]["name"] == "refusal"
    assert summary["training"]["steps"] == 30


def test_the_receipt_of_the_healed_checkpoint_is_measured(healed_folder: Path) -> None:
    receipt = json.loads((healed_folder / "receipt.json").read_text(encoding="utf-8"))
    assert receipt["projected"]
    assert receipt["learned_along"] < 1e-5
    assert (receipt["writers"], receipt["learned_in"]) == (9, 8)
    assert receipt["verified"]["failures"] == []
    assert receipt["verified"]["max_projection"] < 1e-4


def test_healing_that_is_kept_out_is_no_worse_than_plain_healing(
    tmp_path: Path, healed_folder: Path, sources: dict[str, str], strong: Path
) -> None:
    config = parse_heal(options(sources, objective="sft", save_steps=10, project=False))
    plain = heal_model(str(tiny_chat.folder()), tmp_path / "out", config, edit=Edit.load(strong))
    held = json.loads((healed_folder / "summary.json").read_text(encoding="utf-8"))
    shares = {
        name: [one["outcome"]["recovered"][name] for one in (held, plain)]
        for name in ("kl_per_token", "ce_own_answers")
    }
    for name, (kept, free) in shares.items():
        assert kept > free - 0.05, (name, shares)
    assert plain["receipt"]["learned_along"] > 0.05
    assert plain["receipt"]["verified"]["failures"] or plain["receipt"]["verified"]["max_projection"] > 0.01


def test_nothing_is_learned_on_a_prompt_that_is_measured_on(
    healed_folder: Path, sources: dict[str, str]
) -> None:
    learned = [row["messages"][-1]["content"] for row in read_jsonl(healed_folder / "preferences.jsonl")]
    assert set(learned) == set(json.loads(Path(sources["prompts"]).read_text(encoding="utf-8")))
    assert not set(learned) & set(json.loads(Path(sources["negative_test"]).read_text(encoding="utf-8")))


def test_the_page_has_the_table_the_curve_and_the_answers(healed_folder: Path) -> None:
    page = (healed_folder / "report.html").read_text(encoding="utf-8")
    for text in (
        "before edit",
        "after edit",
        "after healing",
        "KL per token",
        "Loss by step",
        "<svg",
        "did not measurably bring back",
    ):
        assert text in page, text
    assert "http://" not in page.replace("http://www.w3.org", "")
    head = page[page.index("<thead>") : page.index("</thead>")]
    assert head.index("before edit") < head.index("after edit") < head.index("after healing")
    assert render_healing({}, [])


def test_a_second_call_does_nothing_twice_and_an_edited_setting_only_what_depends_on_it(
    healed_folder: Path, sources: dict[str, str], strong: Path
) -> None:
    told: list[str] = []
    before = file_hashes(healed_folder / "training" / "adapter")
    config = parse_heal(options(sources, objective="sft", save_steps=10, answer_tokens=6))
    whole = file_hashes(healed_folder)
    with pytest.raises(FinishedRunError, match="answer_tokens: 10 -> 6"):
        heal_model(str(tiny_chat.folder()), healed_folder, config, edit=Edit.load(strong))
    assert file_hashes(healed_folder) == whole
    heal_model(
        str(tiny_chat.folder()),
        healed_folder,
        config,
        edit=Edit.load(strong),
        overwrite=True,
        log=told.append,
    )
    reused = [line.partition(":")[0] for line in told if "done before" in line]
    assert reused == ["edited", "rows", "train", "merge"]
    assert file_hashes(healed_folder / "training" / "adapter") == before


def test_the_input_is_not_touched_and_the_result_is_a_plain_model_folder(healed_folder: Path) -> None:
    names = {path.name for path in (healed_folder / "checkpoint").iterdir()}
    assert {"config.json", "tokenizer.json"} <= names
    assert any(name.endswith(".safetensors") for name in names)


def test_a_killed_command_goes_on_to_the_same_bytes(
    tmp_path: Path, sources: dict[str, str], strong: Path, healed_folder: Path
) -> None:
    config = parse_heal(options(sources, objective="sft", save_steps=10))

    def killed(what: str, total: int, unit: str = "") -> Any:
        return interrupting(17 if what == "training" else 10**9)(what, total, unit)

    with pytest.raises(KeyboardInterrupt):
        heal_model(str(tiny_chat.folder()), tmp_path / "out", config, edit=Edit.load(strong), progress=killed)
    heal_model(str(tiny_chat.folder()), tmp_path / "out", config, edit=Edit.load(strong), until="merge")
    assert curve(tmp_path / "out" / "training") == curve(healed_folder / "training")
    hashes = [file_hashes(folder / "checkpoint") for folder in (tmp_path / "out", healed_folder)]
    # The card has what was measured, which comes after the merge.
    assert hashes[1].pop("README.md")
    assert hashes[0] == hashes[1]


def test_pairs_against_the_edited_models_answers_heal_by_dpo(
    tmp_path: Path, sources: dict[str, str], strong: Path
) -> None:
    summary = heal_model(
        str(tiny_chat.folder()),
        tmp_path / "out",
        parse_heal(options(sources, objective="dpo", learning_rate=5e-3)),
        edit=Edit.load(strong),
    )
    row = read_jsonl(tmp_path / "out" / "preferences.jsonl")[0]
    assert row["chosen"]["content"] != row["rejected"]["content"]
    assert row["chosen"]["content"] == tiny_chat.answer_of(row["messages"][-1]["content"])
    assert summary["outcome"]["recovered"]["ce_own_answers"] > 0.5


def test_own_answers_are_held_by_their_cross_entropy_and_others_as_the_article_has_them() -> None:
    """By the margin alone the pairs above took back -11% of the cross-entropy: both answers became
    less likely.
    """
    assert quick(preferences="own").chosen_weight == 1.0
    assert quick(preferences="own", sft_weight=0.0).chosen_weight == 0.0
    assert quick().chosen_weight == 0.0


def test_an_adapter_trained_elsewhere_is_projected_merged_and_measured(
    tmp_path: Path, sources: dict[str, str]
) -> None:
    """As Axolotl would bring it back: trained on the edited checkpoint without projection, with no
    record of ours beside it.
    """
    made = trained(tmp_path / "job", project=False, objective="sft")
    (made.folder / "adapter" / "vectomy.json").unlink()
    summary = heal_model(
        str(tiny_chat.folder()),
        tmp_path / "out",
        quick(**sources, preferences="own"),
        edit=edit(),
        trained=made.folder / "adapter",
    )
    assert summary["training"] is None
    assert summary["receipt"]["learned_along"] < 1e-5
    assert summary["receipt"]["verified"]["failures"] == []


def test_an_edited_checkpoint_of_any_maker_is_healed_without_its_edit(
    tmp_path: Path, sources: dict[str, str]
) -> None:
    config = quick(**sources, preferences="own", objective="sft", project=False, max_steps=2)
    summary = heal_model(str(damaged()), tmp_path / "out", config, base=str(tiny_chat.folder()))
    assert summary["receipt"] == {
        "changed": 28,
        "learned_along": None,
        "learned_in": 0,
        "projected": False,
        "verified": None,
        "writers": 0,
    }
    assert not (tmp_path / "out" / "edited").exists()


@pytest.mark.parametrize(
    ("more", "given", "error", "said"),
    [
        ({}, {}, UsageError, "--edit FILE"),
        ({}, {"base": True}, UsageError, "--no-project"),
        ({"method": "qlora"}, {"edit": True}, ModelError, "--method lora"),
    ],
)
def test_bad_usage_is_named_before_anything_is_written(
    tmp_path: Path,
    sources: dict[str, str],
    more: dict[str, Any],
    given: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    passed: dict[str, Any] = {"base": str(tiny_chat.folder())} if "base" in given else {}
    if "edit" in given:
        passed["edit"] = edit()
    with pytest.raises(error, match=said):
        heal_model(str(tiny_chat.folder()), tmp_path / "out", quick(**sources, **more), **passed)
    assert not (tmp_path / "out").exists()


def test_an_edit_of_another_base_is_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(FingerprintError, match="Use the base it was made for"):
        heal_model(str(tiny_chat.folder(False)), tmp_path / "out", quick(**sources), edit=edit())


@pytest.mark.parametrize("kind", ["fp8", "gptq"])
def test_a_quantised_checkpoint_that_cannot_hold_what_is_learned_is_refused(
    kind: str, tmp_path: Path, sources: dict[str, str]
) -> None:
    """At the start. A GPTQ base with its Edit is baked to plain weights, which can."""
    plain = tiny_chat.folder(False)
    packed = (
        quantised(plain, "block", tmp_path).path
        if kind == "fp8"
        else integer_folder(plain, tmp_path, "gptq").packed
    )
    config, out = quick(**sources, project=False), tmp_path / "out"
    with pytest.raises(UsageError, match=f"are stored in {kind}; give a copy that is not quantised"):
        heal_model(str(packed), out, config, base=str(plain))
    assert not out.exists()
    own = Edit.ablation(packed, orthonormal(1))
    opened = partial(open_inputs, project=True, trust_remote_code=False, progress=silent)
    if kind == "gptq":
        assert opened(str(packed), None, own).base == packed
    else:
        with pytest.raises(UsageError, match="are stored in fp8"):
            opened(str(packed), None, own)


# The command line


def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vectomy", *given])
    monkeypatch.setenv("COLUMNS", "180")
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_says_the_estimate_before_and_the_table_after(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    sources: dict[str, str],
    strong: Path,
) -> None:
    given = [
        "heal",
        str(tiny_chat.folder()),
        "--edit",
        str(strong),
        "--strength",
        "1.5",
        "--objective",
        "sft",
        "--preferences",
        "own",
        "--prompts",
        sources["prompts"],
        "--positive-test",
        sources["positive_test"],
        "--negative-test",
        sources["negative_test"],
        "--own-tokens",
        "8",
        "--answer-tokens",
        "8",
        "--rank",
        "4",
        "--lr",
        "0.01",
        "--max-steps",
        "3",
        "--warmup-steps",
        "5",
        "--max-length",
        "32",
        "--dtype",
        "float32",
        "--device",
        "cpu",
        "--no-gradient-checkpointing",
        "--adapter",
        "--report-to",
        "tensorboard",
        "--tasks",
        "example",
        "--task-limit",
        "6",
        "--out",
        str(tmp_path / "out"),
    ]
    status, out, err = command(monkeypatch, capsys, *given)
    assert status == 0, err
    assert "3 steps" in err
    assert "GiB of memory" in err
    assert "the learning rate never comes to 0.01" in err
    for text in (
        "before edit",
        "after edit",
        "after healing",
        "refusals",
        "KL per token",
        "Refusals of harmful prompts",
        "common_knowledge",
        "judge refusal",
    ):
        assert text in out, text
    assert out.index("before edit") < out.index("after edit") < out.index("after healing")
    # Of an over-strong edit no receipt is to be had without the base; what was learned is measured
    # all the same.
    assert "directions protected: in" in out
    assert (tmp_path / "out" / "training" / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "out" / "checkpoint").exists()
    assert list((tmp_path / "out" / "training" / "checkpoints").rglob("events.out.tfevents*"))


@pytest.mark.unit
def test_the_command_exports_and_reads_axolotls_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "axolotl.yaml"
    status, out, err = command(
        monkeypatch, capsys, "heal", "some/model", "--export-axolotl", str(file), "--rank", "8"
    )
    assert status == 0, err
    assert "edited" in out
    again = tmp_path / "again.yaml"
    status, _, _ = command(
        monkeypatch, capsys, "heal", "some/model", "--from-axolotl", str(file), "--export-axolotl", str(again)
    )
    assert status == 0
    assert file.read_text() == again.read_text()
    assert yaml.safe_load(file.read_text())["lora_r"] == 8


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (["--objective", "kto"], 2, "'kto' is not one of"),
        (["--until", "never"], 2, "'never' is not one of"),
        (["--edit", "nowhere.safetensors"], 1, "does not exist"),
        (["--launch", "nowhere.yaml"], 2, "none of ddp, cpu, zero2, zero3, fsdp"),
    ],
)
def test_a_wrong_command_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    status: int,
    said: str,
) -> None:
    found, _, err = command(
        monkeypatch, capsys, "heal", str(tiny_chat.folder()), "--out", str(tmp_path / "out"), *given
    )
    assert found == status
    assert said in err
    assert "Traceback" not in err


def test_prompts_to_learn_from_are_checked_before_the_bake(
    tmp_path: Path, sources: dict[str, str], strong: Path
) -> None:
    (tmp_path / "long.json").write_text(json.dumps(["show " * 70]), encoding="utf-8")
    config = parse_heal(options({**sources, "prompts": str(tmp_path / "long.json")}))
    with pytest.raises(PromptError, match="exceed the 64 positions"):
        heal_model(str(tiny_chat.folder()), tmp_path / "healed", config, edit=Edit.load(strong))
    assert not (tmp_path / "healed" / "stages").exists()
