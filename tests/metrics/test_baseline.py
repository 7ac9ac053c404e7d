"""What the base does is counted on the search split; prompts it treats otherwise than the contrast
says are left out.
"""

import re
from typing import Any

import pytest
import tiny_chat
from tiny_chat import DAY, NIGHT, VOCABULARY

from vectomy.core.errors import BehaviourAbsentError, JudgeError, SelectionError
from vectomy.core.run_config import make_config
from vectomy.data.splits import Splits
from vectomy.metrics.baseline import Baseline, measure_baseline
from vectomy.metrics.contrast_diagnosis import SideCounts, check_contrast, count_side
from vectomy.metrics.judges import Judgement, RefusalJudge
from vectomy.metrics.judges.judged_part import CUT_THOUGHT

TIER = "chat"

I = VOCABULARY.index("I")  # noqa: E741 (the word)


def splits(nouns: tuple[str, ...], strays: int = 0) -> Splits:
    """8 to fit, 6 to search, 4 to test; `strays` of fit and of search come from the other side."""
    own = tiny_chat.prompts(nouns, 18)
    other = tiny_chat.prompts(DAY if nouns == NIGHT else NIGHT, 30)[18:]
    fit, search = [*other[:strays], *own[strays:8]], [*own[8 : 14 - strays], *other[6 : 6 + strays]]
    return Splits(tuple(fit), tuple(search), tuple(own[14:]))


def measured(
    strays: int = 0, taught: bool = True, positive: Splits | None = None, **options: Any
) -> Baseline:
    config = make_config("m", {"answer_tokens": 8, "recipe": "arditi", **options})
    sides = positive or splits(NIGHT, strays), splits(DAY, strays)
    return measure_baseline(tiny_chat.chat(taught_=taught), *sides, RefusalJudge(), config)


def test_the_taught_model_refuses_one_side_and_its_first_token_gives_it_away() -> None:
    found = measured()
    assert (found.positive_rate, found.negative_rate) == (1.0, 0.0)
    assert found.tokens == (I,)
    assert found.token_texts == ("I",)
    for kept in (found.positive_kept, found.negative_kept):
        assert {split: all(flags) for split, flags in kept.items()} == {"fit": True, "search": True}
        assert {split: len(flags) for split, flags in kept.items()} == {"fit": 8, "search": 6}


@pytest.mark.parametrize("filtered", [True, False])
def test_prompts_that_the_base_treats_otherwise_are_left_out(filtered: bool) -> None:
    found = measured(strays=2, filter_prompts=filtered)
    assert found.positive_rate == pytest.approx(4 / 6)
    assert found.negative_rate == pytest.approx(2 / 6)
    for kept in (found.positive_kept, found.negative_kept):
        assert kept["fit"] == [not filtered] * 2 + [True] * 6
        assert kept["search"] == [True] * 4 + [not filtered] * 2


def test_the_article_filters_nothing_and_needs_no_tokens() -> None:
    found = measured(strays=2, recipe="article")
    assert found.tokens == ()
    assert all(found.positive_kept["fit"] + found.negative_kept["search"])


def test_tokens_that_are_given_are_taken() -> None:
    found = measured(behaviour_tokens=["I", "sure"], filter_prompts=False)
    assert found.tokens == (I, VOCABULARY.index("sure"))


def test_a_given_token_must_be_one() -> None:
    with pytest.raises(SelectionError, match=r"the behaviour token 'I can't' is 2 tokens for tiny"):
        measured(behaviour_tokens=["I can't"])


def test_a_base_without_the_behaviour_stops_with_the_rate_unless_forced_or_of_another_kind() -> None:
    with pytest.raises(BehaviourAbsentError, match="it refuses 0% of 6 positive prompts"):
        measured(
            positive=Splits(
                *(tuple(tiny_chat.prompts(DAY, 44)[a:b]) for a, b in ((18, 26), (26, 32), (32, 36)))
            )
        )
    free = {"behaviour_tokens": ["I"], "filter_prompts": False, "taught": False}
    assert measured(force=True, **free).positive_rate == 0.0
    assert measured(behaviour="style", **free).positive_rate == 0.0


def test_too_few_prompts_that_show_it_are_refused_with_the_remedy() -> None:
    day, night = tiny_chat.prompts(DAY, 40)[20:], tiny_chat.prompts(NIGHT, 10)
    mostly = Splits((night[0], *day[:7]), tuple(night[1:7]), tuple(night[7:]))
    with pytest.raises(SelectionError, match=r"1 of 8 positive fit prompts .* --no-filter-prompts"):
        measured(positive=mostly)


def counts(refused: int, degenerate: int = 0, total: int = 30) -> SideCounts:
    return SideCounts(refused, degenerate, total)


@pytest.mark.parametrize(
    ("positive", "negative", "cause"),
    [
        (counts(30), counts(30), "30 of 30 .* of the harmless prompts as well .* no contrast"),
        (counts(29), counts(29), "harmless prompts as well"),
        (counts(0), counts(0), "refuses 0% of 30 positive prompts .* nothing to remove"),
        (counts(0), counts(29), "look swapped.* nothing to remove; exchange --positive and --negative"),
        (counts(8), counts(28), "look swapped"),
        (counts(0, 20), counts(0, 20), "20 of the 30 answers .* are degenerate"),
        (counts(1), counts(0), "does not show the behaviour"),
    ],
)
def test_a_base_that_makes_no_contrast_is_told_why(
    positive: SideCounts, negative: SideCounts, cause: str
) -> None:
    sides = {"positive": positive, "negative": negative}
    with pytest.raises(BehaviourAbsentError, match=f"{cause}.*, or --force to run anyway"):
        check_contrast(sides, make_config("m", {}))
    (note,) = check_contrast(sides, make_config("m", {"force": True}))
    assert re.search(cause, note)
    assert "--force" not in note
    assert check_contrast(sides, make_config("m", {"behaviour": "style"})) == ()


@pytest.mark.parametrize(
    ("positive", "negative", "note"),
    [
        (counts(10), counts(6), "the intervals overlap"),
        (counts(29), counts(9), "9 of 30 .* of the harmless search prompts as well"),
        (counts(29), counts(1), None),
    ],
)
def test_a_weak_contrast_is_noted(positive: SideCounts, negative: SideCounts, note: str | None) -> None:
    notes = check_contrast({"positive": positive, "negative": negative}, make_config("m", {}))
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])


@pytest.mark.parametrize(
    ("side", "reasons", "more", "cause"),
    [
        (
            "positive",
            30,
            {},
            r"30 of 30 .* positive prompts are not in a language that this judge knows \(not",
        ),
        ("negative", 20, {}, r"20 of 30 .* negative prompts are not in a language"),
        (
            "positive",
            30,
            {"answer_tokens": 77},
            r"30 of 30 .* cut inside the thought.*--answer-tokens \(now 77",
        ),
        ("positive", 16, {"thinking": True}, r"16 of 30 .* thought.*: raise .*, give --no-thinking"),
    ],
)
def test_a_base_that_is_not_judged_is_told_so_and_not_that_nothing_is_there(
    side: str, reasons: int, more: dict[str, Any], cause: str
) -> None:
    reason = CUT_THOUGHT if more else "not English (de)"
    sides = {"positive": counts(28), "negative": counts(0)}
    sides[side] = SideCounts(0, 0, 30 - reasons, (reason,) * reasons)
    with pytest.raises(JudgeError, match=cause) as stopped:
        check_contrast(sides, make_config("m", more))
    assert "nothing to remove" not in str(stopped.value)
    notes = check_contrast(sides, make_config("m", {**more, "force": True}))
    assert re.search(cause, notes[0])


def test_some_answers_that_are_not_judged_are_a_note_and_in_no_rate() -> None:
    judgements = [Judgement("full_refusal", 1.0)] * 9 + [Judgement("not_judged", None, "not English (de)")]
    side = count_side(judgements)
    assert (side.rate, side.total, side.asked) == (1.0, 9, 10)
    (note,) = check_contrast({"positive": side, "negative": counts(0)}, make_config("m", {}))
    assert note.startswith("1 of 10 answers")
    assert count_side(judgements[-1:]).rate is None


def test_a_base_that_refuses_both_sides_stops_the_run() -> None:
    both, chat = splits(NIGHT), tiny_chat.chat()
    config = make_config("m", {"answer_tokens": 8, "recipe": "article"})
    with pytest.raises(BehaviourAbsentError, match=r"6 of 6 \(61–100%\) of the harmless prompts as well"):
        measure_baseline(chat, both, both, RefusalJudge(), config)
    config = make_config("m", {"answer_tokens": 8, "recipe": "article", "force": True})
    forced = measure_baseline(chat, both, both, RefusalJudge(), config)
    assert len(forced.notes) == 1
    assert forced.to_json()["notes"] == forced.notes
