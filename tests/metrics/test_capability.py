"""Capability: the same requests for every subject, so that base and base are one, and so are the
forms of one edit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import lm_eval
import pytest
import torch
from alive_models import counting_models
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny import hooked, orthonormal
from tiny_chat import chat, folder
from tiny_spelling import spelling_folder

from vectomy import Edit, bake
from vectomy.core.errors import PromptError, UsageError
from vectomy.core.jsonl import read_jsonl
from vectomy.edits.export import write_lora
from vectomy.metrics.lm_eval.capability import measure_capability
from vectomy.metrics.lm_eval.harness import known_tasks
from vectomy.metrics.lm_eval.suites import EXAMPLE, SUITES, wanted_tasks
from vectomy.models import ChatModel, load_model
from vectomy.models.loading import with_adapter

TIER = "chat"

KEY = "example/common_knowledge"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local model and a local task open no connection."""
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something reached for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_base_and_base_are_the_same_to_the_last_digit() -> None:
    found = measure_capability(
        {"base": chat(), "again": load_model(folder(), dtype="float32", device="cpu")}, "example"
    )
    base, again = found["base"][KEY], found["again"][KEY]
    assert (again.value, again.stderr, again.samples) == (base.value, base.stderr, base.samples)
    assert (again.difference, again.difference_stderr) == (0.0, 0.0)
    assert base.difference is None
    assert base.n == 48


def test_models_that_are_loaded_for_their_turn_are_in_memory_one_at_a_time() -> None:
    def opened() -> ChatModel:
        return load_model(folder(), dtype="float32", device="cpu")

    with counting_models() as alive:
        found = measure_capability({"base": opened, "again": opened}, "example", limit=4)
    assert alive == [0, 0]
    assert found["again"][KEY].difference == 0.0


def test_hooks_baked_weights_and_the_adapter_agree_and_differ_from_the_base(tmp_path: Path) -> None:
    spelling = spelling_folder()
    edit = Edit.ablation(spelling, orthonormal(1), 1.5)
    bake(edit, spelling, tmp_path / "baked")
    write_lora(edit, spelling, tmp_path / "lora", dtype="float32")

    def loaded(path: Path) -> ChatModel:
        return load_model(path, dtype="float32", device="cpu")

    base = loaded(spelling)
    subjects = {
        "hooks": (base, edit),
        "base": base,
        "baked": loaded(tmp_path / "baked"),
        "adapter": with_adapter(loaded(spelling), tmp_path / "lora"),
    }
    found = measure_capability(subjects, "example", base="base")
    assert list(found) == list(subjects)
    rows = {name: row[KEY] for name, row in found.items()}
    assert rows["hooks"].samples == rows["baked"].samples == rows["adapter"].samples
    assert rows["hooks"].samples != rows["base"].samples
    # The pairing, against its definition.
    pairs = (
        torch.tensor(rows["hooks"].samples, dtype=torch.float64) - torch.tensor(rows["base"].samples).double()
    )
    assert rows["hooks"].difference == pytest.approx(float(pairs.mean()))
    assert rows["hooks"].difference_stderr == pytest.approx(float(pairs.std() / len(pairs) ** 0.5))
    assert not hooked(base.model)


def test_progress_comes_to_its_total() -> None:
    seen: dict[str, list[int]] = {}

    @contextlib.contextmanager
    def counting(what: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        seen[what] = [-total]
        yield seen[what].append

    measure_capability({"base": chat(), "again": chat()}, "example", limit=6, progress=counting)
    assert seen["reading tasks"] == [-1, 1]
    assert seen["capability"][0] == -2 * 6 * 4
    assert sum(seen["capability"]) == 0


def test_the_harness_itself_says_the_same() -> None:
    """The oracle: its own evaluation of the same task, one subject at a time."""
    model = HFLM(pretrained=chat().model, tokenizer=chat().tokenizer, batch_size=8)
    with contextlib.chdir(EXAMPLE.parent):
        manager = TaskManager(include_defaults=False)
        theirs = lm_eval.simple_evaluate(model, tasks=[str(EXAMPLE)], task_manager=manager, bootstrap_iters=0)
    assert theirs is not None
    row = theirs["results"]["vectomy_common_knowledge"]
    mine = measure_capability({"base": chat()}, "example")["base"][KEY]
    assert mine.metric == "acc_norm"
    assert mine.value == pytest.approx(row["acc_norm,none"], abs=1e-12)


def task_file(path: Path, rows: list[dict[str, object]]) -> Path:
    (path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (
        EXAMPLE.read_text()
        .replace("questions.jsonl", "mine.jsonl")
        .replace("vectomy_common_knowledge", "mine")
    )
    (path / "mine.yaml").write_text(text)
    return path / "mine.yaml"


def test_a_task_file_of_ones_own_and_a_folder_of_them(tmp_path: Path) -> None:
    rows = [
        {"question": "what is white", "choices": ["white", "red", "blue", "green"], "answer": at % 4}
        for at in range(8)
    ]
    file = task_file(tmp_path, rows)
    for named in (str(file), str(tmp_path)):
        (result,) = measure_capability({"base": chat()}, named)["base"].values()
        # One question, each answer right once in four.
        assert (result.value, result.n) == (0.25, 8)
    (fewer,) = measure_capability({"base": chat()}, str(file), limit=3)["base"].values()
    assert fewer.n == 3
    assert list(measure_capability({"base": chat()}, f"example,{file}", limit=2)["base"]) == [KEY, "mine"]


def test_a_hub_task_without_a_network_names_the_task_and_the_remedy() -> None:
    with pytest.raises(PromptError, match=r"task 'piqa'.*comes from the Hub.*HF_HOME.*task file"):
        measure_capability({"base": chat()}, "piqa")


def test_what_is_no_task_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'hellasweg' is not a task.*hellaswag"):
        measure_capability({"base": chat()}, "hellasweg")
    with pytest.raises(UsageError, match="does not exist"):
        measure_capability({"base": chat()}, str(tmp_path / "none.yaml"))
    with pytest.raises(UsageError, match="names no task; suites: open-llm-leaderboard"):
        measure_capability({"base": chat()}, " , ")
    (tmp_path / "other").mkdir()
    again = task_file(tmp_path / "other", [])
    with pytest.raises(UsageError, match="two task files are called 'mine'"):
        measure_capability({"base": chat()}, f"{again},{tmp_path / 'mine.yaml'}")
    unfit = task_file(tmp_path, [{"question": "what is white", "choices": ["white", "red"]}])
    with pytest.raises(
        PromptError, match=r"task '.*mine.yaml' cannot be loaded \(.*check the file and the data"
    ):
        measure_capability({"base": chat()}, str(unfit))
    broken = task_file(tmp_path, [])
    (tmp_path / "mine.jsonl").unlink()
    with pytest.raises(PromptError, match=r"mine.*check the file and the data"):
        measure_capability({"base": chat()}, str(broken))


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'vectomy\[capability\]'"):
        measure_capability({"base": chat()}, "example")


def test_every_name_of_a_suite_is_one_of_the_installed_harness() -> None:
    known = known_tasks()
    names = [one.name for suite in SUITES.values() for one in suite]
    assert [name for name in names if name not in known and not Path(name).is_file()] == []
    shots = {one.name: one.shots for one in SUITES["open-llm-leaderboard"]}
    # The leaderboard's own numbers,
    # https://huggingface.co/docs/leaderboards/open_llm_leaderboard/archive
    assert shots == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
    }
    assert len(wanted_tasks("nous,nous,example")) == len(SUITES["nous"]) + 1


def test_the_example_has_four_different_answers_each_and_no_favourite_place() -> None:
    rows = read_jsonl(EXAMPLE.parent / "questions.jsonl")
    assert all(len(set(row["choices"])) == 4 and 0 <= row["answer"] < 4 for row in rows)
    assert len({row["question"] for row in rows}) == len(rows)
    assert all(sum(row["answer"] == place for row in rows) > len(rows) / 8 for place in range(4))
