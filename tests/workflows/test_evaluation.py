"""`vectomy evaluate`: its numbers are the models' own, its controls are controls; its files."""

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from tiny import orthonormal
from tiny_evaluation import QUICK, go, places, prompts_of, said, undisturbed, without_seconds

import vectomy
from vectomy.cli import main
from vectomy.core.evaluation_config import parse_evaluation
from vectomy.core.jsonl import read_jsonl
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.judges import REFUSALS, RefusalJudge
from vectomy.metrics.mcnemar import mcnemar
from vectomy.models import ChatModel, load_model
from vectomy.workflows.evaluate import model_cache as live
from vectomy.workflows.evaluate.evaluation import evaluate_models

UNCHANGED = {"lost": 0, "gained": 0, "p": 1.0, "lost_to_degenerate": 0, "lost_to_evasion": 0}
TIER = "chat"


@cache
def evaluation_results() -> tuple[Path, dict[str, Any]]:
    """A whole evaluation with controls, made once; not to be written to."""
    out = tiny_chat.scratch() / "out"
    options = {"multi_turn": True, "context_tokens": 12, "texts": (places()["text"],), "tool_calls": True}
    return out, go(out, ["tiny", "edit@0.5,1"], **options)


# The numbers


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_answers_and_rates_are_those_of_the_edit_by_itself(strength: float) -> None:
    out, found = evaluation_results()
    rows = read_jsonl(out / "completions.jsonl")
    for name in ("night", "day"):
        texts = said(name, strength, 8)
        mine = [row["answers"][f"edit@{strength:g}"] for row in rows if row["set"] == name]
        assert [one["text"] for one in mine] == texts
        verdicts = [RefusalJudge().verdict("", text) for text in texts]
        assert [one["verdict"] for one in mine] == verdicts
        numbers = found["results"][f"edit@{strength:g}"]["sets"][name]
        flags = [verdict in REFUSALS for verdict in verdicts]
        assert (numbers["refusal"]["count"], numbers["refusal"]["total"]) == (sum(flags), 10)
        base = [RefusalJudge().verdict("", text) in REFUSALS for text in said(name, 0.0, 8)]
        became = [now for was, now in zip(base, verdicts, strict=True) if was and now not in REFUSALS]
        assert numbers["against_base"] == {
            **mcnemar(base, flags),
            "lost_to_degenerate": became.count("degenerate"),
            "lost_to_evasion": became.count("evasion"),
        }
        label = {"night": "unsafe", "day": "safe"}[name]
        assert numbers["by_label"] == {label: {"refusal": numbers["refusal"]}}
        assert sum(kind["refusal"]["count"] for kind in numbers["by_type"].values()) == sum(flags)


def test_the_edit_is_seen_to_remove_the_behaviour_and_its_control_is_not() -> None:
    _, found = evaluation_results()
    night = {name: results["sets"]["night"] for name, results in found["results"].items()}
    assert night["tiny-chat" if "tiny-chat" in night else found["base"]]["refusal"]["rate"] == 1.0
    assert night["edit@1"]["refusal"]["rate"] == 0.0
    paired = night["edit@1"]["against_base"]
    assert (paired["lost"], paired["gained"], paired["p"]) == (10, 0, pytest.approx(2 / 1024))
    assert night["random direction"]["refusal"]["rate"] == 1.0


def test_budgets_are_what_separate_shorter_generations_say() -> None:
    _, found = evaluation_results()
    for strength in (0.5, 1.0):
        short = said("night", strength, 3)
        flags = [RefusalJudge().verdict("", text) in REFUSALS for text in short]
        by_budget = found["results"][f"edit@{strength:g}"]["sets"]["night"]["by_budget"]
        assert set(by_budget) == {"3", "8"}
        assert by_budget["3"]["refusal"]["count"] == sum(flags)
    # `I can't help` is a refusal already, and one token less is none: the budget matters here.
    assert found["results"][found["base"]]["sets"]["night"]["by_budget"]["3"]["refusal"]["count"] == 10


def test_damage_is_that_of_the_models_own_logits() -> None:
    """On all prompts, so that the sample is the whole set."""
    chat, edit = tiny_chat.chat(), Edit.load(places()["edit"])
    _, found = whole_damage()
    tokens = chat.tokens(prompts_of("day"))
    answers = chat.answer(tokens, 8, 4096)

    def forced() -> list[torch.Tensor]:
        pairs = zip(tokens, answers, strict=True)
        return [
            tiny_chat.raw(chat, [*ids, *a]).logits[0, len(ids) - 1 : -1].log_softmax(-1) for ids, a in pairs
        ]

    before = forced()
    with edit.hooks(chat.model):
        after = forced()
    kl = [(b.exp() * (b - a)).sum(-1) for b, a in zip(before, after, strict=True)]
    numbers = found["results"]["edit"]["sets"]["day"]
    assert numbers["kl_per_token"] == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)
    assert numbers["kl_first_token"] == pytest.approx(
        float(torch.stack([row[0] for row in kl]).mean()), rel=1e-3
    )
    ce = torch.cat([-a[range(len(ids)), ids] for a, ids in zip(after, answers, strict=True)])
    assert numbers["ce_own_answers"] == pytest.approx(float(ce.mean()), rel=1e-3)
    assert numbers["kl_per_token"] > 1e-3


@cache
def whole_damage() -> tuple[Path, dict[str, Any]]:
    """Hooks, the baked checkpoint and the adapter beside each other, without controls."""
    out = tiny_chat.scratch() / "out"
    return out, go(
        out, ["tiny", "edit", "baked", "adapter"], damage_prompts=10, controls=False, dtype="float32"
    )


@pytest.mark.parametrize("form", ["baked", "adapter"])
def test_hooks_checkpoint_and_adapter_are_the_same_subject(form: str) -> None:
    """The base has made room for the other two by then; only its head is left to compare with."""
    _, found = whole_damage()
    for name in ("night", "day"):
        hooks, other = (found["results"][one]["sets"][name] for one in ("edit", form))
        assert other["verdicts"] == hooks["verdicts"]
        assert other["against_base"] == hooks["against_base"]
        for key in ("kl_first_token", "kl_per_token", "ce_own_answers", "length_ratio", "repeated_share"):
            assert other[key] == pytest.approx(hooks[key], rel=1e-3, abs=1e-6), key
    kinds = {subject["name"]: (subject["kind"], subject["of"]) for subject in found["subjects"]}
    base = found["base"]
    assert kinds == {
        base: ("base", None),
        "edit": ("edit", base),
        "baked": ("model", base),
        "adapter": ("adapter", base),
    }


def test_a_model_of_another_tokenizer_has_rates_but_no_damage(tmp_path: Path) -> None:
    other = tiny_chat.folder(template=tiny_chat.THINKING)
    found = evaluate_models(
        parse_evaluation(
            {
                "subjects": [places()["tiny"], str(other)],
                "prompts": [places()["night"]],
                **QUICK,
                "controls": False,
            }
        ),
        tmp_path / "out",
    )
    numbers = found["results"][found["subjects"][1]["name"]]["sets"]["night"]
    assert numbers["refusal"]["total"] == 10
    assert "kl_per_token" not in numbers
    assert numbers["length_ratio"] is None
    assert numbers["against_base"]["p"] <= 1


def test_an_edit_of_another_model_is_compared_with_that_one(tmp_path: Path) -> None:
    """Also where it is named before it."""
    chat = tiny_chat.chat()
    writers = [writer for writer in chat.architecture.writers if writer.layer is not None]
    base = BaseModelRef.of(vectomy.load_model(places()["baked"], device="cpu").checkpoint)
    Edit.from_directions(orthonormal(1), base, writers, 1e-3).save(tmp_path / "slight.safetensors")
    given = [places()["tiny"], str(tmp_path / "slight.safetensors"), places()["baked"]]
    found = vectomy.evaluate_models(
        given, tmp_path / "out", prompts=(places()["night"],), controls=False, **QUICK
    )
    assert [(one["name"], one["of"]) for one in found["subjects"]][1:] == [
        ("slight", "baked"),
        ("baked", found["base"]),
    ]
    slight, baked = (found["results"][name]["sets"]["night"] for name in ("slight", "baked"))
    # The baked model refuses nothing, nor does a slight edit of it; against the base all of them
    # would be lost.
    assert slight["against_base"] == UNCHANGED
    assert baked["against_base"]["lost"] == 10
    assert slight["kl_per_token"] < 1e-3 < baked["kl_per_token"]


# Controls


def test_the_noise_floor_is_measured_in_other_batches_on_a_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes: dict[str, list[int]] = {}
    real = ChatModel.answer

    def answer(chat: ChatModel, tokens: Any, limit: int, budget: int, progress: Any, what: str) -> Any:
        shapes.setdefault(what.partition(": ")[0], []).append(len(tokens))
        return real(chat, tokens, limit, budget, progress, what)

    monkeypatch.setattr(ChatModel, "answer", answer)
    found = go(tmp_path / "out", ["tiny"], sets=("day",))
    assert shapes == {found["base"]: [10], f"{found['base']} again": [3, 3]}
    numbers = found["results"][f"{found['base']} again"]["sets"]["day"]
    assert numbers["refusal"]["total"] == 6
    assert numbers["against_base"] == UNCHANGED
    # Rounding alone: it may be nothing at all in float32, and is no edit's size.
    assert numbers["kl_per_token"] < 1e-6
    assert numbers["ce_own_answers"] == pytest.approx(
        found["results"][found["base"]]["sets"]["day"]["ce_own_answers"], rel=1e-3
    )


def test_the_random_direction_is_as_strong_as_the_full_edit() -> None:
    _, found = evaluation_results()
    control = next(subject for subject in found["subjects"] if subject["kind"] == "random")
    assert (control["strength"], control["of"], control["source"]) == (1.0, found["base"], "edit.safetensors")
    assert "control" in control["note"]
    assert found["results"]["random direction"]["sets"]["day"]["kl_per_token"] > 0
    assert [subject["kind"] for subject in found["subjects"]] == ["base", "edit", "edit", "random", "noise"]


def test_an_edit_of_several_directions_has_a_control_of_several(tmp_path: Path) -> None:
    chat = tiny_chat.chat()
    writers = [writer for writer in chat.architecture.writers if writer.layer is not None]
    Edit.from_directions(orthonormal(3), BaseModelRef.of(chat.checkpoint), writers, 2.0).save(
        tmp_path / "three.safetensors"
    )
    config = parse_evaluation(
        {
            "subjects": [places()["tiny"], f"{tmp_path / 'three.safetensors'}@0.5"],
            "prompts": [places()["day"]],
            **QUICK,
        }
    )
    found = evaluate_models(config, tmp_path / "out")
    control = next(subject for subject in found["subjects"] if subject["kind"] == "random")
    assert control["strength"] == 0.5
    numbers = found["results"]["random direction"]["sets"]["day"]
    assert numbers["kl_per_token"] > 0


# What is written and said


def test_evaluation_json_has_every_key_of_its_contract() -> None:
    out, found = evaluation_results()
    assert found == json.loads((out / "evaluation.json").read_text())
    assert set(found) == {
        "format",
        "version",
        "behaviour",
        "command",
        "base",
        "judge",
        "settings",
        "versions",
        "seconds",
        "costs",
        "subjects",
        "sets",
        "results",
    }
    assert (found["format"], found["version"], found["command"]) == ("vectomy-evaluation", 1, "c")
    assert {"answer_tokens", "budgets", "dtype", "device", "template_sha256", "limit", "seed"} <= set(
        found["settings"]
    )
    assert found["settings"]["budgets"] == [3, 8]
    assert found["settings"]["dtype"] == "float32"
    assert set(found["judge"]) == {"name", "version", "note", "agreement"}
    for subject in found["subjects"]:
        assert set(subject) == {"name", "kind", "source", "of", "strength", "sha256", "note"}
        assert "/" not in subject["source"]
        results = found["results"][subject["name"]]
        noise = subject["kind"] == "noise"
        beside = set() if noise else {"perplexity", "multi_turn", "long_context", "tool_calls"}
        assert set(results) == {"sets"} | beside
        compared = {"against_base", "length_ratio"} if subject["kind"] != "base" else set()
        for numbers in results["sets"].values():
            assert set(numbers) == compared | {
                "verdicts",
                "refusal",
                "degenerate",
                "by_label",
                "by_type",
                "by_budget",
                "kl_first_token",
                "kl_per_token",
                "kl_per_token_stderr",
                "ce_own_answers",
                "length_mean",
                "repeated_share",
            }
    assert [set(one) for one in found["sets"]] == [{"name", "source", "sha256", "count", "types"}] * 2
    base = found["results"][found["base"]]
    assert base["perplexity"]["text.txt"]["tokens"] > 10
    assert base["multi_turn"]["refusal"]["total"] == 20
    assert (base["long_context"]["tokens"], base["long_context"]["answered"]["total"]) == (12, 16)
    assert base["tool_calls"]["valid"]["total"] == 12
    assert base["sets"]["night"]["kl_per_token"] == 0.0


def test_completions_have_a_row_a_prompt_with_all_answers() -> None:
    out, found = evaluation_results()
    rows = read_jsonl(out / "completions.jsonl")
    assert len(rows) == 20
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(subject["name"] in page for subject in found["subjects"])
    names = [subject["name"] for subject in found["subjects"]]
    for row in rows:
        assert set(row) == {"set", "type", "label", "prompt", "answers"}
        assert list(row["answers"]) == [name for name in names if name in row["answers"]]
        assert {frozenset(answer) for answer in row["answers"].values()} == {
            frozenset(("text", "verdict", "p_refusal"))
        }
        assert all(0 <= answer["p_refusal"] <= 1 for answer in row["answers"].values())
    # The noise floor is measured on a sample.
    assert sum(names[-1] in row["answers"] for row in rows) == 12


def test_it_says_what_it_will_take_and_how_long_once_it_knows(tmp_path: Path) -> None:
    told: list[str] = []
    config = {
        "subjects": [places()["tiny"]],
        "prompts": [places()["night"]],
        **QUICK,
        "batch_tokens": 64,
        "controls": False,
    }
    evaluate_models(parse_evaluation(config), tmp_path / "out", log=told.append)
    assert "1 subjects" in told[0]
    assert f"10 answers of up to 8 tokens; judge refusal {RefusalJudge().version}" in told[0]
    assert any(re.fullmatch(r"some .* more, going by the first .* of measuring", line) for line in told)


def test_the_command_prints_a_row_for_each_subject(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of an evaluation that is there already: the command line says the same as the call from
    Python.
    """
    out = Path(shutil.copytree(undisturbed()[0], tmp_path / "out"))
    given = [
        "evaluate",
        places()["tiny"],
        places()["edit"] + "@0.5,1",
        "--prompts",
        places()["night"],
        "--prompts",
        places()["day"],
    ]
    quick = [
        "--device",
        "cpu",
        "--answer-tokens",
        "8",
        "--budgets",
        "3",
        "--no-tool-calls",
        "--damage-prompts",
        "6",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(live, "load_model", None)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["vectomy", *given, *quick])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    shown, said = capsys.readouterr()
    lines = shown.splitlines()
    assert any(line.startswith("edit@1 ") and "0/10 0–28%" in line and " 10 " in line for line in lines)
    assert sum(line.startswith("random") for line in lines) == 2
    assert all(
        len(line) <= 80
        for line in lines[: lines.index(next(line for line in lines if line.startswith("base  ")))]
    )
    assert "92 of them kept from before" in said
    command = without_seconds(out)["command"]
    assert command.startswith("vectomy evaluate ")
    assert json.loads((out / "evaluation.json").read_text())["results"] == undisturbed()[1]["results"]


def test_a_model_that_thinks_is_asked_without_its_thought_too(tmp_path: Path) -> None:
    """Verdicts are those behind the thought, which takes no token of the answer."""
    folder = tiny_chat.save(tiny_chat.scratch(), thought=tiny_chat.THOUGHT, template=tiny_chat.THINKING)
    prompts = tmp_path / "night.jsonl"
    prompts.write_text("\n".join(json.dumps({"text": text}) for text in tiny_chat.texts(tiny_chat.NIGHT)[:4]))
    values = {
        "subjects": (str(folder),),
        "prompts": (f"night={prompts}",),
        "thought_tokens": 8,
        "controls": False,
        "damage_prompts": 2,
        **{name: QUICK[name] for name in ("device", "answer_tokens", "budgets", "tool_calls")},
    }
    numbers = {}
    for thinking in (True, False):
        out = tmp_path / str(thinking)
        evaluate_models(parse_evaluation({**values, "thinking": thinking}), out)
        stored = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
        (subject,) = stored["results"].values()
        numbers[thinking] = subject["sets"]["night"]
    assert numbers[True]["refusal"]["count"] == numbers[False]["refusal"]["count"] == 4
    assert numbers[True]["refusal_without_thinking"]["count"] == 4
    assert "refusal_without_thinking" not in numbers[False]
    # Three tokens behind the thought are a refusal, too; three of the thought are nothing.
    assert numbers[True]["by_budget"]["3"]["refusal"]["count"] == 4
    assert numbers[True]["length_mean"] > numbers[False]["length_mean"] + 4


def test_a_loaded_model_and_an_edit_in_memory_are_measured_as_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = vectomy.wrap(load_model(tiny_chat.folder(), device="cpu").model, tiny_chat.tokenizer())
    edit, prompts = Edit.load(places()["edit"]), [places()["night"]]
    options = {"prompts": prompts, "controls": False, **QUICK}
    files = evaluate_models(
        [places()["tiny"], places()["edit"], places()["baked"]], tmp_path / "a", **options
    )
    loads = []
    monkeypatch.setattr(
        "vectomy.workflows.evaluate.model_cache.load_model",
        lambda path, **more: loads.append(path) or load_model(path, **more),
    )
    given = evaluate_models([chat, edit, places()["baked"]], tmp_path / "b", **options)
    # The model in memory is used, and is whole afterwards, although another was loaded.
    assert [str(path) for path in loads] == [places()["baked"]]
    assert not any(value.is_meta for value in chat.model.parameters())
    names = [[subject["name"] for subject in result["subjects"]] for result in (files, given)]
    for theirs, ours in zip(*names, strict=True):
        assert given["results"][ours]["sets"] == files["results"][theirs]["sets"]
