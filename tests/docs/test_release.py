"""What a release is built from: absolute links and addresses, the citation, the notebook of a
hosted machine.
"""

import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from vectomy.cli import app

TIER = "unit"

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "release_metadata.py"))
HOME = "https://host.example/owner/name"
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("link", "absolute"),
    [
        ("[a](docs/x.md#part)", f"[a]({HOME}/blob/v1/docs/x.md#part)"),
        ("![a](docs/x.png)", f"![a]({HOME}/raw/v1/docs/x.png)"),
        ("[a](#part)", "[a](#part)"),
        ("[a](https://arxiv.org/abs/1)", "[a](https://arxiv.org/abs/1)"),
        ("`edit.only(layers=range(10))`", "`edit.only(layers=range(10))`"),
    ],
)
def test_a_link_to_a_file_names_the_repository(link: str, absolute: str) -> None:
    assert SCRIPT["with_absolute_links"](link, HOME, "v1") == absolute


def test_no_link_of_the_readme_is_relative_in_a_release() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    made = SCRIPT["with_absolute_links"](page, HOME, "v1")
    assert not re.findall(r"\]\((?![a-z]+:|#)[^)]*\)", made)
    assert f"]({HOME}/raw/v1/docs/" in made
    for target in re.findall(rf"{HOME}/(?:blob|raw)/v1/([^)#]+)", made):
        assert (ROOT / target).exists(), target


def test_the_addresses_of_a_release_are_in_its_metadata() -> None:
    assert "urls" not in tomllib.loads(PROJECT)["project"]
    made = tomllib.loads(SCRIPT["with_urls"](PROJECT, HOME, "v1"))["project"]
    assert made["urls"]["Homepage"] == HOME
    assert made["scripts"] == {"vectomy": "vectomy.cli:main"}


def test_the_citation_is_of_this_version_and_licence() -> None:
    project = tomllib.loads(PROJECT)["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert citation["cff-version"] == "1.2.0"


def test_the_container_copies_what_the_wheel_is_built_from() -> None:
    """hatchling reads the readme and the licence that pyproject.toml names."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    project = tomllib.loads(PROJECT)["project"]
    copied = set(" ".join(re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)).split())
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_notebook_is_one_and_says_that_it_was_not_run() -> None:
    notebook = json.loads((ROOT / "notebooks" / "colab_and_kaggle.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        outputs = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | outputs
        assert all(line.endswith("\n") for line in cell["source"][:-1])
    assert "**Not run here**" in "".join(cells[0]["source"])


def shown_commands() -> list[str]:
    notebook = json.loads((ROOT / "notebooks" / "colab_and_kaggle.ipynb").read_text(encoding="utf-8"))
    lines = [line.strip() for cell in notebook["cells"] for line in cell["source"]]
    return [line.removeprefix("!vectomy ") for line in lines if line.startswith("!vectomy ")]


@pytest.mark.parametrize("line", shown_commands())
def test_the_commands_of_the_notebook_parse(line: str) -> None:
    root = typer.main.get_command(app)
    name, *words = shlex.split(line)
    if name.startswith("-"):
        assert name in {flag for item in root.params for flag in item.opts}
        return
    with root.make_context("vectomy", [], resilient_parsing=True) as context:
        root.commands[name].make_context(name, words, parent=context)
