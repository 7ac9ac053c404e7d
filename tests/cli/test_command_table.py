"""The list of commands is shown without their modules, and says what they say."""

import re
from pathlib import Path

import pytest
import typer
from command_line import process

from vectomy.cli import app
from vectomy.cli.command_table import COMMANDS
from vectomy.cli.help import SectionedGroup

TIER = "unit"

# What is not there is said before torch is loaded.
MISSING = (
    "show nofile",
    "show ./no/file.safetensors",
    "report nofile",
    "pick nofile",
    "chat nofile",
    "plan nofile",
    "run ./nofile",
    "apply nofile demo --out OUT",
    "apply own/edit ./nofile --out OUT",
    "verify nofile --edit own/edit",
    "verify own/model --edit nofile",
    "compare nofile own/model",
    "compare demo no.gguf",
    "heal ./nofile",
    "heal demo --edit nofile",
    "edit new nofile --direction random:0 --out OUT",
    "direction nofile --out OUT",
)
SOURCE = Path(__file__).resolve().parents[2] / "src" / "vectomy" / "cli"


def test_the_table_says_what_the_modules_say() -> None:
    group = typer.main.get_command(app)
    said = [(row[1], row[0], row[2]) for row in SectionedGroup.list_rows(group)]
    assert said == [(entry.name, entry.section, entry.sentence) for entry in COMMANDS]


def test_every_module_of_a_command_is_in_the_table() -> None:
    modules = {f"vectomy.cli.{file.stem}" for file in SOURCE.glob("*_command.py")}
    assert modules == {entry.module for entry in COMMANDS}


@pytest.mark.parametrize("words", ["--help", "-h", "", "--version"])
def test_the_list_and_the_version_load_no_command_and_no_library(words: str) -> None:
    loaded = modules_of(words)
    assert not {name for name in loaded if name.endswith("_command")}
    assert not {"torch", "numpy", "huggingface_hub", "pydantic", "psutil"} & loaded


@pytest.mark.parametrize("words", ["run --help", "run --nothing", "--nothing", "nothing"])
def test_no_fault_of_usage_loads_torch(words: str) -> None:
    assert not {"torch", "transformers", "numpy"} & modules_of(words)


def test_what_is_not_there_is_said_before_torch_is_loaded(tmp_path: Path) -> None:
    """All in one process, for each that failed would load it."""
    done = process(f"""
import os, sys
from vectomy.cli import main
os.chdir({str(tmp_path)!r})
for words in {MISSING!r}:
    sys.argv[1:] = words.split()
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 1, words
    assert not {{"torch", "transformers", "numpy"}} & set(sys.modules), words
""")
    assert done.returncode == 0, done.stderr
    sentences = done.stderr.splitlines()
    assert len(sentences) == len(MISSING)
    assert all("does not exist" in sentence for sentence in sentences), sentences
    assert not list(tmp_path.iterdir())


def modules_of(words: str) -> set[str]:
    """The names of the modules that a command line loads."""
    done = process(f"""
import sys
sys.argv[1:] = {words.split()!r}
from vectomy.cli import main
try:
    main()
except SystemExit:
    pass
print("loaded:", *sys.modules)
""")
    loaded = re.search(r"^loaded:(.*)$", done.stdout, re.MULTILINE)
    assert loaded, done.stderr
    return set(loaded[1].split())
