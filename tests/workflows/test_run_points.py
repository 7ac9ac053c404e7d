"""The points of finished runs: what each recipe's run holds, and the Edit of a point."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import tiny_chat
import tiny_style
import torch
from command_line import Vectomy
from finished_run import finished_run, scores_in
from trait_runs import trait

from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.run_folder import write_json
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.hub.published_source import _read_summary
from vectomy.search.estimators import Directions
from vectomy.workflows.run import run
from vectomy.workflows.run_points import open_point, read_points
from vectomy.workflows.trait_config import make_trait_run

TIER = "chat"

SMALL = {"n_search": 6, "n_test": 4, "bake": False}
RUNS = {
    "gradient": {"steps": 8, **SMALL},
    "tpe": {"trials": 4, **SMALL},
    "arditi": {"behaviour_tokens": ("I",), **SMALL},
    "article": {"candidates": 2, "shown_prompts": 2, **SMALL},
}


@cache
def run_of(recipe: str) -> Path:
    if recipe == "distill":
        sizes = {"n_fit": 48, "n_search": 8, "n_test": 4, "answer_tokens": 8, "bake": False}
        config = make_trait_run(
            str(tiny_style.folder()),
            trait(form="amplify"),
            {**sizes, "device": "cpu", "dtype": "float32"},
        )
        out = tiny_style.scratch() / "trait"
        run(config, out)
        return out
    return finished_run(recipe=recipe, **RUNS[recipe])


@pytest.mark.parametrize("recipe", [*RUNS, "distill"])
def test_the_taken_point_is_the_edit_of_the_run(recipe: str) -> None:
    points = read_points(run_of(recipe))
    assert [point.name for point in points.points].count(points.chosen.name) == 1
    assert (
        open_point(points.folder, points.chosen).to_bytes()
        == (run_of(recipe) / "edit.safetensors").read_bytes()
    )
    settings = json.loads((run_of(recipe) / "summary.json").read_text("utf-8"))["settings"]
    assert ("more degenerate answers than the base" in points.rule) == ("max_degenerate" in settings)
    summary = json.loads((run_of(recipe) / "summary.json").read_text("utf-8"))
    assert points.base.refusal_rate == summary["base"]["refusal_rate"]
    assert points.taken.kl_per_token == summary["edited"]["kl_per_token"]


@pytest.mark.parametrize("recipe", ["gradient", "tpe"])
def test_a_searched_run_holds_the_edit_of_every_point(recipe: str) -> None:
    """The rule on the listed numbers takes the listed point; an Edit is that of its file."""
    points = read_points(run_of(recipe))
    frontier = scores_in(run_of(recipe))["frontier"]
    assert len(points.points) >= len(frontier) > (recipe == "gradient")
    reached = [point for point in points.points if (point.rate or 0) <= 0.05 and point.rate is not None]
    nearest = min(points.points, key=lambda point: (point.rate, point.kl))
    assert points.chosen == (min(reached, key=lambda point: point.kl) if reached else nearest)
    for row in frontier:
        point = next(point for point in points.points if point.kl == row["kl"])
        stored = Edit.load(run_of(recipe) / row["edit"])
        assert open_point(points.folder, point).to_bytes() == stored.to_bytes()
        assert point.degenerate == row.get("degenerate")
        place = stored.about["direction"]
        if recipe == "gradient":
            assert {key: place[key] for key in ("step", "strength")} == {
                key: row[key] for key in ("step", "strength")
            }
        else:
            assert place == row["direction"]
        assert open_point(points.folder, point, 0.5).sha256 == (stored * 0.5).sha256
    assert len({open_point(points.folder, point).sha256 for point in points.points}) == len(points.points)


@pytest.mark.parametrize("recipe", ["gradient", "tpe"])
def test_an_edit_of_a_frontier_says_where_the_search_found_it(recipe: str, tmp_path: Path) -> None:
    """Also where its file has the place of the chosen one, as older runs wrote it."""
    folder = tmp_path / "old"
    shutil.copytree(run_of(recipe), folder)
    scores = scores_in(folder)
    if recipe == "tpe":
        # So that the frontier has another point than the chosen one.
        held = {row["number"] for row in scores["frontier"]}
        scores["trial"] = next(row["number"] for row in scores["candidates"] if row["number"] not in held)
    for row in scores["frontier"]:
        row.pop("direction", None)
        edit = Edit.load(folder / row["edit"])
        about = {**edit.about, "direction": scores["chosen"]}
        replace(edit, about=about).save(folder / row["edit"], overwrite=True)
    write_json(folder / "scores.json", scores)
    points = [point for point in read_points(folder).points if not point.chosen]
    assert points
    for point in points:
        edit = open_point(folder, point)
        place = edit.about["direction"]
        # What is said of the Edit where it is published.
        said = _read_summary(None, edit).get("direction")
        assert said == (place if recipe == "gradient" else None)
        given = Edit.load(run_of(recipe) / str(point.edit)).about["direction"]
        if recipe == "gradient":
            name = f"{given['step']}" + (f"@{given['strength']:g}" if given["strength"] != 1.0 else "")
            assert (place, name) == (given, point.name)
        else:
            # The layer of a trial was not stored.
            assert place == {"number": int(point.name)}
            assert {"site", "layer"} <= set(given)


def test_a_point_without_a_file_is_no_other_point(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_of("gradient"), folder)
    scores = scores_in(folder)
    for row in scores["frontier"]:
        del row["edit"]
    write_json(folder / "scores.json", scores)
    points = read_points(folder)
    other = next(point for point in points.points if not point.chosen)
    with pytest.raises(UsageError, match=rf"does not hold point {other.name}: its Edit was not stored"):
        open_point(folder, other)
    assert open_point(folder, points.chosen).operations


@pytest.mark.parametrize("recipe", ["arditi", "article"])
def test_a_direction_that_was_not_taken_makes_the_edit_that_ablates_it(recipe: str) -> None:
    folder = run_of(recipe)
    points = read_points(folder)
    # In front of the first block the template's tokens are the same for both sets.
    others = [point for point in points.points if not point.chosen]
    other = next(point for point in others if point.direction and point.direction[1] > 0)
    assert other.direction is not None
    edit = open_point(folder, other)
    vector = Directions.load(folder / "directions.safetensors").at(*other.direction)  # type: ignore[arg-type]
    expected = Edit.ablation(Checkpoint.open(tiny_chat.folder()), vector)
    assert [op.sort_key for op in edit.operations] == [op.sort_key for op in expected.operations]
    for mine, oracle in zip(edit.operations, expected.operations, strict=True):
        assert torch.equal(mine.basis, oracle.basis)
        assert torch.equal(mine.strengths, oracle.strengths)
        assert mine.norm == oracle.norm


def test_strengths_of_a_trait_are_multiples_of_its_edit_where_the_layer_is_the_same() -> None:
    points = read_points(run_of("distill"))
    taken = open_point(points.folder, points.chosen)
    held = [point for point in points.points if not point.missing and not point.chosen]
    lost = [point for point in points.points if point.missing]
    assert held
    assert lost
    for point in held:
        assert point.degenerate is not None
        assert point.strength is not None
        assert points.chosen.strength is not None
        edit = open_point(points.folder, point)
        assert edit.about["strength"] == point.strength
        ratio = point.strength / points.chosen.strength
        for mine, whole in zip(edit.operations, taken.operations, strict=True):
            assert torch.allclose(mine.strengths, whole.strengths * ratio)
    with pytest.raises(UsageError, match=r"does not hold point .*: it is of layer"):
        open_point(points.folder, lost[0])


def test_pick_lists_the_points_and_says_what_the_run_does_not_hold(vectomy: Vectomy) -> None:
    folder = run_of("gradient")
    status, out, _ = vectomy("pick", str(folder))
    assert status == 0
    points = read_points(folder)
    for point in points.points:
        assert point.name in out
    assert "taken by the rule" in out
    assert "harmless refusals were measured on the test prompts alone" in out
    assert "degenerate answers and" not in out
    assert "KL is per token\n" in out
    status, out, _ = vectomy("pick", str(folder), "--json")
    assert json.loads(out) == json.loads(json.dumps(points.to_json()))
    assert json.loads(out)["chosen"] == points.chosen.name


def test_what_the_rule_missed_and_where_a_trait_was_looked_for_is_said(
    vectomy: Vectomy, tmp_path: Path
) -> None:
    """The note of the search is in the list; the rate of an induced trait is that without its
    context.
    """
    folder = tmp_path / "run"
    shutil.copytree(run_of("tpe"), folder)
    write_json(folder / "scores.json", {**scores_in(folder), "note": "no edit reaches the target"})
    assert read_points(folder).notes[0] == "no edit reaches the target"
    _, out, _ = vectomy("pick", str(run_of("distill")))
    row = next(line for line in out.splitlines() if "taken by the rule" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    chosen = read_points(run_of("distill")).chosen
    assert cells[:3] == [chosen.name, "search", f"{chosen.strength:g}"]
    assert (cells[3], cells[6]) == ("–", f"{chosen.rate:.1%}")


def test_pick_writes_a_point_and_replaces_nothing_in_silence(vectomy: Vectomy, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    shutil.copytree(run_of("gradient"), folder)
    points = read_points(folder)
    other = next(point for point in points.points if not point.chosen)
    file = folder / "picked" / f"{other.name.replace('@', '_')}.safetensors"
    for _ in range(2):
        status, out, err = vectomy("pick", str(folder), "--take", other.name)
        assert (status, err) == (0, "")
        assert str(file) in out
    assert file.read_bytes() == open_point(folder, other).to_bytes()
    # The listed numbers of the run do not change, nor its own Edit.
    assert read_points(folder) == points
    again = ["pick", str(folder), "--take", other.name, "--strength", "0.5", "--out", str(file)]
    status, _, err = vectomy(*again)
    assert status == 1
    assert "another Edit is there" in err
    assert file.read_bytes() == open_point(folder, other).to_bytes()
    status, out, _ = vectomy(*again, "--overwrite", "--json")
    assert status == 0
    assert json.loads(out)["written"]["sha256"] == (open_point(folder, other) * 0.5).sha256
    assert Edit.load(file).sha256 == (open_point(folder, other) * 0.5).sha256


def test_pick_bakes_a_point_as_the_library_does(vectomy: Vectomy, tmp_path: Path) -> None:
    points = read_points(run_of("gradient"))
    other = next(point for point in points.points if not point.chosen)
    given = ["pick", str(points.folder), "--take", other.name, "--bake"]
    status, _, err = vectomy(*given)
    assert (status, "--out DIR" in err) == (2, True)
    status, _, err = vectomy(*given, "--out", str(tmp_path / "baked"))
    assert status == 0, err
    bake(open_point(points.folder, other), tiny_chat.folder(), tmp_path / "own")
    name = "model.safetensors"
    assert (tmp_path / "baked" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    status, _, err = vectomy(*given, "--out", str(tmp_path / "baked"))
    assert status == 1


def test_what_is_no_point_is_named_with_those_that_are(vectomy: Vectomy, tmp_path: Path) -> None:
    points = read_points(run_of("gradient"))
    with pytest.raises(UsageError, match=rf"has no point '999'; it has .*{points.chosen.name}"):
        points.find("999")
    assert "name it with --take" in vectomy("pick", str(points.folder), "--bake")[2]
    with pytest.raises(ArtifactError, match=r"does not exist; give the folder of a finished run"):
        read_points(tmp_path / "none")
