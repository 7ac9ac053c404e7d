"""The model card, on an invented run."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from invented_run import a_summary, every, gradient_scores, metrics, searched_summary

from vectomy.core.errors import ArtifactError
from vectomy.report import render_card

TIER = "unit"


def front_matter(card: str) -> dict[str, Any]:
    opening, matter, _ = card.split("---\n", 2)
    assert opening == ""
    return dict(yaml.safe_load(matter))


def test_card_front_matter() -> None:
    assert front_matter(render_card(a_summary())) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["vectomy", "abliterated"],
    }
    other = front_matter(render_card({**a_summary(), "behaviour": "melancholy", "license": "apache-2.0"}))
    assert other["tags"] == ["vectomy", "activation-steering"]
    assert other["license"] == "apache-2.0"


@pytest.mark.parametrize(
    ("kind", "relation", "library", "opening"),
    [
        ("checkpoint", "finetune", "transformers", "changed in its weights"),
        ("adapter", "adapter", "peft", "This is a PEFT adapter"),
        ("edit", "adapter", "vectomy", "This is an Edit"),
        ("gguf", "quantized", "gguf", "as GGUF"),
    ],
)
def test_card_says_what_kind_of_file_it_is_of(kind: Any, relation: str, library: str, opening: str) -> None:
    licence = {"license": "other", "license_name": "a-licence", "license_link": "https://example.org"}
    card = render_card(
        {**a_summary(), "license": licence}, kind=kind, repository="me/x", record={"edit_sha256": "ab"}
    )
    head = front_matter(card)
    assert (head["base_model_relation"], head["library_name"]) == (relation, library)
    assert {key: head[key] for key in licence} == licence
    assert head["vectomy"] == {"edit_sha256": "ab"}
    assert opening in card
    assert ("measured before the conversion" in card) == (kind == "gguf")
    assert ("in another form" in card) == (kind == "adapter")
    assert not re.search(r"\n\n\n|[{}]", card)


def test_card_of_what_nobody_measured_says_so_and_shows_no_numbers() -> None:
    card = render_card(
        {"base_model": "o/b", "strength": 1.0, "safety": "Careful."}, kind="edit", repository="me/x"
    )
    assert "was not measured" in card
    assert "> **Safety.** Careful." in card
    assert "## Results" not in card
    assert "–" not in card


@pytest.mark.parametrize(
    "name", ['a: "b" # c', "x\ntags: [evil]", "--- \u0085\u2028\x7f", "模型 😀", "- *a", "\\n"]
)
def test_card_yaml_survives_hostile_names(name: str) -> None:
    matter = front_matter(render_card({**a_summary(), "base_model": name}))
    assert matter["base_model"] == name
    assert matter["tags"] == ["vectomy", "abliterated"]


def test_card_shows_hostile_values_as_text() -> None:
    summary = every(a_summary(), " | <script>alert(1)</script> [x](javascript:1) `code` *loud*\n# head")
    card = render_card(summary)
    prose = re.sub(r"(?s)(`+).+?(?<!`)\1(?!`)", "", card.split("---\n", 2)[2])
    assert "alert" in prose
    assert not re.search(r"(?<!\\)(<script|\[x\]\(|\*loud)", prose)
    assert [line for line in prose.split("\n") if line.startswith("# ")][1:] == []
    table = [line for line in prose.split("\n") if line.startswith("|")]
    assert len(table) == 9
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}


def test_card_holds_results_cost_and_warning() -> None:
    summary = a_summary()
    card = render_card(summary)
    assert "> **Safety.** This edit removes refusal on harmful prompts, from 81 of 100 (81.0%" in card
    assert "| 81.0% (81 of 100, 72.2–87.5%) | 4.0% (4 of 100, 1.6–9.8%) |" in card
    assert "refusals of harmful requests" in card
    assert "KL 0.351 nats at the first token" in card
    assert summary["edit"]["sha256"] in card
    assert summary["command"] in card
    assert "`keywords`" in card
    assert not re.search(r"\n\n\n|[{}]", card)


def test_card_of_a_learned_edit_says_what_was_learned() -> None:
    card = render_card(searched_summary(gradient_scores()))
    assert "No weight was\ntrained; what was learned is a direction" in card
    assert "by the estimator `projected`, and the edit was chosen by the recipe `gradient`." in card
    assert "Nothing was" not in card
    assert "(strength" not in card
    assert not re.search(r"\n\n\n|[{}]", card)


def test_card_keeps_home_folders_to_itself() -> None:
    summary = {
        **a_summary(),
        "base_model": "/home/sam/models/small",
        "command": (
            "vectomy run /home/sam/models/small --out ~/runs/a "
            "--positive=/home/sam/own.jsonl --negative ./b.jsonl"
        ),
        "safety": "Answers either/or questions, and 3/4 of the rest; see https://example.org/a/b.",
    }
    summary["contrast"] = {**summary["contrast"], "positive": "/home/sam/own.jsonl"}
    card = render_card(summary)
    assert "sam" not in card.lower().replace("same", "")
    assert front_matter(card)["base_model"] == "small"
    assert "vectomy run small --out a --positive=own.jsonl --negative ./b.jsonl" in card
    unmeasured = {key: value for key, value in summary.items() if key not in ("base", "edited", "forms")}
    assert f"> **Safety.** {summary['safety']}" in render_card(unmeasured)


def test_card_passes_the_notes_on() -> None:
    assert "\n- Note: only 9 test prompts\n" in render_card({**a_summary(), "notes": ["only 9 test prompts"]})


def test_card_of_almost_nothing() -> None:
    assert front_matter(render_card({}))["base_model"] == "unknown"


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (4, "fell from 81 to 4 of 100"),
        (97, "rose from 81 to 97 of 100"),
        (81, "stayed at 81 of 100"),
        (78, "fell from 81 to 78 of 100; chance may account for it"),
    ],
)
def test_card_says_which_way_the_rate_went(after: int, words: str) -> None:
    card = render_card({**a_summary(), "edited": metrics(after, 3, 0.1, 0.9)})
    assert words in card.split("> **Safety.**")[0]


SPOILT: list[Any] = [3, 1.5, True, "text", [], [1], {}, {"x": 1}, "\ud800"]


@pytest.mark.parametrize("key", sorted(a_summary()))
def test_a_spoilt_value_of_the_summary_counts_as_absent(key: str) -> None:
    """Or as a value, where it is one of the right type."""
    for value in SPOILT:
        card = render_card({**a_summary(), key: value})
        assert "vectomy" in front_matter(card)["tags"]
        card.encode()


@pytest.mark.parametrize("value", [{"left": [["a", 1]]}, {"left": 1.5, "edited": 7}, {"notes": 3}])
def test_a_spoilt_receipt_takes_no_card_away(value: Any) -> None:
    receipt = {**a_summary()["receipt"], **value}
    assert "The coverage receipt" in render_card({**a_summary(), "receipt": receipt})


@pytest.mark.parametrize("value", SPOILT[:6])
def test_what_is_no_summary_is_refused(value: Any) -> None:
    with pytest.raises(ArtifactError, match="a JSON object, not"):
        render_card(value)
