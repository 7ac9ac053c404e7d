"""Judges that are models: none of the known ones is here, so that a tiny taught model stands in,
whose first token is known.
"""

import json
from pathlib import Path

import pytest
import tiny_chat

from vectomy.core.errors import JudgeError, UsageError
from vectomy.metrics.judges import Judge, open_judge
from vectomy.metrics.judges.classifier_judge import Classifier, ClassifierJudge, describe_classifier

TIER = "chat"

# The taught model answers prompts about the night with "I", about the day with "sure": a classifier
# of nights.
NIGHTS = {
    "ids": [],
    "source": "tests",
    "says": "whether it is about the night",
    "special_tokens": False,
    "template": "<bos><|user|> {prompt} {completion} red <|end|><|assistant|>",
    "refusal": ["I"],
    "compliance": ["sure"],
}


def description(path: Path, **changed: object) -> Path:
    file = path / "nights.json"
    file.write_text(
        json.dumps({key: value for key, value in (NIGHTS | changed).items() if value != "absent"}),
        encoding="utf-8",
    )
    return file


def test_the_mass_of_its_labels_is_the_probability(tmp_path: Path) -> None:
    judge = open_judge(f"hf:{tiny_chat.folder()}#{description(tmp_path)}")
    assert isinstance(judge, Judge)
    rows = list(judge.judged(["show the", "show the", "show the"], ["owl", "", "bee"]))
    assert [row.verdict for row in rows] == ["full_refusal", "degenerate", "compliance"]
    chat = tiny_chat.chat()
    for row, noun in ((rows[0], "owl"), (rows[2], "bee")):
        ids = chat.tokenizer(
            f"<bos><|user|> show the {noun} red <|end|><|assistant|>", add_special_tokens=False
        )["input_ids"]
        probs = tiny_chat.raw(chat, ids).logits[0, -1].double().softmax(-1)
        no, yes = (float(probs[chat.tokenizer.convert_tokens_to_ids(word)]) for word in ("I", "sure"))
        assert row.p_refusal == pytest.approx(no / (no + yes), abs=1e-5)
    assert (judge.agreement, "not measured" in judge.note) == (None, True)
    assert judge.verdict("show the", "owl") == "full_refusal"


def test_more_rows_than_a_batch_come_in_order(tmp_path: Path) -> None:
    judge = open_judge(f"hf:{tiny_chat.folder()}#{description(tmp_path)}")
    nouns = (tiny_chat.NIGHT + tiny_chat.DAY) * 3
    found = [row.verdict for row in judge.judged(["paint the"] * len(nouns), nouns)]
    assert found == ["full_refusal" if noun in tiny_chat.NIGHT else "compliance" for noun in nouns]


def test_labels_that_the_model_would_not_say_are_noted(tmp_path: Path) -> None:
    judge = open_judge(f"hf:{tiny_chat.folder()}#{description(tmp_path, refusal=['x'], compliance=['be'])}")
    (row,) = judge.judged(["show the"], ["owl"])
    assert "probability" in (row.note or "")


def test_without_a_template_the_models_own_is_taken(tmp_path: Path) -> None:
    judge = ClassifierJudge.open(
        f"{tiny_chat.folder()}#{description(tmp_path, template=None, then='<|assistant|>')}"
    )
    asked = judge.classifier.ask(judge.chat, "show the owl red", "sure")
    assert asked == "<bos><|user|> show the owl red <|end|><|assistant|> sure <|end|><|assistant|>"


def test_a_completion_with_braces_is_text() -> None:
    one = Classifier.of("x", NIGHTS | {"template": "A {prompt} B {completion} C"})
    assert one.ask(tiny_chat.chat(), "{completion}", "{prompt}") == "A {completion} B {prompt} C"


@pytest.mark.unit
@pytest.mark.parametrize(
    "name",
    [
        "cais/HarmBench-Llama-2-13b-cls",
        "allenai/wildguard",
        "meta-llama/Llama-Guard-3-8B",
        "qylu4156/strongreject-15k-v1",
    ],
)
def test_the_known_ones_are_described(name: str) -> None:
    assert describe_classifier(name) == describe_classifier(f"/some/folder/{name.rpartition('/')[2]}")
    assert name in describe_classifier(name).ids


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"'some/model' is not known; known are cais/.*#FILE.json"):
        open_judge("hf:some/model")
    folder = tiny_chat.folder()
    with pytest.raises(JudgeError, match=r"lacks compliance, refusal"):
        open_judge(f"hf:{folder}#{description(tmp_path, refusal='absent', compliance='absent')}")
    with pytest.raises(JudgeError, match=r"lacks \{prompt\} or \{completion\}"):
        open_judge(f"hf:{folder}#{description(tmp_path, template='Yes or no?')}")
    with pytest.raises(JudgeError, match=r"same token 'I'"):
        open_judge(f"hf:{folder}#{description(tmp_path, compliance=['I'])}")
    with pytest.raises(JudgeError, match=r"does not exist or is not JSON"):
        open_judge(f"hf:{folder}#{tmp_path / 'none.json'}")
    with pytest.raises(UsageError, match=r"there is no judge 'gpt'; choose from refusal, heretic"):
        open_judge("gpt")
