"""The file of `vectomy config init` holds every setting with its default, and the commands read
it.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vectomy.cli.config_file import read_config_file
from vectomy.cli.config_template import TABLES, write_template
from vectomy.core.after_run import AfterRun
from vectomy.core.config import Runtime
from vectomy.core.errors import ConfigError
from vectomy.core.evaluation_config import parse_evaluation
from vectomy.core.results import EvaluationResults
from vectomy.core.run_config import FLAT, RunConfig, make_config
from vectomy.healing.heal_config import parse_heal

if TYPE_CHECKING:
    from command_line import Vectomy

TIER = "unit"


def filled_in() -> dict[str, Any]:
    """The template with every line that has a value put in force."""
    lines = write_template().splitlines()
    text = "\n".join(
        line.removeprefix("#") if re.match(r"#\w+ = \S", line) and "# not set" not in line else line
        for line in lines
    )
    return tomllib.loads(text)


def test_every_default_of_the_file_is_that_of_the_command() -> None:
    values = filled_in()
    assert AfterRun.model_validate(values["run"].pop("after")) == AfterRun()
    assert make_config("model", {}, values["run"]) == make_config("model", {})
    assert parse_heal(values["heal"]) == parse_heal({})
    given = {"subjects": ["demo"], "prompts": ["bundled:refused"]}
    assert parse_evaluation({**values["evaluate"], **given}) == parse_evaluation(given)


@pytest.mark.parametrize("command", TABLES)
def test_every_setting_of_a_command_is_in_the_file(command: str) -> None:
    text = write_template().split(f"\n[{command}]\n")[1]
    text = re.split(rf"\n\[(?!{command}\.)", text)[0]
    kind = TABLES[command]
    keys = set(kind.model_fields) - {"model", "subjects", "runtime", "contrast", "selection"}
    keys |= set(kind.RUNTIME_KEYS)
    if kind is RunConfig:
        keys |= {place[-1] for place in FLAT.values()}
        for place in FLAT.values():
            table = ".".join((command, *place[:-1]))
            assert re.search(rf"^#?\[{re.escape(table)}\]$", text, re.M) or table == command, table
    assert keys <= set(re.findall(r"^#(\w+) =", text, re.M))


def test_the_file_as_written_changes_nothing(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert vectomy("config", "init")[:2] == (0, "written to vectomy.toml\n")
    for command in TABLES:
        values = read_config_file(command, None)
        assert values.keys() <= {"contrast", "selection", "after"}
        assert not any(values.pop("after", {}))
        if command == "run":
            assert make_config("model", {}, values) == make_config("model", {})
    status, _, err = vectomy("config", "init")
    assert status == 2
    assert "--overwrite" in err
    assert vectomy("config", "init", "--overwrite")[0] == 0
    assert vectomy("config", "init", "--out", "-")[1] == (tmp_path / "vectomy.toml").read_text()
    assert vectomy("config", "init", "--out", "settings")[0] == 2


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "vectomy.toml"
    file.write_text(
        "[run]\nseed = 3\n[run.contrast]\nn_fit = 20\n[heal]\nepochs = 2.0\n[evaluate]\nlimit = 7\n",
        encoding="utf-8",
    )
    return file


def test_the_working_folder_s_file_is_read_and_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_config_file("run", None) == {"seed": 3, "contrast": {"n_fit": 20}}
    assert capsys.readouterr().err.replace("\n", "") == (
        f"settings of {project}: seed = 3, contrast.n_fit = 20"
    )
    assert read_config_file("heal", None) == {"epochs": 2.0}
    assert read_config_file("evaluate", None) == {"limit": 7}
    # A file that is given takes its place, with or without tables.
    other = project.with_name("other.toml")
    other.write_text("seed = 5\n", encoding="utf-8")
    assert read_config_file("run", other) == {"seed": 5}
    other.write_text("[run]\nseed = 6\n", encoding="utf-8")
    assert read_config_file("run", other) == {"seed": 6}
    assert read_config_file("heal", other) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rnu]\nseed = 1\n", r"unknown key 'rnu' \(did you mean run\?\); it holds the tables \[run\]"),
        ("seed = 1\n", "unknown key 'seed'"),
        ("run = 1\n", "'run' of vectomy.toml is 1"),
        ("[run]\ntrust_remote_code = true\n", "--trust-remote-code"),
        ("[run", "vectomy.toml does not parse"),
    ],
)
def test_a_wrong_file_in_the_working_folder_is_named(project: Path, text: str, message: str) -> None:
    project.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config_file("run", None)


# What a file that lies in the working folder may not decide, for each command that reads one.
SENT_OR_RUN = (
    "[run]\ntrust_remote_code = true",
    "[run.runtime]\ntrust_remote_code = true",
    "[heal.runtime]\ntrust_remote_code = 1",
    '[evaluate.runtime]\ntrust_remote_code = "yes"',
    '[run]\njudge = "openai:https://example.org#m"',
    '[heal]\njudge = "OpenAI:https://example.org"',
    '[evaluate]\njudge = "openai:https://example.org"',
    '[evaluate]\nengine = "openai:http://example.org"',
    '[evaluate]\nbase = "openai:https://example.org"',
    '[evaluate]\ntasks = ["arc_easy", "mine.yaml"]',
    '[heal]\ntasks = "quick,mine.yml"',
    '[heal]\nreport_to = "trackio"',
    '[run.after]\nreport_to = "wandb"',
    '[run.after]\nthen = "push"\nthen_to = "me/mine"',
)


@pytest.mark.parametrize("text", SENT_OR_RUN)
def test_a_found_file_runs_no_code_and_sends_nothing_but_a_given_one_may(project: Path, text: str) -> None:
    project.write_text(text, encoding="utf-8")
    command = re.split(r"[\[.\]]", text)[1]
    with pytest.raises(ConfigError, match=r"only where the command says so: give --\w+"):
        read_config_file(command, None)
    assert read_config_file(command, project) == tomllib.loads(text)[command]
    # The table of another command is not in force.
    assert read_config_file({"run": "heal"}.get(command, "run"), None) == {}


def test_options_override_the_file(project: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(
        "vectomy.workflows.evaluate.evaluation.evaluate_models",
        lambda config, out, **_: configs.append(config) or EvaluationResults(),
    )
    words = ("evaluate", "demo", "--prompts", "bundled:refused", "--out", "out", "--json")
    for more, limit in (((), 7), (("--limit", "2"), 2)):
        assert vectomy(*words, *more)[0] == 0
        assert configs[-1].limit == limit
    project.write_text("[evaluate]\nlimit = 0\n", encoding="utf-8")
    assert "configuration key 'limit' is 0" in vectomy(*words)[2]
    assert "--limit is 0" in vectomy(*words, "--limit", "0")[2]


def test_the_prompts_of_an_evaluation_may_come_from_a_file(
    project: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(
        "vectomy.workflows.evaluate.evaluation.evaluate_models",
        lambda config, out, **_: configs.append(config) or EvaluationResults(),
    )
    words = ("evaluate", "demo", "--out", "out", "--json")
    status, _, err = vectomy(*words)
    assert status == 2
    assert "give --prompts" in " ".join(err.split())
    project.write_text('[evaluate]\nprompts = ["bundled:refused"]\n', encoding="utf-8")
    assert vectomy(*words)[0] == 0
    assert vectomy(*words, "--prompts", "bundled:harmless")[0] == 0
    assert [config.prompts for config in configs] == [("bundled:refused",), ("bundled:harmless",)]


def test_a_file_that_is_given_goes_over_the_one_that_is_found(project: Path, vectomy: Vectomy) -> None:
    source, again = project.with_name("axolotl.yaml"), project.with_name("again.yaml")
    source.write_text("base_model: some/model\nrl: dpo\nnum_epochs: 3\n", encoding="utf-8")
    given = ("heal", "some/model", "--from-axolotl", str(source), "--export-axolotl", str(again))
    for more, epochs in (((), 3), (("--config", str(project)), 2), (("--epochs", "5"), 5)):
        again.unlink(missing_ok=True)
        status, _, err = vectomy(*given, *more)
        assert status == 0, err
        assert float(re.findall(r"num_epochs: (\S+)", again.read_text("utf-8"))[0]) == epochs


def test_the_schema_knows_every_key_and_its_choices(vectomy: Vectomy) -> None:
    schema = json.loads(vectomy("config", "schema")[1])
    # The template lists the keys of the classes by a walk of its own.
    for name, part in re.findall(r"^\[(\w+)\]$(.*?)(?=^\[\w+\]$|\Z)", write_template(), re.M | re.S):
        keys = set(re.findall(r"^#?(\w+) =", part.partition(f"[{name}.")[0], re.M))
        tables = set(re.findall(rf"^#?\[{name}\.(\w+)\]$", part, re.M))
        assert len(keys) > 10
        assert set(schema["properties"][name]["properties"]) == keys | tables
    assert set(schema["properties"]) == set(TABLES)
    run = schema["properties"]["run"]
    assert set(Runtime.model_fields) <= set(run["properties"])
    assert "gradient" in json.dumps(run["properties"]["recipe"])
    named = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert named <= set(schema["$defs"])
