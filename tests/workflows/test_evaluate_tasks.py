"""Tasks in `vectomy evaluate`: the base against itself is 0, the forms of an edit are one, no
finished task is run again.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from tiny import orthonormal
from tiny_spelling import spelling_folder

import vectomy
from vectomy import Edit
from vectomy.cli import main
from vectomy.edits.export import write_lora
from vectomy.metrics.lm_eval.capability import measure_capability
from vectomy.metrics.lm_eval.harness import HarnessTask, load_tasks
from vectomy.metrics.lm_eval.suites import EXAMPLE
from vectomy.models import load_model
from vectomy.workflows.evaluate import model_cache as live

TIER = "chat"

KEY = "example/common_knowledge"
QUICK: dict[str, Any] = {
    "device": "cpu",
    "dtype": "float32",
    "answer_tokens": 2,
    "budgets": (),
    "tool_calls": False,
    "damage_prompts": 2,
    "controls": False,
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something reached for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@cache
def places() -> dict[str, str]:
    """Files that are evaluated: the tiny model, an edit of it in every form, a prompt and a task;
    not to be written to.
    """
    root, base = tiny_chat.scratch(), spelling_folder()
    edit = Edit.ablation(base, orthonormal(1), 1.5)
    edit.save(root / "edit.safetensors")
    vectomy.bake(edit, base, root / "baked")
    write_lora(edit, base, root / "adapter", dtype="float32")
    Edit.ablation(root / "baked", orthonormal(1, seed=3), 1e-9).save(root / "slight.safetensors")
    # The base's weights under a name and an identity of their own: what is kept of the base does
    # not serve for it.
    shutil.copytree(base, root / "copy")
    config = json.loads((root / "copy" / "generation_config.json").read_text())
    (root / "copy" / "generation_config.json").write_text(json.dumps({**config, "top_k": 7}))
    (root / "prompts.txt").write_text("Name a river\nName a town")
    task_file(root, 10)
    names = {
        "edit": "edit.safetensors",
        "slight": "slight.safetensors",
        "prompts": "prompts.txt",
        "mine": "mine.yaml",
    }
    return {
        "base": str(base),
        **{name: str(root / names.get(name, name)) for name in (*names, "baked", "adapter", "copy")},
    }


def task_file(folder: Path, count: int) -> None:
    """The first questions of the example, as a task of one's own."""
    rows = (EXAMPLE.parent / "questions.jsonl").read_text().splitlines(keepends=True)
    (folder / "mine.jsonl").write_text("".join(rows[:count]))
    text = (
        EXAMPLE.read_text()
        .replace("questions.jsonl", "mine.jsonl")
        .replace("vectomy_common_knowledge", "mine")
    )
    (folder / "mine.yaml").write_text(text)


def go(out: Path, subjects: list[str], **options: Any) -> dict[str, Any]:
    """Evaluate; subjects by their names in `places`, strengths behind an @."""
    found = [places()[one.partition("@")[0]] + one[len(one.partition("@")[0]) :] for one in subjects]
    return vectomy.evaluate_models(
        found, out, prompts=(places()["prompts"],), **{**QUICK, "tasks": ("example",), **options}
    )


@cache
def task_results() -> tuple[Path, dict[str, Any]]:
    """An edit in its three forms, the edit at strength 0, the base's weights again; not to be
    written to.
    """
    out = tiny_chat.scratch() / "out"
    return out, go(out, ["base", "edit@0,1", "baked", "adapter", "copy"])


def scores(out: Path) -> dict[str, list[float]]:
    """What is kept, by the identity of the subject."""
    kept = [json.loads(file.read_text()) for file in (out / "cache").glob("capability-*.json")]
    return {one["inputs"]["subject"]: one["value"]["values"] for one in kept}


def results(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The example's row of each subject, the base's under that name."""
    rows = {name: held["capability"][KEY] for name, held in found["results"].items() if "capability" in held}
    return {"base" if name == found["base"] else name: row for name, row in rows.items()}


class Runs:
    """Counts the tasks that are run to their end, and stops amid one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> None:
        self.names: list[str] = []
        real = HarnessTask._scores

        def counted(task: HarnessTask) -> Any:
            # All answers are there, none is kept: nothing more can be lost.
            if len(self.names) == stop:
                raise KeyboardInterrupt
            self.names.append(task.row)
            return real(task)

        monkeypatch.setattr(HarnessTask, "_scores", counted)


# The numbers


@pytest.mark.parametrize("name", ["edit@0", "copy"])
def test_base_and_base_are_the_same_to_the_last_digit(name: str) -> None:
    out, found = task_results()
    rows, kept = results(found), scores(out)
    identity = {subject["name"]: subject for subject in found["subjects"]}
    assert (rows[name]["difference"], rows[name]["difference_stderr"]) == (0.0, 0.0)
    assert rows[name]["value"] == rows["base"]["value"]
    # Six subjects, each asked for itself; base, base again and strength 0 have the same scores, the
    # three forms others.
    assert len(identity) == len(kept) == 6
    assert sorted(map(sum, ([1 for two in kept.values() if two == one] for one in kept.values()))) == [3] * 6
    assert rows["base"]["difference"] is rows["base"]["difference_stderr"] is None


@pytest.mark.parametrize("form", ["baked", "adapter"])
def test_hooks_checkpoint_and_adapter_agree_and_differ_from_the_base(form: str) -> None:
    rows = results(task_results()[1])
    assert rows[form] == rows["edit@1"]
    assert rows["edit@1"]["difference"] != 0
    assert rows["edit@1"]["difference"] == pytest.approx(rows["edit@1"]["value"] - rows["base"]["value"])


def test_the_call_without_prompts_says_the_same() -> None:
    base, edit = load_model(spelling_folder(), dtype="float32", device="cpu"), Edit.load(places()["edit"])
    alone = measure_capability({"base": base, "edit@1": (base, edit)}, "example")
    rows = results(task_results()[1])
    assert {name: found[KEY].to_json() for name, found in alone.items()} == {
        name: rows[name] for name in ("base", "edit@1")
    }


SAYS = """
task: says
dataset_path: json
dataset_kwargs: {data_files: {test: says.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<end>"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def test_tasks_that_generate_are_scored_on_what_the_model_says(tmp_path: Path) -> None:
    """The oracle: the base's own greedy words are right for the base, the edit's are others."""
    chat, rows = load_model(spelling_folder(), dtype="float32", device="cpu"), []
    for question in ("What is red?", "Who sings", "Where is the moon, and why", "Name a river", "Bees make"):
        ids = chat.tokenizer(question, return_tensors="pt")["input_ids"]
        said = chat.model.generate(ids, max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
        rows.append({"question": question, "answer": chat.tokenizer.decode(said, skip_special_tokens=True)})
    (tmp_path / "says.yaml").write_text(SAYS)
    (tmp_path / "says.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = go(tmp_path / "out", ["base", "copy", "edit"], tasks=(str(tmp_path / "says.yaml"),), task_batch=2)
    base, copy, edit = (held["capability"]["says"] for held in found["results"].values())
    assert (base["metric"], base["value"], base["n"]) == ("exact_match", 1.0, 5)
    assert (copy["value"], copy["difference"], copy["difference_stderr"]) == (1.0, 0.0, 0.0)
    assert edit["difference"] < 0


def test_an_edit_of_another_model_is_held_against_that_one(tmp_path: Path) -> None:
    rows = results(go(tmp_path / "out", ["base", "slight", "baked"]))
    assert rows["baked"]["difference"] != 0
    assert (rows["slight"]["difference"], rows["slight"]["difference_stderr"]) == (0.0, 0.0)
    assert rows["slight"]["value"] == rows["baked"]["value"]


def test_batches_are_the_same_for_every_subject_whatever_is_left_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    batches: dict[str, list[list[tuple[int, ...]]]] = {}
    real = HarnessTask.run

    def run(task: HarnessTask, chat: Any, *given: Any) -> Any:
        seen: list[tuple[int, ...]] = []
        batches.setdefault(task.row, []).append(seen)
        handle = chat.model.register_forward_pre_hook(
            lambda _, ids, more: seen.append((*ids, *more.values())[0].shape), with_kwargs=True
        )
        try:
            return real(task, chat, *given)
        finally:
            handle.remove()

    monkeypatch.setattr(HarnessTask, "run", run)
    go(tmp_path / "out", ["base"], **{**both(), "tasks": (places()["mine"],)})
    go(tmp_path / "out", ["base", "edit", "copy"], **both())
    assert {row: len(runs) for row, runs in batches.items()} == {"mine": 3, KEY: 3}
    for runs in batches.values():
        assert runs[0] == runs[1] == runs[2]
        assert max(rows for rows, _ in runs[0]) == 8


def test_the_random_control_is_run_and_the_noise_floor_is_not(tmp_path: Path) -> None:
    found = go(tmp_path / "out", ["base", "edit"], controls=True, task_limit=3)
    assert set(results(found)) == {"base", "edit", "random direction"}
    assert {row["n"] for row in results(found).values()} == {3}


# Nothing twice, nothing lost


def both() -> dict[str, Any]:
    return {"tasks": (f"example,{places()['mine']}",), "task_limit": 10}


@cache
def undisturbed() -> dict[str, Any]:
    return go(tiny_chat.scratch() / "out", ["base", "edit@0.5,1"], **both())["results"]


@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_a_killed_evaluation_runs_no_finished_task_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: int
) -> None:
    whole = undisturbed()
    with monkeypatch.context() as patch:
        before = Runs(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "out", ["base", "edit@0.5,1"], **both())
    assert len(before.names) == stop
    after = Runs(monkeypatch)
    assert go(tmp_path / "out", ["base", "edit@0.5,1"], **both())["results"] == whole
    assert sorted(before.names + after.names) == [KEY] * 3 + ["mine"] * 3


def test_the_same_again_loads_no_model_and_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(task_results()[0], tmp_path / "out"))
    monkeypatch.setattr(live, "load_model", None)
    told: list[str] = []
    again = go(out, ["base", "edit@0,1", "baked", "adapter", "copy"], log=told.append)
    assert again["results"] == task_results()[1]["results"]
    assert (
        f"6 subjects on 48 documents of 1 tasks ({KEY}): 6 runs of a task, 6 of them kept from before" in told
    )


def test_one_task_or_subject_more_costs_only_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out, runs = tmp_path / "out", Runs(monkeypatch)
    go(out, ["base"], **{**both(), "tasks": (places()["mine"],)})
    go(out, ["base"], **both())
    go(out, ["base", "edit"], **both())
    assert runs.names == ["mine", KEY, KEY, "mine"]


def test_other_questions_and_other_batches_are_measured_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs, given = Runs(monkeypatch), {"tasks": (str(tmp_path / "mine.yaml"),)}
    for count, options in ((4, {}), (4, {}), (5, {}), (5, {"task_limit": 2}), (5, {"task_batch": 3})):
        task_file(tmp_path, count)
        found = go(tmp_path / "out", ["base"], **given, **options, overwrite=True)
        assert found["results"][found["base"]]["capability"]["mine"]["n"] == options.get("task_limit", count)
    assert len(runs.names) == 4
    # How answers are scored is no part of what is asked.
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("metric: acc_norm", "metric: f1"))
    go(tmp_path / "out", ["base"], **given, task_batch=3, overwrite=True)
    assert len(runs.names) == 5


def test_a_task_is_known_by_what_it_asks() -> None:
    (one,), (same,), (fewer,) = load_tasks("example"), load_tasks("example"), load_tasks("example", limit=47)
    assert one.sha256 == same.sha256 != fewer.sha256
    assert (one.documents, one.requests) == (48, 4 * 48)


# What is written and said


def schema() -> dict[str, Any]:
    """The example in the document of the contract."""
    text = (Path(__file__).parents[2] / "docs" / "evaluation-json.md").read_text(encoding="utf-8")
    return json.loads(text.partition("```json\n")[2].partition("```")[0])


def test_evaluation_json_is_what_its_contract_says() -> None:
    out, found = task_results()
    assert found == json.loads((out / "evaluation.json").read_text())
    contract = schema()
    assert set(found["settings"]) == set(contract["settings"])
    assert found["settings"]["tasks"] == contract["settings"]["tasks"] == [KEY]
    assert found["versions"]["lm_eval"]
    (given,) = contract["results"].values()
    types = {name: type(value) for name, value in given["capability"][KEY].items()}
    for name, row in results(found).items():
        assert list(given["capability"]) == [KEY]
        assert set(row) == set(types)
        missing = {"difference", "difference_stderr"} if name == "base" else set()
        assert all(type(row[key]) is (type(None) if key in missing else kind) for key, kind in types.items())
        assert (row["metric"], row["n"]) == ("acc_norm", 48)
    for held in found["results"].values():
        assert set(held) <= set(given)


def test_the_page_and_the_terminal_show_differences_with_their_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(task_results()[0], tmp_path / "out"))
    row = results(task_results()[1])["edit@1"]
    page = (out / "report.html").read_text(encoding="utf-8")
    table = page.split('aria-label="Table: capability"')[1].split("</table>")[0]
    (line,) = re.findall(r"<tr.*?</tr>", table.split("<tbody>")[1], flags=re.S)
    assert (
        f"<small>{row['difference']:+.3f} ± {row['difference_stderr']:.3f}</small>".replace("-", "−") in line
    )
    assert line.count("<td") == 6

    given = [
        places()["base"],
        places()["edit"] + "@0,1",
        *(places()[name] for name in ("baked", "adapter", "copy")),
    ]
    quick = "--device cpu --dtype float32 --answer-tokens 2 --budgets 2"
    few = "--no-tool-calls --damage-prompts 2 --no-controls --tasks example"
    more = [*quick.split(), *few.split(), "--prompts", places()["prompts"], "--out", str(out)]
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.argv", ["vectomy", "evaluate", *given, *more])
    monkeypatch.setattr(live, "load_model", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    shown = next(
        line.split()
        for line in lines[lines.index(next(s for s in lines if s.startswith(KEY))) :]
        if line.startswith("edit@1 ")
    )
    assert shown[1] == "acc_norm"
    assert shown[5:8] == [f"{row['difference']:+.3f}", "±", f"{row['difference_stderr']:.3f}"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["--tasks", "exampel"],
            "'exampel' is not a task of lm-eval.*near: example.*suites: open-llm-.*, nous, quick, example",
        ),
        (["--tasks", "none.yaml"], "the task file none.yaml does not exist"),
        (["--tasks", ","], "names no task; suites: "),
        (["--tasks", "example", "--task-limit", "0"], "--task-limit"),
        (["--tasks", "example", "--task-batch", "0"], "--task-batch"),
    ],
)
def test_bad_tasks_are_named_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    given: list[str],
    said: str,
) -> None:
    command = [
        "evaluate",
        places()["base"],
        "--prompts",
        places()["prompts"],
        "--out",
        str(tmp_path / "out"),
        *given,
    ]
    monkeypatch.setattr("sys.argv", ["vectomy", *command])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
