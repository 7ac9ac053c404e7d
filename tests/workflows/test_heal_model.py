"""`vectomy heal` from end to end on a tiny chat model that was damaged on purpose, its bad inputs,
and Axolotl's configuration.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
import yaml
from healed import QUICK, curve, damaged, edit, quick, trained
from interrupted import interrupting
from peft import LoraConfig, get_peft_model
from tiny import Tiny, file_hashes, orthonormal
from transformers import AutoModelForCausalLM

from vectomy.architecture import architecture_of
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.cli import main
from vectomy.core.errors import ConfigError, FingerprintError, ModelError, UsageError
from vectomy.core.jsonl import read_jsonl
from vectomy.edits.edit import Edit
from vectomy.healing.axolotl import read_axolotl, to_axolotl, write_axolotl
from vectomy.healing.estimate import estimate
from vectomy.healing.heal_config import HealConfig, parse_heal
from vectomy.healing.machine import resolve_machine
from vectomy.healing.pairs import Pair
from vectomy.report import render_healing
from vectomy.workflows.heal.heal_measurements import MODELS
from vectomy.workflows.heal.heal_model import heal_model
from vectomy.workflows.heal.heal_results import compute_outcome, describe_outcome

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
    assert set(learned) == set(json.loads(Path(sources["prompts"]).read_text()))
    assert not set(learned) & set(json.loads(Path(sources["negative_test"]).read_text()))


def test_the_page_has_the_table_the_curve_and_the_answers(healed_folder: Path) -> None:
    page = (healed_folder / "report.html").read_text(encoding="utf-8")
    for text in (
        "before edit",
        "after edit",
        "after healing",
        "KL per token",
        "Loss by step",
        "<svg",
        "did not come back",
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
    heal_model(str(tiny_chat.folder()), healed_folder, config, edit=Edit.load(strong), log=told.append)
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


@pytest.mark.unit
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


@pytest.mark.unit
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


@pytest.mark.unit
def test_whether_it_came_back_is_told_from_the_interval_of_the_edited_model() -> None:
    def model(refused: int, kl: float) -> dict[str, Any]:
        flags = [True] * refused + [False] * (40 - refused)
        from vectomy.metrics.intervals import rate_of

        return {
            "refusal": rate_of(flags),
            "refused": flags,
            "kl_first_token": kl,
            "kl_per_token": kl,
            "ce_own_answers": 1 + kl,
        }

    # 2 of 40 is 1.4 to 16.5%: six of 40 (15%) are within it, seven are not.
    for healed, back in ((0, False), (6, False), (7, True), (33, True)):
        measures = {
            "before edit": model(33, 0.0),
            "after edit": model(2, 0.8),
            "after healing": model(healed, 0.2),
        }
        outcome = compute_outcome(measures)
        assert outcome["came_back"] is back
        assert outcome["recovered"]["kl_per_token"] == pytest.approx(0.75)
        said = describe_outcome("refusal", measures, outcome)
        assert ("it came back" in said) is back
        assert "33 of 40" in said


def test_the_estimate_counts_what_peft_trains_and_the_steps_that_are_taken(
    tmp_path: Path, tiny_of: Any
) -> None:
    made = trained(tmp_path, epochs=1.0)
    losses = json.loads((tmp_path / "losses.json").read_text())
    arch = architecture_in(Checkpoint.open(damaged()))
    found = estimate(made.config, resolve_machine(made.config), arch, made.pairs, seconds_per_token=1e-3)
    assert (found.steps, found.trained) == (losses["steps"], losses["parameters"])
    assert found.seconds is not None
    assert found.tokens == sum(pair.tokens for pair in made.pairs)
    more = estimate(
        quick(gradient_checkpointing=True),
        resolve_machine(made.config),
        arch,
        made.pairs,
        seconds_per_token=1e-3,
    )
    assert more.seconds is not None
    assert more.seconds > found.seconds
    assert more.memory["activations"] < found.memory["activations"]
    full = estimate(quick(method="full"), resolve_machine(quick(method="full")), arch, made.pairs)
    tiny: Tiny = tiny_of("llama")
    assert full.trained > found.trained
    assert architecture_of(tiny.model).d_model == arch.d_model
    assert "GiB" in str(found)


def kept_for_backward(dropout: float, batch: torch.Tensor) -> int:
    """Bytes that a forward pass in bfloat16 under autocast keeps, with adapters on every matrix,
    beside the weights.
    """
    model = AutoModelForCausalLM.from_pretrained(damaged(), dtype=torch.bfloat16)
    model = get_peft_model(model, LoraConfig(r=4, lora_dropout=dropout, target_modules="all-linear")).train()
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            # Held on to, for another tensor would take the place of one that is gone.
            kept[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value),
        torch.autocast("cpu", torch.bfloat16),
    ):
        model.base_model.model.model(batch)
    return sum(size for size, _ in kept.values())


def test_the_estimate_counts_what_dropout_keeps_of_every_adapters_input() -> None:
    arch = architecture_in(Checkpoint.open(damaged()))
    pair = Pair(tuple(range(60)), tuple(range(68)))
    batch = torch.randint(0, arch.vocab, (8, 128))

    def estimated(dropout: float) -> int:
        config = quick(objective="sft", dropout=dropout, dtype="bfloat16", micro_batch=8, max_length=128)
        return estimate(config, resolve_machine(config), arch, [pair]).memory["activations"]

    measured = kept_for_backward(0.1, batch) - kept_for_backward(0.0, batch)
    # The first of four blocks reads embeddings, which no gradient goes to: three of its inputs are
    # not kept.
    assert estimated(0.1) - estimated(0.0) == pytest.approx(measured, rel=0.12)


# Axolotl


@pytest.mark.unit
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


@pytest.mark.unit
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


@pytest.mark.unit
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
        "The edit changed refusal",
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
