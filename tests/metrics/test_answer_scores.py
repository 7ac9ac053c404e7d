"""Scores are the model's answers and the judge's verdicts; under hooks, those of the edit."""

import pytest
import tiny_chat
from tiny_directions import directions

import vectomy
from vectomy.core.errors import VectomyError
from vectomy.metrics.judges import StringJudge, open_judge

TIER = "chat"

NIGHT, DAY = tiny_chat.texts(tiny_chat.NIGHT)[:6], tiny_chat.texts(tiny_chat.DAY)[:6]


def test_the_base_refuses_the_night_and_the_edit_does_not() -> None:
    chat = tiny_chat.chat()
    night, day = (vectomy.score(chat, texts, answer_tokens=8) for texts in (NIGHT, DAY))
    assert night.answers == tuple([tiny_chat.REFUSAL] * 6)
    assert (night.rate, day.rate) == (1.0, 0.0)
    assert day.answers[0] == tiny_chat.answer_of(DAY[0])
    assert night.interval[0] == pytest.approx(0.61, abs=0.01)
    edit = vectomy.Edit.ablation(chat, directions().at("resid_pre", 3, -1))
    with edit.hooks(chat):
        edited = vectomy.score(chat, NIGHT, answer_tokens=8)
    assert edited.rate < 0.5
    judge = open_judge("refusal")
    assert list(edited.verdicts) == [judge.verdict(*pair) for pair in zip(NIGHT, edited.answers, strict=True)]


def test_a_judge_is_given_by_name_or_as_itself_and_the_table_has_a_row_a_prompt() -> None:
    chat = tiny_chat.chat()
    scores = vectomy.score(chat, NIGHT[0], judge=open_judge("heretic"), answer_tokens=8)
    assert isinstance(open_judge("heretic"), StringJudge)
    assert scores.judge == vectomy.score(chat, NIGHT[0], judge="heretic", answer_tokens=8).judge
    table = scores.to_frame()
    assert table.iloc[0].to_dict() == {
        "prompt": NIGHT[0],
        "answer": tiny_chat.REFUSAL,
        "verdict": scores.verdicts[0],
        "p_refusal": scores.p_refusal[0],
    }
    assert len(repr(scores)) < 200
    assert "<table>" in scores._repr_html_()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": []}, "no prompts"),
        ({"judge": "refusals"}, "no judge 'refusals'"),
        ({"judge": 3}, "the judge is an int"),
        ({"answer_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_scored_is_said(options: dict, message: str) -> None:
    with pytest.raises(VectomyError, match=message):
        vectomy.score(tiny_chat.chat(), **{"prompts": NIGHT, **options})
