"""The command line answers at once, says one sentence when it fails, and prints what it is asked
for.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
from command_line import HEAVY, Vectomy, process
from finished_run import finished_run
from tiny import file_hashes

from vectomy.checkpoint import Checkpoint, tensor_hashes
from vectomy.core.jsonl import read_jsonl
from vectomy.edits.edit import Edit
from vectomy.hub.provenance import record_in
from vectomy.workflows.run_points import read_points

TIER = "chat"

QUICK = [
    "--device",
    "cpu",
    "--answer-tokens",
    "8",
    "--behaviour-tokens",
    "I",
    "--layer-fraction",
    "1.0",
    "--n-search",
    "4",
    "--n-test",
    "4",
    "--yes",
]


def words(out: Path, *more: str) -> list[str]:
    given = tiny_chat.sources()
    sides = ["--positive", given["positive"], "--negative", given["negative"]]
    return [str(tiny_chat.folder()), "--out", str(out), *sides, *QUICK, "--recipe", "arditi", *more]


def run_folder() -> Path:
    return finished_run(behaviour_tokens=("I",), n_search=4, n_test=4)


@pytest.mark.unit
def test_neither_the_command_line_nor_its_help_loads_anything_heavy() -> None:
    done = process(f"""
import contextlib, io, sys, vectomy.cli
for command in ("", "run", "select", "chat", "apply"):
    sys.argv[1:] = [*command.split(), "--help"]
    shown, status = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(shown):
            vectomy.cli.main()
    except SystemExit as stop:
        status = stop.code
    assert "Usage" in shown.getvalue() and not status, (command, status)
{HEAVY}""")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.unit
@pytest.mark.parametrize("command", ["baseline", "collect", "directions", "select", "run"])
def test_every_stage_is_a_command_with_all_options(vectomy: Vectomy, command: str) -> None:
    status, out, _ = vectomy(command, "--help-all")
    assert status == 0
    for option in ("--positive", "--kl-threshold", "--out", "--config", "--seed"):
        assert option in out


USAGE = {
    "unknown command": ["fly"],
    "unknown option": ["run", "demo", "--fly"],
    "no model": ["run"],
    "select of nothing": ["select"],
    "no number": ["run", "demo", "--seed", "x"],
    "bad value": ["run", "demo", "--recipe", "magic"],
    "bad range": ["run", "demo", "--kl-threshold", "-1"],
    "no config file": ["run", "demo", "--config", "/none.toml"],
    "apply without out": ["apply", "edit", "model"],
}


@pytest.mark.unit
@pytest.mark.parametrize("case", USAGE)
def test_bad_usage_has_status_two(vectomy: Vectomy, tmp_path: Path, monkeypatch, case: str) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = vectomy(*USAGE[case])
    assert status == 2
    assert out == ""
    assert err.strip()
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.unit
def test_an_unknown_configuration_key_has_status_two_and_is_named(vectomy: Vectomy, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("colour = 1\n")
    status, _, err = vectomy("run", "demo", "--config", str(config))
    assert status == 2
    assert err.startswith("vectomy: unknown configuration key 'colour'; known here: ")
    assert len(err.splitlines()) == 1


FAILS = {
    "no edit": (["show", "/nonexistent"], "nonexistent"),
    "no run": (["report", "/nonexistent"], "does not exist"),
    "chat without a run": (["chat", "/nonexistent"], "does not exist"),
    "apply nothing": (["apply", "/nonexistent", "/none", "--out", "/nonexistent/out"], "nonexistent"),
    "no model": (
        ["run", "/nonexistent/m", "--out", "OUT", "--positive", "POS", "--negative", "NEG"],
        "/nonexistent/m",
    ),
    "no prompts": (["run", "MODEL", "--out", "OUT", "--positive", "/none.txt"], "/none.txt"),
}


@pytest.mark.parametrize("case", FAILS)
def test_what_fails_has_status_one_and_says_one_sentence(vectomy: Vectomy, tmp_path: Path, case: str) -> None:
    given, said = FAILS[case]
    places = {
        "MODEL": str(tiny_chat.folder()),
        "OUT": str(tmp_path / "out"),
        "POS": tiny_chat.sources()["positive"],
        "NEG": tiny_chat.sources()["negative"],
    }
    status, out, err = vectomy(*(places.get(word, word) for word in given))
    assert status == 1
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("vectomy: ")
    assert said in last
    assert sum(line.startswith("vectomy: ") for line in err.splitlines()) == 1
    assert "Traceback" not in err
    assert "unforeseen" not in err


@pytest.mark.unit
def test_what_was_not_foreseen_is_one_line_too_unless_debugging(
    vectomy: Vectomy, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("vectomy.workflows.stored_result.read_json", lambda _: 1 / 0)
    status, _, err = vectomy("report", str(tmp_path))
    assert (status, err.count("\n")) == (1, 1)
    assert "unforeseen ZeroDivisionError: division by zero" in err
    monkeypatch.setenv("VECTOMY_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        vectomy("report", str(tmp_path))


@pytest.mark.unit
def test_running_out_of_memory_names_the_remedy(vectomy: Vectomy, monkeypatch, tmp_path: Path) -> None:
    def full(_: object) -> None:
        raise MemoryError

    (tmp_path / "summary.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("vectomy.workflows.stored_result.read_json", full)
    status, _, err = vectomy("report", str(tmp_path))
    assert status == 1
    assert "--batch-tokens" in err


# A run


def test_run_prints_json_that_is_the_summary(vectomy: Vectomy, tmp_path: Path) -> None:
    status, out, err = vectomy("run", *words(tmp_path / "run", "--json"))
    assert status == 0
    summary = json.loads(out)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["command"].startswith("vectomy run ")
    assert summary["edited"]["refusal_count"] < summary["base"]["refusal_count"]
    assert "test" in err
    assert file_hashes(run_folder())["edit.safetensors"] == file_hashes(tmp_path / "run")["edit.safetensors"]


def test_run_prints_a_table_and_where_it_wrote(vectomy: Vectomy, tmp_path: Path) -> None:
    status, out, _ = vectomy("run", *words(tmp_path / "run"))
    assert status == 0
    for part in ("refusals", "edit baked", "KL per token", "4/4", "edit.safetensors"):
        assert part in out


def test_a_stage_goes_as_far_as_its_name(vectomy: Vectomy, tmp_path: Path) -> None:
    status, out, _ = vectomy("directions", *words(tmp_path / "run", "--json"))
    assert status == 0
    assert json.loads(out) == {"folder": str(tmp_path / "run"), "until": "directions"}
    assert (tmp_path / "run" / "directions.safetensors").exists()
    assert not (tmp_path / "run" / "edit.safetensors").exists()


def test_options_and_a_file_make_one_configuration(vectomy: Vectomy, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text('seed = 5\n[selection]\nkl_threshold = 0.7\nbehaviour_tokens = ["I"]\n')
    status, _, _ = vectomy(
        "baseline", *words(tmp_path / "run", "--config", str(config), "--seed", "6", "--no-bake")
    )
    assert status == 0
    held = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (held["seed"], held["selection"]["kl_threshold"], held["bake"]) == (6, 0.7, False)


# What reads a run


@pytest.mark.parametrize("given", ["folder", "file"])
def test_show_says_what_an_edit_changes(vectomy: Vectomy, given: str) -> None:
    path = run_folder() if given == "folder" else run_folder() / "edit.safetensors"
    status, out, _ = vectomy("show", str(path), "--json")
    shown, edit = json.loads(out), Edit.load(run_folder() / "edit.safetensors")
    assert status == 0
    assert shown["sha256"] == edit.sha256
    assert [row["writer"] for row in shown["operations"]] == [op.writer_name for op in edit.operations]
    assert shown["operations"][0] == {
        "writer": "embedding",
        "directions": 1,
        "strengths": [1.0],
        "norm": "none",
        "addition": None,
    }
    status, out, _ = vectomy("show", str(path))
    assert status == 0
    assert "layer 3 mlp" in out
    assert edit.sha256 in out


@pytest.mark.parametrize("strength", [None, "0.5"])
def test_apply_bakes_as_the_run_did(vectomy: Vectomy, tmp_path: Path, strength: str | None) -> None:
    more = ["--strength", strength] if strength else []
    status, out, _ = vectomy(
        "apply", str(run_folder()), str(tiny_chat.folder()), "--out", str(tmp_path / "m"), "--json", *more
    )
    assert status == 0
    assert "model.embed_tokens.weight" in json.loads(out)["edited"]
    same = (tmp_path / "m" / "model.safetensors").read_bytes() == (
        run_folder() / "checkpoint" / "model.safetensors"
    ).read_bytes()
    assert same == (strength is None)
    record, edit = (
        record_in(tmp_path / "m"),
        Edit.load(run_folder() / "edit.safetensors") * float(strength or 1),
    )
    assert record is not None
    assert record.edit_sha256 == edit.sha256
    assert record.tensors == tensor_hashes(Checkpoint.open(tmp_path / "m"))


def test_apply_to_another_model_is_refused(vectomy: Vectomy, tmp_path: Path) -> None:
    other = str(tiny_chat.folder(taught_=False))
    status, _, err = vectomy("apply", str(run_folder()), other, "--out", str(tmp_path / "m"))
    assert status == 1
    assert err.splitlines()[-1].startswith("vectomy: ")
    assert not (tmp_path / "m").exists()


def test_report_prints_the_summary_again(vectomy: Vectomy) -> None:
    status, out, _ = vectomy("report", str(run_folder()), "--json")
    assert status == 0
    assert json.loads(out) == json.loads((run_folder() / "summary.json").read_text())
    assert "edit baked" in vectomy("report", str(run_folder()))[1]


def test_chat_answers_lines_from_a_pipe_side_by_side(vectomy: Vectomy) -> None:
    """Strength 1 answers as the run's baked model did; strength 0 as the base; no line is lost, and
    the end ends it.
    """
    row = changed_row()
    lines = [row["prompt"], "/tokens 8", "/strength x", "/strength 0", "/reset", row["prompt"], "/fly"]
    status, out, _ = vectomy("chat", str(run_folder()), "--answer-tokens", "8", stdin="\n".join(lines) + "\n")
    assert status == 0
    first, _, second = out.partition("strength 0, 8 tokens")
    assert row["base"]["text"] in first
    assert row["baked"]["text"] in first
    assert second.count(row["base"]["text"]) == 2
    assert "/strength takes a number, not 'x'" in first
    assert "there is no /fly" in second
    assert second.count("/quit") == 1


def changed_row() -> dict[str, Any]:
    """A test prompt that the run's edit answers in another way than the base."""
    rows = read_jsonl(run_folder() / "completions.jsonl")
    return next(
        row for row in rows if row["set"] == "positive" and row["baked"]["text"] != row["base"]["text"]
    )


def test_chat_writes_one_object_a_line(vectomy: Vectomy, tmp_path: Path) -> None:
    """Answers, replies to commands and faults alike; what is saved is the library's dial."""
    row, file = changed_row(), tmp_path / "half.safetensors"
    lines = [row["prompt"], "/judge", f"/save {file}", "/strength 0.5", f"/save {file}", f"/save {file}2"]
    lines += ["/point 99:1", "/system be brief", "/export", f"/export {tmp_path / 'talk.jsonl'}", "/show all"]
    status, out, err = vectomy(
        "chat",
        *(str(run_folder()), "--answer-tokens", "8", "--json", "--judge", "refusal", "--system", "be brief"),
        stdin="\n".join(["/system", *lines]) + "\n",
    )
    assert status == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == len(lines) + 1
    system, answer, judged, saved, dial, kept, half, missing, brief, unnamed, exported, show = rows
    assert "no system prompt" in system["note"]
    assert (answer["base"], answer["edited"]) == (row["base"]["text"], row["baked"]["text"])
    assert answer["verdicts"] == judged["verdicts"]
    assert judged["verdicts"]["base"] == row["base"]["verdict"]
    edit = Edit.load(run_folder() / "edit.safetensors")
    assert saved["sha256"] == edit.sha256
    assert file.read_bytes() == edit.to_bytes()
    assert dial["strength"] == 0.5
    assert "nothing was written" in kept["note"]
    assert half["sha256"] == (edit * 0.5).sha256
    assert "has no point '99:1'" in missing["note"]
    assert "be brief" in brief["note"]
    assert "needs the name of a new file" in unnamed["note"]
    assert exported["turns"] == 1
    assert read_jsonl(tmp_path / "talk.jsonl")[0]["edited"] == answer["edited"]
    assert "/show takes both, edited, base" in show["note"]


def test_chat_with_one_voice_writes_plain_text(vectomy: Vectomy) -> None:
    row = changed_row()
    for voice, form in (("base", "base"), ("edited", "baked")):
        given = ["chat", str(run_folder()), "--answer-tokens", "8", "--show", voice]
        _, out, _ = vectomy(*given, stdin=row["prompt"] + "\n")
        assert out.splitlines()[-1] == row[form]["text"]


def test_chat_takes_another_point_of_the_run(vectomy: Vectomy) -> None:
    points = read_points(run_folder())
    other = next(point for point in points.points if not point.chosen and point.direction[1] > 0)
    row, given = changed_row(), ["chat", str(run_folder()), "--answer-tokens", "8", "--json"]
    lines = f"/point {points.chosen.name}\n/reset\n{row['prompt']}\n"
    _, out, err = vectomy(*given, "--point", other.name, stdin=row["prompt"] + "\n" + lines)
    first, *_, last = (json.loads(line) for line in out.splitlines())
    assert (first["point"], last["point"]) == (other.name, points.chosen.name), err
    assert last["edited"] == row["baked"]["text"]
    file = str(run_folder() / "edit.safetensors")
    status, _, err = vectomy("chat", file, "--base", str(tiny_chat.folder()), "--point", "3")
    assert status == 2
    assert "--point is of a finished run" in err


def test_chat_stops_at_quit(vectomy: Vectomy) -> None:
    status, out, _ = vectomy("chat", str(run_folder()), stdin="/quit\nshow the owl red\n")
    assert status == 0
    assert tiny_chat.REFUSAL not in out


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    shutil.copytree(run_folder(), tmp_path / "run")
    program = f"{sys.executable} -m vectomy.cli report {tmp_path / 'run'} --json | head -c 1"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr
