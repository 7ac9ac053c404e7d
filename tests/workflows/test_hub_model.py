"""Models on the Hub: gated ones say what to do in every command, OWNER/NAME@REVISION is that
revision and its commit is recorded, and code of a repository runs where it is asked for alone.
"""

import ast
import json
from pathlib import Path

import pytest
import tiny_chat
import torch
from command_line import Vectomy
from hub_server import Hub, Repo, commit_of

from vectomy.core.errors import CheckpointError, UsageError
from vectomy.core.repo_name import split_revision
from vectomy.models import fetch, is_local
from vectomy.workflows.evaluate.subjects import _parse_spec

TIER = "chat"

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vectomy"
GATED, TINY = "me/gated", "me/tiny"


@pytest.fixture
def tiny_repo(hub: Hub) -> Hub:
    """me/tiny: the tiny chat model on branch v1; main is of another day and holds no model."""
    files = {file.name: file.read_bytes() for file in tiny_chat.folder().iterdir()}
    card = b"---\nlicense: mit\n---\n"
    branches = {"main": {"config.json": b"no model"}, "v1": {**files, "README.md": card}}
    hub.repos[TINY] = Repo(False, branches)
    return hub


@pytest.fixture
def gated_repo(hub: Hub, request: pytest.FixtureRequest) -> Hub:
    hub.repos[GATED] = Repo(False, {"main": {"config.json": b"{}", "edit.safetensors": b""}})
    for method in ("GET", "HEAD"):
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model is restricted"}
        hub.answers.append((method, f"/{GATED}/resolve/", request.param, headers, "restricted"))
    return hub


COMMANDS = (
    *(f"{command} {GATED}" for command in ("plan", "run", "baseline", "collect", "directions", "select")),
    f"direction {GATED} --out d.safetensors",
    f"edit new {GATED} --direction random:1 --out e.safetensors",
    f"apply edit.safetensors {GATED} --out new",
    f"apply {GATED} {GATED} --out new",
    f"compare {GATED} {GATED}",
    f"verify {GATED} --edit edit.safetensors",
    f"chat edit.safetensors --base {GATED}",
    f"evaluate {GATED} --prompts bundled:refused --out measured",
    f"reproduce {GATED}",
    f"heal {GATED} --edit edit.safetensors --preferences rows.jsonl --out healed",
)


@pytest.mark.parametrize("gated_repo", [401, 403], indirect=True)
def test_a_gated_model_says_what_to_do_in_every_command(
    gated_repo: Hub, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vectomy.edits.edit import Edit

    monkeypatch.chdir(tmp_path)
    Edit.ablation(tiny_chat.folder(), torch.ones(32)).save(tmp_path / "edit.safetensors")
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row), encoding="utf-8")
    prompts = " ".join(f"--{side} {file}" for side, file in tiny_chat.sources().items())
    untold = {}
    for command in COMMANDS:
        fitted = command.split()[0] in ("run", "baseline", "collect", "directions", "select", "direction")
        status, _, told = vectomy(*f"{command} {prompts if fitted else ''}".split())
        parts = (f"accept its terms on https://huggingface.co/{GATED}", "hf auth login")
        if status == 0 or not all(part in told for part in parts):
            untold[command] = told
    assert not untold


def test_a_run_takes_the_revision_and_its_summary_names_the_commit(
    tiny_repo: Hub, tmp_path: Path, vectomy: Vectomy
) -> None:
    prompts = [word for side, file in tiny_chat.sources().items() for word in (f"--{side}", file)]
    options = ["--device", "cpu", "--answer-tokens", "8", "--recipe", "arditi", "--layer-fraction", "1.0"]
    out = tmp_path / "run"
    status, _, told = vectomy("run", f"{TINY}@v1", "--out", str(out), *prompts, *options, "--yes")
    assert status == 0, told
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    commit = commit_of(TINY, tiny_repo.repos[TINY], "v1")
    assert (summary["model"], summary["base_model"]) == (f"{TINY}@v1", TINY)
    assert summary["revision"] == commit
    assert summary["license"] == {"license": "mit"}
    record = json.loads((out / "checkpoint" / "vectomy" / "record.json").read_text(encoding="utf-8"))
    assert (record["base"]["model"], record["base"]["revision"]) == (TINY, commit)
    # The other revision was not fetched, nor the name with the revision taken for a repository's.
    assert not tiny_repo.count("GET", "resolve/main") + tiny_repo.count("GET", "%40")


def test_the_newest_commit_and_an_unknown_revision(tiny_repo: Hub) -> None:
    commit = commit_of(TINY, tiny_repo.repos[TINY], "v1")
    assert fetch(f"{TINY}@v1").name == commit != fetch(TINY).name
    with pytest.raises(CheckpointError, match=f"'{TINY}' on the Hub has no branch, tag or commit 'v2'"):
        fetch(f"{TINY}@v2")
    # A revision in the name counts before one that a record adds.
    assert fetch(f"{TINY}@v1", revision="v2").name == commit


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("me/tiny", ("me/tiny", None)),
        ("me/tiny@v1", ("me/tiny", "v1")),
        ("me/tiny@refs/pr/3", ("me/tiny", "refs/pr/3")),
        ("./me/tiny@v1", ("./me/tiny@v1", None)),
        ("demo@v1", ("demo@v1", None)),
        ("me/tiny@", ("me/tiny@", None)),
    ],
)
def test_a_revision_stands_behind_an_at_sign(name: str, parts: tuple[str, str | None]) -> None:
    assert split_revision(name) == parts


def test_a_folder_that_exists_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_local("runs/new@v1")
    (tmp_path / "runs" / "new@v1").mkdir(parents=True)
    assert split_revision("runs/new@v1") == ("runs/new@v1", None)
    assert is_local("runs/new@v1")
    assert is_local("C:/models")


def test_what_is_evaluated_may_name_a_revision_and_strengths_stay_those_of_edits() -> None:
    parsed = _parse_spec("me/tiny@v1")
    assert (parsed.kind, parsed.name, parsed.strengths) == ("model", "me/tiny@v1", None)
    with pytest.raises(UsageError, match="only Edits take strengths"):
        _parse_spec("me/tiny@0.5")


# Code of a repository


LOADERS = {
    *("load_model", "load_layerwise", "load_without_weights", "probe_architecture", "open_base"),
    *("open_model", "verify", "with_measurement", "projections", "search_again", "reproduce"),
}
# It loads a classifier of a known type, not the model that is edited.
EXEMPT = {"classifier_judge.py"}


def silent_loads(file: Path) -> list[str]:
    """Calls of a loader that pass neither a runtime nor the right to run code."""
    calls = [
        node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
    ]
    return [
        ast.unparse(call)[:80]
        for call in calls
        if isinstance(call.func, ast.Name)
        and call.func.id in LOADERS
        # A function of this name without arguments has them bound.
        and call.args
        # A constant tells nothing: it is what the caller was told that has to arrive.
        and not {"runtime", "trust_remote_code"}
        & {word.arg for word in call.keywords if not isinstance(word.value, ast.Constant)}
    ]


def test_every_loader_is_told_whether_code_may_run() -> None:
    silent = {file.name: silent_loads(file) for file in SOURCE.rglob("*.py") if file.name not in EXEMPT}
    assert not {name: calls for name, calls in silent.items() if calls}


def test_a_published_record_grants_no_right_to_run_code() -> None:
    from vectomy.workflows.repeat_search import _config

    recorded = {
        "contrast": {side: {"prompts": f"bundled:{side}"} for side in ("positive", "negative")},
        "trust_remote_code": True,
    }
    assert not _config(recorded, "demo", Path(), False).runtime.trust_remote_code
    assert _config(recorded, "demo", Path(), True).runtime.trust_remote_code
