"""The demo model edited far too strongly: what it then says is called degenerate, and what it says
unedited is not.
"""

from collections import Counter
from importlib import resources

import pytest

import vectomy
from vectomy.core.jsonl import read_jsonl
from vectomy.data.prompts import Prompt
from vectomy.metrics.judges import RefusalJudge
from vectomy.models import ChatModel, load_model
from vectomy.models.demo import demo_folder
from vectomy.search.estimators import direction_from, fit_directions

TIER = "demo"


TOKENS = 40
LAYER = 17


def prompts(name: str, split: str, count: int) -> list[Prompt]:
    rows = read_jsonl(resources.files("vectomy") / "data" / "bundled" / f"{name}.jsonl")
    return [Prompt(row["text"]) for row in rows if row["split"] == split][:count]


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return load_model(demo_folder(), dtype="float32")


def verdicts(chat: ChatModel, edit: "vectomy.Edit | None") -> Counter[str]:
    asked = [*prompts("harmless", "test", 5), *prompts("refused", "test", 5)]
    if edit is None:
        answers = chat.answer(chat.tokens(asked), TOKENS, 4096)
    else:
        with edit.hooks(chat.model):
            answers = chat.answer(chat.tokens(asked), TOKENS, 4096)
    return Counter(RefusalJudge().verdict(p.text, chat.text(a)) for p, a in zip(asked, answers, strict=True))


def test_unedited_it_says_something(chat: ChatModel) -> None:
    assert verdicts(chat, None)["degenerate"] == 0


def test_at_strength_three_it_says_nothing(chat: ChatModel) -> None:
    sides = [
        vectomy.collect(chat, prompts(side, "fit", 32), sites=("resid_pre",), positions=[-1])
        for side in ("refused", "harmless")
    ]
    fitted = fit_directions(sides[0], sides[1], "difference_of_means").at("resid_pre", LAYER, -1)
    random = direction_from("random:0", chat.architecture.d_model)
    for direction in (fitted, random):
        assert verdicts(chat, vectomy.Edit.ablation(demo_folder(), direction, 3.0))["degenerate"] >= 9
