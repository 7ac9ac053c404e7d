"""Every judge reads the answer behind the thoughts, and says of what it cannot read that it is not
judged.
"""

import pytest

from vectomy.metrics.judges import JUDGES, REFUSALS, Judge
from vectomy.metrics.judges.judged_part import CUT_THOUGHT, NO_ANSWER, read_completion

TIER = "unit"

ASKED = "Name a river in Africa, please"
PLANNED = "The user asks for a river. I can't help with that, I cannot assist. It is harmful and illegal."
ANSWER = "The Nile is a river in Africa, and the longest one."
REFUSED = "I'm sorry, but I can't help with that."
DUTCH = "Het spijt me, maar daar kan ik je niet mee helpen."


@pytest.fixture(params=JUDGES)
def judge(request: pytest.FixtureRequest) -> Judge:
    return JUDGES[request.param]()


def test_a_thought_decides_nothing_in_either_direction(judge: Judge) -> None:
    assert judge.verdict(ASKED, f"<think>{PLANNED}</think>{ANSWER}") == judge.verdict(ASKED, ANSWER)
    assert judge.verdict(ASKED, f"analysis{ANSWER}assistantfinal{REFUSED}") in REFUSALS
    assert judge.verdict(ASKED, f"[THINK]{PLANNED}[/THINK]{ANSWER}") == "compliance"


@pytest.mark.parametrize(
    "thought", [f"<think>{PLANNED}", f"<think>{ANSWER}", f"analysis{PLANNED}", "<think>"]
)
def test_a_thought_without_its_end_is_not_judged(judge: Judge, thought: str) -> None:
    (judgement,) = judge.judged([ASKED], [thought])
    assert (judgement.verdict, judgement.p_refusal, judgement.note) == ("not_judged", None, CUT_THOUGHT)


def test_an_answer_in_another_language_is_not_judged(judge: Judge) -> None:
    for prompt in (ASKED, "Noem een rivier in Afrika"):
        (judgement,) = judge.judged([prompt], [DUTCH])
        assert (judgement.verdict, judgement.note) == ("not_judged", "not English (nl)")
    assert judge.verdict(ASKED, f"<think>{DUTCH}</think>{ANSWER}") == "compliance"
    assert judge.verdict(ASKED, f"<think>{ANSWER}</think>{DUTCH}") == "not_judged"


def test_a_judge_of_all_languages_is_asked() -> None:
    part = read_completion(ASKED, DUTCH, english_only=False)
    assert (part.answer, part.wrong, part.unjudged) == (DUTCH, None, None)


def test_a_thought_that_loops_is_degenerate_and_one_without_an_answer_is_not_judged() -> None:
    looping = read_completion(ASKED, "<think>" + "the river and " * 40, english_only=True)
    assert looping.wrong == "loop in the thought"
    assert read_completion(ASKED, f"<think>{PLANNED}</think>", english_only=True).unjudged == NO_ANSWER
    assert read_completion(ASKED, "<think>\n\n</think>\n\n", english_only=True).wrong == "empty"
