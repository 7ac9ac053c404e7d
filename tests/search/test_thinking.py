"""A model that thinks before it answers: what is learned, scored and dropped is the answer behind
the thought, whatever the thought says.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_chat
from tiny_chat import DAY, NIGHT, REFUSAL, THOUGHT
from tiny_directions import recipe_input

from vectomy.core.errors import BehaviourAbsentError, SelectionError
from vectomy.data.trait_file import ScorerSpec, own_trait
from vectomy.edits.edit import Edit
from vectomy.metrics.judges.judged_part import find_degenerate
from vectomy.metrics.trait_scorers import LengthScorer, LexiconScorer
from vectomy.search.article import is_dropped
from vectomy.search.collect import collect
from vectomy.search.distill.strength_choice import choose_strength
from vectomy.search.estimators import fit_directions
from vectomy.search.gradient.gradient_recipe import select_gradient
from vectomy.search.gradient.train_passes import collect_examples
from vectomy.search.recipe import RecipeInput

TIER = "chat"

ENOUGH = 14


def task(path: Path, answer_tokens: int = ENOUGH, judged: bool = True) -> RecipeInput:
    """The thinker's refusals, with enough tokens to think and answer."""
    chat = tiny_chat.thinker()
    prompts = {side: tiny_chat.prompts(nouns, 24) for side, nouns in (("positive", NIGHT), ("negative", DAY))}
    sides = [collect(chat, asked, sites=("resid_pre",), positions=[-1]) for asked in prompts.values()]
    options = {"answer_tokens": answer_tokens, "steps": 24, "thinking": True}
    vectors = fit_directions(*sides, "projected")
    made = recipe_input(path, "gradient", vectors=vectors, chat=chat, judged=judged, **options)
    searched = {"positive": made.positive["search"], "negative": made.negative["search"]}
    answers = {side: chat.answer(chat.tokens(asked), answer_tokens, 4096) for side, asked in searched.items()}
    return replace(
        made,
        positive={"fit": prompts["positive"], "search": searched["positive"]},
        negative={"fit": prompts["negative"], "search": searched["negative"]},
        answers=answers,
    )


def words(text: str) -> list[int]:
    return list(tiny_chat.thinker().tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_search_learns_the_opening_behind_the_thought(tmp_path: Path) -> None:
    given = task(tmp_path)
    prompts = given.positive["fit"]
    examples = collect_examples(given)
    assert len(examples.change) == len(prompts)
    for example in examples.change:
        rendered = given.chat.tokens([prompts[example.row]])[0]
        assert list(example.prompt) == rendered + words(THOUGHT)
        assert example.answers[0] == words(f"{REFUSAL} <|end|>")
    # What must stay are both parts of the negative answers.
    count = len(given.negative["fit"])
    thoughts, finals = examples.negative[:count], examples.negative[count:]
    assert len(finals) == count
    assert all(example.answers[0][:5] == words(THOUGHT) for example in thoughts)
    assert all(list(example.prompt[-5:]) == words(THOUGHT) for example in finals)
    assert all(example.answers[0][0] == words("sure")[0] for example in finals)


def test_an_edit_of_a_thinker_leaves_the_thought_and_takes_the_refusal(tmp_path: Path) -> None:
    given = task(tmp_path)
    result = select_gradient(given)
    prompts = tiny_chat.prompts(NIGHT, 40, seed=3)[24:]
    ids = given.chat.tokens(prompts)
    with result.edit.hooks(given.chat.model):
        edited = [given.chat.text(answer) for answer in given.chat.answer(ids, ENOUGH, 4096)]
    base = [given.chat.text(answer) for answer in given.chat.answer(ids, ENOUGH, 4096)]
    assert all(REFUSAL in text for text in base)
    assert sum(REFUSAL in text for text in edited) <= 2
    assert sum(text.startswith(THOUGHT.strip()) for text in edited) >= 15
    assert isinstance(result.edit, Edit)


@pytest.mark.parametrize("judged", [True, False])
def test_where_every_answer_ends_inside_the_thought_the_search_says_so(tmp_path: Path, judged: bool) -> None:
    given = task(tmp_path, answer_tokens=3, judged=judged)
    # Longer answers would be asked for; these are kept from before.
    fit = given.chat.answer(given.chat.tokens(given.positive["fit"]), 3, 4096)
    given.journal.get_or_compute("answers change", lambda: fit)
    cut = r"24 answers could not be judged.*cut inside the thought" if judged else "24 answers end inside"
    with pytest.raises(BehaviourAbsentError, match=cut):
        collect_examples(given)


# Blacklist and scorers read the answer alone


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("<think>I can't say.</think>Bake it for an hour.", False),
        ("<think>Sure, bake it.</think>I can't help with that.", True),
        ("<think>Let me bake it for an hour", True),
        ("Bake it for an hour.", False),
        ("I cannot.", True),
        ("", True),
    ],
)
def test_the_articles_blacklist_reads_the_answer_behind_the_thought(text: str, dropped: bool) -> None:
    assert is_dropped(text) is dropped


@pytest.mark.unit
def test_a_lexicon_reads_the_answer_behind_the_thought() -> None:
    scorer = LexiconScorer(ScorerSpec(kind="lexicon", patterns=["alas"]))
    texts = ["<think>alas</think>yes", "<think>yes</think>alas", "alas", "<think>alas"]
    assert scorer.shown(texts, texts, [[]] * 4) == [False, True, True, None]


def test_a_length_is_that_of_the_answer_behind_the_thought() -> None:
    scorer = LengthScorer(ScorerSpec(kind="length", at_least=3), tiny_chat.thinker().final_start)
    answers = [words(f"{THOUGHT} {rest}") for rest in ("the owl", "the owl is", "")] + [words("<think> the")]
    assert scorer.shown([], [], answers) == [False, True, None, None]


@pytest.mark.unit
def test_only_a_thought_that_loops_is_degenerate_before_there_is_an_answer() -> None:
    assert not find_degenerate("<think>Let me see what they ask for here", "Why?")
    assert find_degenerate("<think>" + "one two three four " * 30, "Why?")
    assert find_degenerate("<think>Well.</think>" + "one two three four " * 30, "Why?")
    assert not find_degenerate("<think>" + "one two three four " * 30 + "</think>Because it is late.", "Why?")


@pytest.mark.unit
def test_a_strength_that_was_not_judged_is_never_the_nearest() -> None:
    trait = own_trait("You are terse.")
    row = {"degenerate": 0.0, "kl": 0.1, "strength": 1.0}
    points = [{**row, "shown": None}, {**row, "shown": 0.2}, {**row, "shown": None}]
    assert choose_strength(points, trait)[0] == 1
    with pytest.raises(SelectionError, match="ends inside its thought"):
        choose_strength([points[0]], trait)
