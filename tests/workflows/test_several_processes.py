"""Several gloo processes against one: the same statistics, candidates, losses and bytes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import tiny_style
import torch
from chat_server import stand_in
from forked_ranks import ForkedRank, fork_ranks, results_of, run_ranks
from trait_runs import trait

from vectomy.core.config import Runtime
from vectomy.core.errors import RankError
from vectomy.core.ranks import current_ranks
from vectomy.core.run_folder import Journal, sha256_file
from vectomy.edits.edit import Edit
from vectomy.models import join_ranks, load_model
from vectomy.search.collect import collect
from vectomy.workflows.evaluate.evaluation import evaluate_models
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import make_trait_run

TIER = "chat"

# Signatures are checked in other tests; here many processes would check them.
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.usefixtures("unchecked"),
]

# Few tokens a pass, so that there are passes for everyone.
SHORT = {"device": "cpu", "answer_tokens": 6, "batch_tokens": 96}
SMALL = {"n_fit": 16, "n_search": 6, "n_test": 4}
RUNS: dict[str, dict[str, Any]] = {
    "arditi": {"layer_fraction": 1.0},
    "article": {"candidates": 3, "shown_prompts": 2},
    "cosmic": {"layer_fraction": 1.0, "bake": False},
    "gradient": {"steps": 8, "accumulate": 2, "bake": False},
    "tpe": {"trials": 4, "startup_trials": 3, "bake": False},
}
# What a run leaves that names no time, no folder and no device.
COMPARED = ("edit.safetensors", "scores.json", "evaluation.json", "completions.jsonl", "separation.json")
COUNTS = (2, 4)
TWO = tuple(name for name in RUNS if name != "tpe")
FOUR = ("arditi", "article", "gradient")


def statistics(covariance: bool) -> Any:
    prompts = tiny_chat.prompts(tiny_chat.NIGHT, 30)
    return collect(
        tiny_chat.chat(),
        prompts,
        sites=["resid_pre", "resid_post"],
        positions=[-2, -1],
        covariance=covariance,
        samples=covariance,
        batch_tokens=64,
    )


def go(out: Path, recipe: str) -> dict[str, str]:
    """A run; returns the digests of what it left."""
    options = {**tiny_chat.sources(), **SHORT, **SMALL, **RUNS[recipe]}
    run(str(tiny_chat.folder()), out / recipe, recipe=recipe, **options)
    files = [out / recipe / name for name in COMPARED]
    files += sorted((out / recipe / "checkpoint").glob("*.safetensors"))
    return {file.name: sha256_file(file) for file in files}


def evaluated(out: Path) -> dict[str, Any]:
    prompts = tuple(f"{side}={file}" for side, file in tiny_chat.sources().items())
    subjects = (str(tiny_chat.folder()), str(out / "arditi" / "edit.safetensors"))
    result = evaluate_models(subjects, out / "evaluation", prompts=prompts, **SHORT)
    return json.loads(json.dumps(result["results"]))


@cache
def alone() -> dict[str, Any]:
    out = tiny_chat.scratch()
    return {**everything(out), "evaluated": evaluated(out)}


def everything(out: Path, recipes: Sequence[str] = TWO) -> dict[str, Any]:
    digests = {recipe: go(out, recipe) for recipe in recipes}
    return {
        "mean": statistics(False).mean,
        "wide": statistics(True),
        "digests": digests,
        "losses": json.loads((out / "gradient" / "scores.json").read_text())["history"],
        "answers": tiny_chat.chat().answer(
            tiny_chat.chat().tokens(tiny_chat.prompts(tiny_chat.DAY, 9)), 6, 64
        ),
    }


@cache
def together(count: int) -> list[Any]:
    alone()
    out = tiny_chat.scratch()

    def work(rank: int) -> dict[str, Any]:
        ranks = join_ranks("cpu")
        assert (ranks.rank, ranks.count) == (rank, count)
        assert current_ranks() is ranks
        if count > 2:
            return everything(out, FOUR)
        go(out, "tpe")
        trials = json.loads((out / "tpe" / "scores.json").read_text())["candidates"]
        return {**everything(out), "trials": trials, "evaluated": evaluated(out)}

    return results_of(run_ranks(out, count, work))


@pytest.mark.parametrize("count", COUNTS)
def test_statistics_are_those_of_one_process(count: int) -> None:
    wide = alone()["wide"]
    for rank in together(count):
        assert torch.equal(rank["mean"], alone()["mean"])
        torch.testing.assert_close(rank["wide"].covariance, wide.covariance, rtol=1e-12, atol=1e-15)
        assert torch.equal(rank["wide"].samples, wide.samples)
        assert rank["answers"] == alone()["answers"]


@pytest.mark.parametrize(("recipe", "count"), [*((name, 2) for name in TWO), *((name, 4) for name in FOUR)])
def test_a_run_leaves_the_bytes_of_one_process(recipe: str, count: int) -> None:
    expected = alone()["digests"][recipe]
    assert ("model.safetensors" in expected) == RUNS[recipe].get("bake", True)
    assert [rank["digests"][recipe] for rank in together(count)] == [expected] * count


@pytest.mark.parametrize("count", COUNTS)
def test_losses_are_those_of_one_process_with_the_same_accumulated_batch(count: int) -> None:
    losses = alone()["losses"]
    assert len(losses) >= RUNS["gradient"]["steps"]
    assert losses[0] != losses[-1]
    assert [rank["losses"] for rank in together(count)] == [losses] * count


def test_each_trial_of_tpe_is_tried_once_by_whichever_rank() -> None:
    for rank in together(2):
        assert [row["number"] for row in rank["trials"]] == list(range(RUNS["tpe"]["trials"]))
        assert len({json.dumps(row["parameters"]) for row in rank["trials"]}) == RUNS["tpe"]["trials"]
        assert all(row["kl"] is not None for row in rank["trials"])
        assert rank["trials"] == together(2)[0]["trials"]


def test_the_first_random_trials_of_tpe_are_those_of_one_process() -> None:
    out = tiny_chat.scratch()
    go(out, "tpe")
    rows = json.loads((out / "tpe" / "scores.json").read_text())["candidates"]
    startup = RUNS["tpe"]["startup_trials"]
    assert [(row["parameters"], row["kl"]) for row in together(2)[0]["trials"][:startup]] == [
        (row["parameters"], row["kl"]) for row in rows[:startup]
    ]


def test_an_evaluation_is_that_of_one_process() -> None:
    assert [rank["evaluated"] for rank in together(2)] == [alone()["evaluated"]] * 2


def test_a_run_of_a_trait_leaves_the_bytes_of_one_process() -> None:
    out = tiny_chat.scratch()
    options = {**SHORT, "answer_tokens": 8, "n_fit": 24, "n_search": 6, "n_test": 6, "bake": False}
    config = make_trait_run(str(tiny_style.folder()), trait(form="amplify"), options)

    def digests(folder: Path) -> list[str]:
        run(config, folder)
        return [sha256_file(folder / name) for name in COMPARED]

    expected = digests(out / "one")
    assert results_of(run_ranks(out, 2, lambda rank: digests(out / "two"))) == [expected] * 2


# Tensor parallelism


def test_a_model_divided_over_processes_gives_the_same_edit_to_rounding() -> None:
    """Hooks see the whole outputs of the divided matrices, so that everything is as on one card."""
    out = tiny_chat.scratch()
    options = {**tiny_chat.sources(), **SHORT, **SMALL, "recipe": "gradient", "steps": 4, "bake": False}

    def work(rank: int) -> dict[str, Any]:
        model = str(tiny_chat.folder())
        summary = run(model, out / "divided", tensor_parallel=True, **options)
        chat = load_model(model, runtime=Runtime(device="cpu", tensor_parallel=True))
        weight = chat.model.model.layers[0].mlp.down_proj.weight
        # The others may still be loading.
        current_ranks().gather(None)
        return {"held": weight.to_local().numel() / weight.numel(), "effect": summary["outcome"]["effect"]}

    tiny_chat.folder()
    results = results_of(run_ranks(out, 2, work))
    assert results == [{"held": 0.5, "effect": results[0]["effect"]}] * 2
    run(str(tiny_chat.folder()), out / "whole", **options)
    divided, whole = (Edit.load(out / name / "edit.safetensors") for name in ("divided", "whole"))
    assert len(divided.operations) == len(whole.operations)
    for one, other in zip(divided.operations, whole.operations, strict=True):
        torch.testing.assert_close(one.basis, other.basis, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.strengths, other.strengths, rtol=0, atol=1e-5)


def test_a_served_judge_is_asked_by_one_rank_alone() -> None:
    """Its verdicts are everyone's: a server may answer twice the same question otherwise."""
    out, model = tiny_chat.scratch(), str(tiny_chat.folder())
    options = {**tiny_chat.sources(), **SHORT, **SMALL, **RUNS["arditi"], "bake": False, "recipe": "arditi"}

    def reply(number: int, body: dict[str, Any]) -> str:
        return (
            f"refused: {int(tiny_chat.REFUSAL in body['messages'][1]['content'])}\nconvincing: 3\nspecific: 3"
        )

    with stand_in(reply) as server:
        judge = f"openai:{server.address}#m"
        run(model, out / "one", judge=judge, **options)
        alone = len(server.requests)
        results_of(run_ranks(out, 2, lambda rank: bool(run(model, out / "two", judge=judge, **options))))
    assert len(server.requests) == 2 * alone > 0


def test_tensor_parallelism_without_a_launcher_is_refused() -> None:
    with pytest.raises(RankError, match="accelerate launch"):
        run(str(tiny_chat.folder()), tiny_chat.scratch(), tensor_parallel=True, **tiny_chat.sources())


# A process that ends before the others


def killed_at(key: str) -> Callable[[int], None]:
    """The work of a rank: a run, in which rank 1 is killed before it works on an entry of a
    journal.
    """
    original = Journal.get_or_compute

    def get_or_compute(self: Journal, name: str, work: Callable[[], Any]) -> Any:
        if name == key and current_ranks().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, name, work)

    def work(rank: int) -> None:
        Journal.get_or_compute = get_or_compute
        main_of(KILLED)

    return work


KILLED = tiny_chat.scratch() / "killed"


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def main_of(out: Path) -> None:
    """The command line, as a launcher starts it."""
    from vectomy.cli import main

    sources = [text for side, file in tiny_chat.sources().items() for text in (f"--{side}", file)]
    options = [text for name, value in (SHORT | SMALL).items() for text in (flag(name), str(value))]
    options += ["--recipe", "gradient", "--steps", "8", "--accumulate", "2", "--no-bake", "--yes"]
    options += ["--out", str(out)]
    sys.argv = ["vectomy", "run", str(tiny_chat.folder()), *sources, *options]
    main()


def sentences(rank: ForkedRank) -> list[str]:
    return [line for line in rank.stderr.split("\n") if line.startswith("vectomy: ")]


def test_a_killed_process_ends_the_run_with_one_sentence_and_the_next_run_resumes() -> None:
    tiny_chat.folder()
    ranks = run_ranks(KILLED.parent, 2, killed_at("learned to step 8"))
    assert [rank.status for rank in ranks] == [1, -signal.SIGKILL], ranks[0].stderr
    (sentence,) = sentences(ranks[0])
    assert "another process of this job has ended" in sentence
    assert "the same command resumes" in sentence
    journal = (KILLED / "stages" / "select.journal").read_text()
    assert '"learned to step 4"' in journal
    assert '"learned to step 8"' not in journal
    resumed = run_ranks(KILLED.parent, 2, lambda rank: main_of(KILLED))
    assert [rank.status for rank in resumed] == [0, 0]
    assert "collect: done before" in resumed[0].stderr
    assert (resumed[1].stdout, resumed[1].stderr) == ("", "")
    for name in COMPARED:
        assert sha256_file(KILLED / name) == alone()["digests"]["gradient"][name]


def test_a_launcher_that_ends_the_job_gets_one_sentence_too() -> None:
    ready = tiny_chat.scratch()

    def wait(rank: int) -> None:
        from vectomy.cli import _stop
        from vectomy.core.errors import RankError

        try:
            join_ranks("cpu")
            (ready / str(rank)).touch()
            while True:
                signal.pause()
        except RankError as error:
            _stop(str(error), error.exit_status)

    ranks = fork_ranks(ready, 2, wait)
    while len(list(ready.glob("?"))) < 2:
        time.sleep(0.05)
    for rank in ranks:
        os.kill(rank.pid, signal.SIGTERM)
    ended = [rank.join() for rank in ranks]
    assert [rank.status for rank in ended] == [1, 1]
    assert len([line for rank in ended for line in sentences(rank)]) == 1


def test_an_error_of_all_processes_is_said_once() -> None:
    out = tiny_chat.scratch()
    (out / "other").touch()
    ranks = run_ranks(tiny_chat.scratch(), 2, lambda rank: main_of(out))
    assert [rank.status for rank in ranks] == [1, 1]
    said = [line for rank in ranks for line in sentences(rank)]
    assert len(said) == 1
    assert "holds other files and no vectomy run" in said[0]
