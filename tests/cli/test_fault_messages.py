"""Eighty faults of a user's things and machine. Each is answered in one sentence with the thing and
the remedy.

Ten each of model folders, prompt files, Edits, run folders and machines, and thirty of options. The
words that a message has to hold are the path or value at fault and the key of what to do next.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import pytest
import tiny_chat
import torch
from faults import change_edit, change_json, change_weight, cut, make_faulty, remove, write

from vectomy.core.file_lock import hold_lock

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "chat"

BASE = "BASE"
RUN = "run BASE --positive POSITIVE --negative NEGATIVE --recipe arditi --answer-tokens 8 --device cpu"
SAME_RUN = f"{RUN} --n-search 4 --n-test 4 --out X"


def fill(command: str, thing: Path | str, tmp_path: Path) -> list[str]:
    sources = tiny_chat.sources()
    places = {
        "BASE": str(tiny_chat.folder()),
        "POSITIVE": sources["positive"],
        "NEGATIVE": sources["negative"],
        "EDIT": str(faults.run() / "edit.safetensors"),
        "RUN": str(faults.run()),
        "OUT": str(tmp_path / "out"),
        "X": str(thing),
    }
    return [re.sub(r"\b(X|[A-Z]{3,})\b", lambda m: places.get(m[1], m[1]), word) for word in command.split()]


def check_message(err: str, status: int, wanted: int, *parts: str) -> None:
    """One sentence, without the words of a program that has failed."""
    message = err.strip().splitlines()[-1]
    assert status == wanted, err
    for word in ("Traceback", "unforeseen", "Errno", "vectomy: vectomy", "NoneType", "object at 0x"):
        assert word not in err, err
    for part in parts:
        assert re.search(part, message), (part, message)


# (command with X, what was done to a sound model folder, parts of the message)
MODELS = {
    "config.json cut": ("plan X", cut("config.json"), ("X/config.json", "download it again")),
    "weights cut": ("plan X", cut("model.safetensors"), ("X/model.safetensors", "download it again")),
    "a shard is missing": (
        "plan X",
        faults.indexed_elsewhere,
        ("X/weights-of-nobody.safetensors is missing", "download it again"),
    ),
    "no tokenizer": (
        f"{RUN.replace(BASE, 'X')} --out OUT",
        remove("tokenizer.json", "tokenizer_config.json"),
        ("X has no tokenizer", "copy it from the model"),
    ),
    "tokenizer cut": (
        f"{RUN.replace(BASE, 'X')} --out OUT",
        cut("tokenizer.json"),
        ("X/tokenizer.json does not parse", "download it again"),
    ),
    "no chat template": (
        f"{RUN.replace(BASE, 'X')} --out OUT",
        remove("chat_template.jinja"),
        ("X has no chat template", "add chat_template.jinja"),
    ),
    "integers for weights": (
        "plan X",
        change_weight("model.layers.1.mlp.down_proj.weight", lambda value: value.to(torch.int32)),
        (r"layers\.1\.mlp\.down_proj\.weight' of X is stored as I32", "bfloat16 release"),
    ),
    "NaN in the weights": (
        f"{RUN.replace(BASE, 'X')} --out OUT",
        change_weight("model.layers.2.mlp.down_proj.weight", faults.with_nan),
        ("X gives NaN", r"layers\.2\.mlp\.down_proj", "download the model again"),
    ),
    "a misspelt model type": (
        "plan X",
        change_json("config.json", model_type="lama"),
        ("X/config.json says model_type 'lama'", r"did you mean llama\?"),
    ),
    "pickles only": ("plan X", faults.pickled, ("X holds pickle weights only", "save_pretrained")),
}
PROMPTS = {
    "empty.txt": ("", (r"empty\.txt is empty", "one prompt a line")),
    "column.csv": ("id,colour\n1,red\n2,blue\n", ("has none of the columns", r"it has id, colour.*#COLUMN")),
    "commas.csv": ("prompt,label\nshow the owl, please,1\n", (r"row 1 \(line 2\)", "into quotes")),
    "binary.jsonl": (b"\xff\xfa\x00\x81", (r"binary\.jsonl is not", "save it as UTF-8")),
    "cut.json": ('["show the owl red", "sh', (r"cut\.json does not parse", "Mend it there")),
    "double.txt": ("show the owl red\n" * 40, (r"double\.txt\) are 1 .*39 double", "add prompts")),
    "null.jsonl": ('{"prompt": null}\n' * 8, ("only empty prompts in column 'prompt'", "#COLUMN")),
    "long.txt": (
        "\n".join([*faults.TEXTS[:9], "show the owl red " * 30]),
        ("has 12. tokens", "shorten it, or lower --answer-tokens"),
    ),
    "prompts.yaml": ("- a\n", (r"prompts\.yaml has the unknown suffix \.yaml", r"use \.jsonl")),
    "positiv.json": (None, (r"positiv\.json does not exist", r"did you mean .*positive\.json\?")),
}
EDITS = {
    "cut": ("show X", cut(), ("X is no Edit file: it is cut", "copy it again")),
    "a text": (
        "chat X",
        lambda path: path.write_text("my edit", encoding="utf-8"),
        ("X is no Edit file", "copy it again"),
    ),
    "of a newer version": (
        "verify BASE --edit X",
        change_edit(lambda header: header.update(version=2)),
        ("X is an Edit of version 2", "update vectomy"),
    ),
    "NaN in the direction": (
        "apply X BASE --out OUT",
        change_edit(tensors=faults.with_nan),
        ("X is a damaged Edit file.*NaN", "make it again"),
    ),
    "of another width": (
        "apply X BASE --out OUT",
        change_edit(tensors=lambda value: value[:, :16]),
        (r"X is a damaged Edit file.*width 32", "make it again"),
    ),
    "an unknown component": (
        "apply X BASE --out OUT",
        change_edit(lambda header: header["operations"][1].update(component="atention")),
        ("X is a damaged Edit file", r"did you mean attention\?"),
    ),
    "of another base": (
        "apply X BASE --out OUT",
        change_edit(lambda header: header["base"].update(fingerprint="f" * 64)),
        ("weights ffffffffffff", "Use the base it was made for"),
    ),
    "strengths that are words": (
        "evaluate BASE X --prompts POSITIVE --out OUT",
        change_edit(lambda header: header["operations"][0].update(strengths=["all"])),
        ("X is a damaged Edit file: a value of its header", "make it again"),
    ),
    "a direction": (
        "apply X BASE --out OUT",
        lambda path: torch.save({}, path) or faults.save_file({"direction": torch.ones(32)}, path),
        ("X is a direction, not an Edit", "vectomy edit new MODEL --direction X"),
    ),
    "misspelt": (
        "apply RUN/edt.safetensors BASE --out OUT",
        lambda path: None,
        (r"edt\.safetensors does not exist", r"did you mean .*edit\.safetensors\?"),
    ),
}
RUNS = {
    "finished with another seed": (
        f"{SAME_RUN} --seed 1",
        lambda path: None,
        ("seed: 0 -> 1", "--overwrite"),
    ),
    "a stage's record is spoilt": (
        SAME_RUN,
        write("stages/baseline.json", "garbage{"),
        ("X/stages/baseline.json does not parse", "delete it and run again"),
    ),
    "no summary": (
        "report X",
        remove("summary.json"),
        ("X is not finished", "vectomy run BASE --config X/config.json --out X"),
    ),
    "the summary is cut": ("report X", cut("summary.json"), ("X/summary.json", "delete it and run again")),
    "no Edit": (
        "apply X BASE --out OUT",
        remove("edit.safetensors"),
        ("X is a run without an Edit", "finish"),
    ),
    "half of the checkpoint is gone": (
        "verify X --edit EDIT",
        remove("checkpoint/model.safetensors"),
        ("X/checkpoint holds no weights any more", "write it again.*vectomy run"),
    ),
    "of a newer version": (
        SAME_RUN,
        change_json("vectomy-run.json", version=99),
        (r"X/vectomy-run\.json has version 99", "update vectomy"),
    ),
    "a summary of a newer version": (
        "report X",
        change_json("summary.json", version=99),
        (r"X/summary\.json has version 99", "update vectomy"),
    ),
    "of another program": (
        SAME_RUN,
        remove("vectomy-run.json"),
        ("X holds other files and no vectomy run", "choose an empty folder"),
    ),
    "the evaluation of a run": (
        "evaluate BASE --prompts POSITIVE --out X",
        lambda path: None,
        ("X is the folder of a `vectomy run`", "choose another --out"),
    ),
}


@pytest.mark.parametrize("fault", MODELS)
def test_a_faulty_model_folder_is_named(fault: str, tmp_path: Path, vectomy: Vectomy) -> None:
    command, spoil, parts = MODELS[fault]
    folder = make_faulty(tmp_path / "model", tiny_chat.folder(), spoil)
    check_all(vectomy, command, folder, tmp_path, parts)


@pytest.mark.parametrize("name", PROMPTS)
def test_a_faulty_prompt_file_is_named(name: str, tmp_path: Path, vectomy: Vectomy) -> None:
    data, parts = PROMPTS[name]
    rows = {"positive.json": "[]"} if data is None else {name: data}
    file = faults.prompts(tmp_path, rows) / name
    check_all(vectomy, f"{RUN.replace('POSITIVE', 'X')} --out OUT", file, tmp_path, parts)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", EDITS)
def test_a_faulty_edit_is_named(fault: str, tmp_path: Path, vectomy: Vectomy) -> None:
    command, spoil, parts = EDITS[fault]
    file = make_faulty(tmp_path / "my.safetensors", faults.run() / "edit.safetensors", spoil)
    check_all(vectomy, command, file, tmp_path, parts)


@pytest.mark.parametrize("fault", RUNS)
def test_a_faulty_run_folder_is_named(fault: str, tmp_path: Path, vectomy: Vectomy) -> None:
    command, spoil, parts = RUNS[fault]
    folder = make_faulty(tmp_path / "my-run", faults.run(), spoil)
    check_all(vectomy, command, folder, tmp_path, parts)


def check_all(
    vectomy: Vectomy, command: str, thing: Path, tmp_path: Path, parts: tuple[str, ...], wanted: int = 1
) -> None:
    status, _, err = vectomy(*fill(command, thing, tmp_path))
    named = [re.sub(r"\b(X|BASE)\b", lambda m: re.escape(fill(m[1], thing, tmp_path)[0]), p) for p in parts]
    check_message(err, status, wanted, *named)


# The machine

MACHINES = {
    "the place is a device": (
        "apply EDIT BASE --out /dev/full",
        ("/dev/full is a device", "give a new folder"),
    ),
    "no folder can be made": (
        "apply EDIT BASE --out /proc/x/y",
        ("/proc/x/y cannot be written", "choose another"),
    ),
    "a name is too long": (
        f"edit new BASE --direction random:0 --out {'n' * 300}",
        ("n{300} cannot be written", "choose a shorter one"),
    ),
    "a part of the path is a file": (
        "apply EDIT BASE --out POSITIVE/out",
        ("out cannot be written", "choose another folder"),
    ),
    "no such device": (
        f"{RUN} --device cuda:99 --out OUT",
        ("no device 'cuda:99'", "usable: auto, cpu"),
    ),
}


@pytest.mark.parametrize("fault", MACHINES)
def test_a_machine_without_the_place_or_device_is_named(
    fault: str, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, parts = MACHINES[fault]
    monkeypatch.chdir(tmp_path)
    check_all(vectomy, command.replace("--device cpu ", ""), tmp_path, tmp_path, parts)


def test_a_run_folder_in_use_is_named(tmp_path: Path, vectomy: Vectomy) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    release = hold_lock(folder / "vectomy-run.json")
    assert release is not None
    parts = ("another run is at work in X", "wait for it or choose another --out")
    check_all(vectomy, f"{RUN} --out X", folder, tmp_path, parts)
    release()


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        ("apply EDIT BASE --out X/new", ("X/new cannot be written", "choose a folder of your own")),
        ("plan X/model", ("X/model/model.safetensors cannot be read", r"chmod a\+r")),
    ],
)
def test_a_missing_right_is_named(
    command: str, parts: tuple[str, ...], tmp_path: Path, vectomy: Vectomy
) -> None:
    folder, sound = tiny_chat.scratch(), tiny_chat.scratch()
    make_faulty(folder / "model", tiny_chat.folder(), lambda path: (path / "model.safetensors").chmod(0))
    make_faulty(sound / "model", tiny_chat.folder(), lambda path: None)
    # What the command imports may lie where nobody may read.
    assert vectomy(*fill(command, sound, tmp_path))[0] == 0
    for opened in (tiny_chat.folder(), faults.run(), faults.run().parent):
        opened.chmod(0o755)
    for file in (*tiny_chat.folder().iterdir(), faults.run() / "edit.safetensors"):
        file.chmod(0o644)
    folder.chmod(0o555)
    with faults.as_nobody():
        check_all(vectomy, command, folder, tmp_path, parts)


def test_a_missing_package_is_named_before_any_work(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find(name, *more)
    )
    parts = ("needs the package peft", r"pip install 'vectomy\[lora\]'")
    check_all(vectomy, f"{RUN} --lora --out OUT", tmp_path, tmp_path, parts)


def test_a_full_disk_and_a_reader_that_has_gone_end_a_command_without_a_traceback(tmp_path: Path) -> None:
    """In processes of their own: the streams are the machine's."""
    command = [sys.executable, "-c", "from vectomy.cli import main; main()", "plan", "demo", "--help"]
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "no space is left where the output goes" in result.stderr
    read, wrote = os.pipe()
    os.close(read)
    with os.fdopen(wrote, "w") as broken:
        result = subprocess.run(command, stdout=broken, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr, result.stderr
    assert "unforeseen" not in result.stderr


# Misspelt names and values out of range, of all commands: status and parts of the message

ASKED_WRONGLY = {
    "rnu BASE": (2, r"did you mean run\?"),
    "run BASE --positve POSITIVE": (2, "--positive"),
    "run BASE --recipe gradint": (2, r"did you mean gradient\?"),
    "run BASE --trait verbosty --out OUT": (2, r"did you mean verbosity\?"),
    "run BASE --config RUN/confg.json": (2, r"does not exist .did you mean .*config\.json\?"),
    "run BASE --positive bundled:refusd": (1, r"did you mean refused\?"),
    "run BASE --positive POSITIVE[:x]": (1, r"no slice of .*write \[:400\]"),
    "run BASE --target-rate 1.5": (2, "--target-rate is 1.5: .*less than or equal to 1"),
    "run BASE --n-test 1": (2, "--n-test is 1: .*greater than or equal to 2"),
    f"{RUN} --recipe selective --out OUT": (1, "--keep SRC"),
    "evaluate BASE --prompts POSITIVE --judge refusl --out OUT": (2, r"did you mean refusal\?"),
    "evaluate BASE --prompts POSITIVE --text RUN/sumary.json --out OUT": (1, "did you mean .*summary"),
    "evaluate BASE RUNN --prompts POSITIVE --out OUT": (2, "RUNN' is nothing to evaluate"),
    "evaluate BASE RUN@x --prompts POSITIVE --out OUT": (2, "after the @ come strengths"),
    "apply RUN BASE --out OUT --as loar": (2, r"did you mean lora\?"),
    "apply RUN BASE --out OUT --strength nan": (1, "the strength nan; give a finite number"),
    "apply RUN BASE --out OUT --as lora --quant q8_0": (2, "--quant needs --as gguf"),
    "direction BASE --positive POSITIVE --negative NEGATIVE --position 5 --out OUT.safetensors": (
        2,
        "--position is 5: positions are counted back",
    ),
    "direction BASE --positive POSITIVE --negative NEGATIVE --layer 99 --out OUT.safetensors": (
        2,
        "--layer 99: .*layers 0 to 3",
    ),
    "edit new BASE --direction random:x --out OUT": (1, "random:SEED with a whole number"),
    "edit new BASE --direction EDIT --out OUT": (1, "it is an Edit"),
    "edit new BASE --direction random:0 --norm rows --out OUT": (2, r"did you mean row\?"),
    "heal BASE --edit RUN --objective dpoo --out OUT": (2, r"did you mean dpo\?"),
    "heal BASE --edit RUN --launch ddpp --out OUT": (2, r"did you mean ddp\?"),
    "heal BASE --out OUT": (2, "--edit FILE"),
    "judge -": (1, "stdin holds no rows"),
    "push RUN nobody --dry-run": (2, "give OWNER/NAME"),
    "push RUN nobody/x --dry-run --card none.md": (2, "the card none.md cannot be read .No such file"),
    "select BASE --from-scores none.json": (2, "needs --layers N, the number of layers of the model$"),
    "chat RUN --base RUN/checkpint": (1, r"did you mean .*checkpoint\?"),
}


@pytest.mark.parametrize("command", ASKED_WRONGLY)
def test_a_wrong_option_or_name_is_answered_with_the_right_one(
    command: str, tmp_path: Path, vectomy: Vectomy
) -> None:
    wanted, part = ASKED_WRONGLY[command]
    status, _, err = vectomy(*fill(command, tmp_path, tmp_path))
    check_message(err, status, wanted, part)
