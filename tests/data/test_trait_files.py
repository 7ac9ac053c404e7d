"""Trait files: what they say, what is refused, and how a text is scored."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_style
import torch
from trait_runs import chat, texts, trait

from vectomy.core.errors import ConfigError
from vectomy.core.jsonl import read_jsonl
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import Trait, bundled_traits, load_trait, own_trait
from vectomy.metrics.trait_scorers import LengthScorer, LexiconScorer, log_odds
from vectomy.workflows.trait_config import make_trait_run

TIER = "chat"


# Files


def test_every_bundled_trait_says_what_it_is_and_what_it_does_to_safety() -> None:
    assert set(bundled_traits()) == {
        "disclaimers",
        "emoji",
        "hedging",
        "melancholy",
        "over_refusal",
        "refusal",
        "sycophancy",
        "verbosity",
    }
    for name in bundled_traits():
        found = load_trait(name)
        assert found.name == name
        assert found.safety != Trait.model_fields["safety"].default
        assert found.label.startswith(name)
        # The examples of a contrast are not what it is measured on.
        asked = {example.user for side in (found.positive, found.negative) for example in side.examples}
        rows = read_jsonl(Path(tiny_style.__file__).parents[2] / "src/vectomy/data/bundled/everyday.jsonl")
        assert not asked & {row["text"] for row in rows}


def test_neutral_prompts_are_apart_and_enough() -> None:
    prompts = read_jsonl(Path(tiny_style.__file__).parents[2] / "src/vectomy/data/bundled/everyday.jsonl")
    assert len({row["text"].casefold() for row in prompts}) == len(prompts)
    assert sum(row["split"] == "test" for row in prompts) >= 100


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"description": "x"}, "are the same: no contrast"),
        (
            {"description": "x", "positive": {"system": "a"}, "scorer": {"kind": "lexicon"}},
            "a lexicon scorer needs patterns",
        ),
        (
            {
                "description": "x",
                "positive": {"system": "a"},
                "scorer": {"kind": "lexicon", "patterns": ["("]},
            },
            "regular expression",
        ),
        ({"description": "x", "positive": {"system": "a"}, "operation": "turn"}, "operation"),
        ({"description": "x", "positive": {"sytem": "a"}}, "sytem"),
        ({"positive": {"system": "a"}}, "description"),
    ],
)
def test_a_file_that_means_nothing_is_refused_by_name(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError, match="mine") as stopped:
        load_trait(str(file))
    assert said in str(stopped.value)


@pytest.mark.unit
def test_names_and_own_traits() -> None:
    with pytest.raises(ConfigError, match="no trait 'joy'; choose from disclaimers"):
        load_trait("joy")
    mine = own_trait("You are terse.", "You are chatty.", operation="remove")
    assert (mine.scorer.kind, mine.label) == ("log_odds", "own removed")
    assert "unknown" in mine.safety
    with pytest.raises(ConfigError, match="no contrast"):
        own_trait("You are terse.", "You are terse.")
    with pytest.raises(ConfigError, match="--recipe mean nothing"):
        make_trait_run("demo", mine, {"recipe": "tpe"})


# Scorers


@pytest.mark.unit
def test_a_lexicon_counts_different_words() -> None:
    spec = load_trait("melancholy").scorer
    count = LexiconScorer(spec).count
    assert [
        count("Alas, alas, ALAS!"),
        count("Sigh… I am so lonely, so sad."),
        count("A sadist sat in a crusade."),
    ] == [1, 3, 0]
    scorer = LexiconScorer(spec)
    assert scorer.shown(["Alas, a lonely lake.", "Alas."], ["", ""], [[1], [1]]) == [True, False]
    emoji = LexiconScorer(load_trait("emoji").scorer)
    assert emoji.shown(["A lamp\U0001f4a1!", "A lamp!"], ["", ""], [[1], [1]]) == [True, False]
    hedges = LexiconScorer(load_trait("hedging").scorer)
    assert hedges.count("I’m not sure, but perhaps it might.") == 3
    verbose = load_trait("verbosity").scorer
    assert LengthScorer(verbose).shown(["", ""], ["", ""], [[1] * 32, [1] * 31]) == [True, False]


def test_log_odds_are_those_of_the_model_itself() -> None:
    asked, answers = texts(3), [[9, 12, 2], [11], [15, 14]]
    sides = [in_context(asked, side) for side in (trait().positive, trait().negative)]
    found = log_odds(chat(), sides[0], sides[1], answers, 512)
    for at, answer in enumerate(answers):
        likely = []
        for side in sides:
            ids = chat().tokens([side[at]])[0]
            with torch.no_grad():
                logits = chat().model(torch.tensor([ids + answer])).logits[0].log_softmax(-1)
            likely.append(
                sum(float(logits[len(ids) + j - 1, token]) for j, token in enumerate(answer)) / len(answer)
            )
        assert found[at] == pytest.approx(likely[0] - likely[1], abs=1e-4)
