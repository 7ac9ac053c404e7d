"""Preference rows of all forms, and what is said of those that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_chat

from vectomy.core.errors import PromptError
from vectomy.data.preferences import Preference, read_preferences
from vectomy.data.prompts import Prompt, Turn
from vectomy.healing.own_answers import EQUAL, pair_own_answers
from vectomy.healing.pairs import encode_pairs

TIER = "unit"

ASKED, GOOD, BAD = "paint the sun red", "sure the sun is here now", "now"
WANTED = Preference(Prompt(ASKED), GOOD, BAD)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def written(tmp_path: Path, *rows: Any) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


FORMS: dict[str, dict[str, Any]] = {
    "plain strings": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "turns that begin alike, and the prompt again (orpo-dpo-mix-40k)": {
        "source": "some",
        "prompt": ASKED,
        "question": ASKED,
        "chosen": [turn("user", ASKED), turn("assistant", GOOD)],
        "rejected": [turn("user", ASKED), turn("assistant", BAD)],
    },
    "question and answers (its flat form)": {
        "source": "some",
        "question": ASKED,
        "chosen": GOOD,
        "rejected": BAD,
    },
    "turns without a prompt column": {
        "chosen": [turn("user", ASKED), turn("assistant", GOOD)],
        "rejected": [turn("user", ASKED), turn("assistant", BAD)],
    },
    "TRL's conversational form": {
        "prompt": [turn("user", ASKED)],
        "chosen": [turn("assistant", GOOD)],
        "rejected": [turn("assistant", BAD)],
    },
    "what we write": WANTED.to_json(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_row(tmp_path: Path, form: str) -> None:
    read = read_preferences(written(tmp_path, FORMS[form]))
    assert read.rows == (WANTED,)
    assert not read.left_out


def test_a_system_prompt_and_earlier_turns_are_a_part_of_the_prompt(tmp_path: Path) -> None:
    said = [turn("system", "be brief"), turn("user", "Hello"), turn("assistant", "x"), turn("user", ASKED)]
    row = {"chosen": [*said, turn("assistant", GOOD)], "rejected": [*said, turn("assistant", BAD)]}
    (read,) = read_preferences(written(tmp_path, row)).rows
    assert read.prompt == Prompt(ASKED, "be brief", (Turn("user", "Hello"), Turn("assistant", "x")))
    assert read_preferences(written(tmp_path, read.to_json())).rows == (read,)


def test_rows_that_do_not_fit_are_counted_and_named(tmp_path: Path) -> None:
    fits = FORMS["plain strings"]
    read = read_preferences(
        written(
            tmp_path,
            fits,
            {**fits, "rejected": GOOD},
            {**fits, "chosen": f"  {BAD} "},
            {**fits, "chosen": ""},
            {**fits, "rejected": None},
            {**fits, "rejected": 3},
            {**fits, "prompt": "  "},
            {
                **fits,
                "chosen": [turn("user", ASKED), turn("assistant", GOOD)],
                "rejected": [turn("user", "x"), turn("assistant", BAD)],
            },
            {**fits, "prompt": [turn("tool", "x"), turn("user", ASKED)]},
        )
    )
    assert len(read.rows) == 1
    assert read.left_out == {
        "chosen equal to rejected": 2,
        "an empty chosen answer": 1,
        "an empty rejected answer": 1,
        "a rejected answer that is neither text nor turns": 1,
        "no prompt": 1,
        "a chosen and a rejected answer to different conversations": 1,
        "a turn of the role 'tool'": 1,
    }


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "x", "label": 1}], "lacks chosen, rejected; it has text, label"),
        ([{"chosen": GOOD, "rejected": BAD}], "lacks a prompt"),
        (
            [{"prompt": ASKED, "chosen": GOOD, "rejected": GOOD}],
            "no row .* is usable: 1 with chosen equal to rejected",
        ),
        ([{"prompt": ASKED, "chosen": "", "rejected": ""}], "1 with an empty chosen answer"),
        ([], "is empty"),
    ],
)
def test_a_source_without_a_row_that_fits_says_why(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(PromptError, match=said):
        read_preferences(written(tmp_path, *rows))


def test_chosen_answers_alone_need_no_rejected_ones(tmp_path: Path) -> None:
    source = written(tmp_path, {"prompt": ASKED, "chosen": GOOD})
    assert read_preferences(source, paired=False).rows == (Preference(Prompt(ASKED), GOOD),)
    with pytest.raises(PromptError, match="lacks rejected"):
        read_preferences(source)


def test_a_limit_is_a_seeded_sample_in_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [{"prompt": text, "chosen": GOOD, "rejected": BAD} for text in tiny_chat.texts(tiny_chat.DAY)[:20]]
    source = written(tmp_path, *rows)
    samples = [read_preferences(source, limit=5, seed=seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    places = [[row["prompt"] for row in rows].index(one.prompt.text) for one in samples[0].rows]
    assert places == sorted(places)
    assert samples[0].left_out == {"not in the sample": 15}


def test_prompts_that_are_measured_on_are_left_out_however_they_are_written(tmp_path: Path) -> None:
    read = read_preferences(
        written(tmp_path, FORMS["plain strings"], {**FORMS["plain strings"], "prompt": "find the bee blue"})
    )
    kept = read.without([Prompt("  Paint the SUN  red")], "measured")
    assert [row.prompt.text for row in kept.rows] == ["find the bee blue"]
    assert kept.left_out == {"measured": 1}


@pytest.mark.chat
def test_long_prompts_are_left_out_and_long_answers_cut() -> None:
    chat = tiny_chat.chat()
    pairs, left_out = encode_pairs(chat, [WANTED, Preference(Prompt(" ".join([ASKED] * 10)), GOOD, BAD)], 12)
    assert left_out == {"a prompt of 12 tokens or more": 1}
    assert [len(pair.prompt) + len(pair.chosen) for pair in pairs] == [12]
    with pytest.raises(PromptError, match="--max-length"):
        encode_pairs(chat, [WANTED], 8)
    same = Preference(Prompt(ASKED), f"{GOOD} x", f"{GOOD} Hello")
    with pytest.raises(PromptError, match="the same in the first 14 tokens"):
        encode_pairs(chat, [same], 14)


@pytest.mark.chat
def test_own_answers_are_the_very_tokens_and_equal_ones_are_left_out() -> None:
    chat = tiny_chat.chat()
    prompts = tiny_chat.prompts(tiny_chat.DAY, 3)
    base = chat.answer(chat.tokens(prompts), 4, 4096)
    edited = [base[0], [9, 2], [9]]
    pairs, told = pair_own_answers(chat, prompts, base, edited)
    assert [list(pair.chosen) for pair in pairs] == base[1:]
    # Cut at four tokens: no end of turn is learned where the base made none.
    assert all(2 not in pair.chosen for pair in pairs)
    assert told.left_out == {EQUAL: 1}
    assert [row.prompt for row in told.rows] == prompts[1:]
    with pytest.raises(PromptError, match="nothing to heal"):
        pair_own_answers(chat, prompts, base, base)
