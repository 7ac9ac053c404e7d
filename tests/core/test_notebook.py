"""What a notebook shows of a public value: one short line, and figures that are escaped."""

import inspect
import re
from functools import cache
from pathlib import Path

import pytest
import tiny_chat
import torch
from parsed_page import Page
from tiny import unit

import vectomy
from vectomy.core.results import EvaluationResults, HealingResults, RunResults
from vectomy.edits.operation import Operation

TIER = "chat"

LONG = "a very long name " * 40
HOSTILE = "<script>alert(1)</script>&\"'"


@cache
def values(folder: Path) -> dict[str, object]:
    """One value of every public class, with names and texts as long as a user can make them."""
    chat = tiny_chat.chat()
    stats = vectomy.collect(chat, [LONG, "show the owl red"], samples=True, covariance=True)
    edit = vectomy.Edit.ablation(chat, torch.stack([unit(), unit(1)]), name=LONG[:299])
    baked = folder / "baked"
    receipt = vectomy.bake(vectomy.Edit.ablation(chat, unit()), chat, baked)
    sources = {"positive": LONG, "negative": LONG}
    made = [
        stats,
        chat,
        vectomy.compare(tiny_chat.folder(), baked),
        vectomy.Condition(unit(), 2, 0.0),
        vectomy.fit_directions(stats, stats),
        edit,
        vectomy.Prompt(LONG, system=LONG),
        receipt,
        vectomy.RunConfig(model=LONG, contrast={side: {"prompts": text} for side, text in sources.items()}),
        vectomy.plan(tiny_chat.folder()),
        vectomy.lens(chat, LONG),
        vectomy.score(chat, LONG, answer_tokens=2),
        vectomy.patch(chat, "show the owl red", "show the sun red", answers=("I", "sure")),
        RunResults.from_json({"model": LONG, "outcome": {"sentence": LONG}}),
        EvaluationResults.from_json({"format": LONG}),
        HealingResults.from_json({"format": LONG}),
        Operation("mlp", 1, torch.eye(9, 32), torch.ones(9), addition=unit()),
    ]
    return {type(value).__name__: value for value in made}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return values(tmp_path_factory.mktemp("values"))


def test_the_repr_of_every_public_value_is_one_short_line(shown: dict[str, object]) -> None:
    for name, value in shown.items():
        assert len(repr(value)) < 200, name
        assert "\n" not in repr(value), name
    classes = {name for name in vectomy.__all__ if inspect.isclass(getattr(vectomy, name))}
    # An error is its message; a TraitRun is a RunConfig.
    assert classes - {"VectomyError", "TraitRun"} <= set(shown)
    assert issubclass(vectomy.TraitRun, vectomy.RunConfig)


@pytest.mark.parametrize("name", ["Edit", "Receipt", "Comparison", "Directions", "PatchEffects"])
def test_the_picture_in_a_cell_is_whole_escaped_and_loads_nothing(
    shown: dict[str, object], name: str
) -> None:
    html = shown[name]._repr_html_()
    page = Page(html)
    assert page.problems == []
    assert not re.search(r"https?://|url\(|@import|<script", html)
    assert page.found[-1][0] == "div"
    if name != "Receipt":
        (picture,) = page.tagged("svg")
        assert picture[1]["role"] == "img"
    # The colours of the figures come along, for elements of the cell alone.
    assert ".vectomy svg .q8" in html
    assert not re.search(r"(^|\})\s*(svg|:root|body)\b", html, re.M)


def test_a_picture_of_an_edit_tells_the_strength_of_every_writer() -> None:
    edit = vectomy.Edit.ablation(tiny_chat.folder(), unit(), strength=0.25)
    told = [words for tag, _, words in Page(edit._repr_html_()).found if tag == "title"]
    assert "mlp of layer 3: 0.250" in told
    assert len([words for words in told if " of layer " in words]) == 8
    receipt = vectomy.Receipt((), (), 0, projection=(0.5, 0.25, 0.125))
    told = [words for tag, _, words in Page(receipt._repr_html_()).found if tag == "title"]
    assert "behind layer 1: 0.125" in told


def test_hostile_names_stay_text() -> None:
    chat = vectomy.wrap(tiny_chat.chat().model, name=HOSTILE)
    html = vectomy.Edit.ablation(chat, unit(), name=HOSTILE)._repr_html_()
    assert "<script" not in html
    assert HOSTILE in "".join(words for tag, _, words in Page(html).found if tag == "code")


def test_the_cosines_of_many_layers_are_thinned_and_a_zero_has_none() -> None:
    vectors = torch.randn(1, 130, 1, 8)
    vectors[0, 3] = 0
    directions = vectomy.Directions("difference_of_means", ("resid_pre",), (-1,), vectors)
    cosines = directions.cosine()
    assert cosines[3].isnan().all()
    known = [row for row in range(130) if row != 3]
    rows = torch.nn.functional.normalize(vectors[0, known, 0], dim=-1)
    torch.testing.assert_close(cosines[known][:, known], rows @ rows.T)
    cells = [tag for tag, *_ in Page(directions._repr_html_()).found if tag == "rect"]
    assert len(cells) == 44**2


def test_results_are_read_as_fields_and_as_keys() -> None:
    results = RunResults.from_json({"base": {"refusal_rate": 0.5}, "later": 3})
    assert results.base.refusal_rate == results["base"]["refusal_rate"] == 0.5
    assert results["later"] == 3
    assert "base" in results
    assert "model" not in results
    assert results.get("model", "none") == "none"
    assert dict(results) == {**results} == results.to_json()


def test_directions_as_a_table_and_as_a_picture_or_the_extra_that_brings_them() -> None:
    chat = tiny_chat.chat()
    sides = [vectomy.collect(chat, tiny_chat.prompts(nouns, 4)) for nouns in (tiny_chat.NIGHT, tiny_chat.DAY)]
    directions = vectomy.fit_directions(*sides)
    table = directions.to_frame()
    assert list(table.columns) == ["site", "layer", "position", "length", "cosine_with_previous"]
    row = table[(table.site == "resid_post") & (table.layer == 2)].iloc[0]
    vector, before = (directions.at("resid_post", layer) for layer in (2, 1))
    assert row.length == pytest.approx(float(vector.norm()))
    assert row.cosine_with_previous == pytest.approx(
        float(torch.cosine_similarity(vector, before, dim=0)), abs=1e-5
    )
    assert table[table.layer == 0].cosine_with_previous.isna().all()


def test_without_its_package_a_plot_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more)
    )
    directions = vectomy.Directions("x", ("resid_pre",), (-1,), torch.randn(1, 4, 1, 8))
    with pytest.raises(
        vectomy.VectomyError, match=r"plot\(\) needs the package matplotlib: pip install 'vec"
    ):
        directions.plot()


@pytest.mark.parametrize("kind", ["cosine", "length"])
def test_a_plot_draws_what_the_numbers_are(kind: str) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="pip install 'vectomy[notebook]'")
    matplotlib.use("agg")
    directions = vectomy.Directions("x", ("resid_pre", "resid_post"), (-1,), torch.randn(2, 4, 1, 8))
    axes = directions.plot(kind)
    if kind == "cosine":
        drawn = torch.as_tensor(axes.images[0].get_array())
        torch.testing.assert_close(drawn, directions.cosine(), check_dtype=False)
    else:
        drawn = torch.stack([torch.as_tensor(line.get_ydata()) for line in axes.lines])
        torch.testing.assert_close(drawn, directions.vectors[:, :, 0].norm(dim=-1), check_dtype=False)
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["resid_pre", "resid_post"]
    effects = vectomy.PatchEffects("resid_pre", (0, 2), "position", (-2, -1), torch.rand(2, 2), 1.0, 0.0)
    image = effects.plot().images[0]
    torch.testing.assert_close(torch.as_tensor(image.get_array()), effects.restored, check_dtype=False)
