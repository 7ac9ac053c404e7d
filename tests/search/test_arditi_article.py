"""The paper's rule by its filters and its published choices; the recipes score as their definitions
say.
"""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from tiny import LAYERS, unit
from tiny_directions import NEGATIVE, POSITIVE, TOKENS, directions, recipe_input

from vectomy.core.config import Selection
from vectomy.core.errors import SelectionError
from vectomy.core.linalg import normalise
from vectomy.core.types import SITES
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.hooks.interventions import ablate, add, intervene
from vectomy.metrics.logits import log_odds
from vectomy.search.arditi import select_arditi
from vectomy.search.arditi_rule import choose, choose_beyond_kl, rejection
from vectomy.search.article import rank, select_article
from vectomy.search.estimators import Directions

TIER = "unit"

Row = dict[str, Any]


def row(position: int, layer: int, refusal: float, steering: float, kl: float) -> Row:
    scores = {"refusal_score": refusal, "steering_score": steering, "kl_div_score": kl}
    return {"position": position, "layer": layer, **scores}


# The rule

PUBLISHED = {
    "Qwen-1.8B": (
        24,
        (-2, 15),
        [(-4, 1, -8.54, -6.53, 7.73), (-2, 15, -5.06, 1.65, 0.066), (-1, 15, -4.3, 1.2, 0.05)],
    ),
    "Gemma-2B": (
        18,
        (-2, 10),
        [(-1, 12, -14.30, 6.45, 0.090), (-1, 10, -14.12, 6.68, 0.054), (-2, 10, -14.42, 6.79, 0.066)],
    ),
    "Llama-2-7B": (32, (-1, 14), [(-4, 15, -4.27, 3.39, 0.0946), (-1, 14, -5.62, 5.99, 0.071)]),
    "Llama-3-8B": (
        32,
        (-5, 12),
        [(-5, 12, -9.86, 7.68, 0.059), (-5, 27, -11.0, 9.0, 0.01), (-1, 13, -9.0, 3.0, 0.02)],
    ),
}


@pytest.mark.parametrize("order", [1, -1], ids=["forward", "backward"])
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_choices(model: str, order: int) -> None:
    layers, place, listed = PUBLISHED[model]
    chosen = choose([row(*entry) for entry in listed][::order], layers)
    assert (chosen["position"], chosen["layer"]) == place


GOOD = row(-1, 5, -1.0, 1.0, 0.05)
OUT = {
    "steering below": ({"steering_score": -0.1}, "steering score -0.1 is not above 0"),
    "steering at": ({"steering_score": 0.0}, "steering score 0 is not above 0"),
    "kl above": ({"kl_div_score": 7.7}, "KL 7.7 is not below 0.1"),
    "kl at": ({"kl_div_score": 0.1}, "KL 0.1 is not below 0.1"),
    "kl infinite": ({"kl_div_score": math.inf}, "KL inf is not below 0.1"),
    "layer at": ({"layer": 8}, "layer 8 is not below 0.8 of 10"),
    "layer above": ({"layer": 9}, "layer 9 is not below 0.8 of 10"),
    "refusal NaN": ({"refusal_score": math.nan}, "refusal_score is NaN"),
    "steering NaN": ({"steering_score": math.nan}, "steering_score is NaN"),
    "kl NaN": ({"kl_div_score": math.nan}, "kl_div_score is NaN"),
}
IN = {
    "layer": {"layer": 7},
    "kl": {"kl_div_score": 0.0999},
    "steering": {"steering_score": 1e-9},
    "first": {"layer": 0},
}


@pytest.mark.parametrize("case", OUT)
def test_each_filter_takes_out_the_candidate_that_would_win(case: str) -> None:
    change, reason = OUT[case]
    better = {**GOOD, "refusal_score": -99.0, **change}
    assert rejection(better, 10, Selection()) == reason
    assert choose([better, GOOD], 10) == GOOD


@pytest.mark.parametrize("case", IN)
def test_what_lies_just_inside_passes_and_wins(case: str) -> None:
    better = {**GOOD, "refusal_score": -99.0, **IN[case]}
    assert rejection(better, 10, Selection()) is None
    assert choose([GOOD, better], 10) == better


def test_scores_that_are_not_there_yet_are_not_held_against_a_candidate() -> None:
    assert rejection({"layer": 3, "steering_score": None, "kl_div_score": None}, 10, Selection()) is None
    assert rejection({"layer": 8}, 10, Selection()) is not None


def test_of_equal_candidates_the_first_is_taken() -> None:
    twins = [{**GOOD, "position": -3}, {**GOOD, "position": -2}]
    assert choose(twins, 10)["position"] == -3
    assert choose(twins[::-1], 10)["position"] == -2


def test_thresholds_are_those_that_are_given() -> None:
    loose = Selection(kl_threshold=8, induce_threshold=-7, layer_fraction=1)
    assert choose([GOOD, row(-1, 9, -8.5, -6.5, 7.7)], 10, loose)["layer"] == 9


def test_none_passing_counts_the_reasons() -> None:
    rows = [{**GOOD, **change} for change, _ in OUT.values()]
    with pytest.raises(SelectionError) as caught:
        choose(rows, 10)
    said = str(caught.value)
    assert "none of 10 directions passes" in said
    for part in ("steering 2", "KL 3", "layer 2", "refusal_score 1", "steering_score 1", "kl_div_score 1"):
        assert part in said
    with pytest.raises(SelectionError, match="there were none"):
        choose([], 10)


# Beyond the KL filter

BEYOND = [
    row(-1, 2, -9.0, 2.0, 3.0),
    row(-1, 3, -4.0, 2.0, 0.5),
    row(-1, 4, -2.0, 2.0, 0.3),
    row(-1, 5, 1.0, 2.0, 0.2),
]


@pytest.mark.parametrize(
    ("still", "layer"), [({}, 4), ({4: 0.5}, 3), ({4: 0.06, 3: 0.05}, 3), ({4: 1, 3: 1}, 2)]
)
def test_beyond_kl_takes_the_least_kl_after_which_the_behaviour_is_gone(
    still: dict[int, float], layer: int
) -> None:
    """Layer 5 has the least KL but leaves refusal the likelier opening; `still` says what
    generation finds.
    """
    asked: list[int] = []

    def refused(candidate: Any) -> float:
        asked.append(candidate["layer"])
        return still.get(candidate["layer"], 0.0)

    chosen, said = choose_beyond_kl(BEYOND, 10, Selection(), refused)
    assert chosen["layer"] == layer
    assert asked == [4, 3, 2][: len(asked)]
    assert asked[-1] == layer
    assert "KL < 0.1" in said


def test_beyond_kl_takes_the_lowest_refusal_score_where_nothing_removes_it() -> None:
    chosen, said = choose_beyond_kl(BEYOND, 10, Selection(), lambda _: 1.0)
    assert chosen["layer"] == 2
    assert "none removes" in said


def test_beyond_kl_keeps_to_the_other_filters() -> None:
    rows = [{**BEYOND[2], "steering_score": -1.0}, {**BEYOND[2], "layer": 9}, BEYOND[1]]
    assert choose_beyond_kl(rows, 10, Selection(), lambda _: 0.0)[0] == BEYOND[1]
    with pytest.raises(SelectionError, match="steering 1, layer 1"):
        choose_beyond_kl(rows[:2], 10, Selection(), lambda _: 0.0)


# The rule alone, as a command

LOADED = """
import sys
from vectomy.cli import main
try:
    main()
finally:
    heavy = {"torch", "transformers", "numpy", "safetensors"} & set(sys.modules)
    print("loaded:", *sorted(heavy), file=sys.stderr)
"""


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True, check=False)


def scores_file(path: Path, value: Any) -> str:
    file = path / "scores.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(file)


def test_select_from_scores_prints_the_choice_and_loads_no_torch(tmp_path: Path) -> None:
    layers, place, listed = PUBLISHED["Qwen-1.8B"]
    file = scores_file(tmp_path, [{**row(*entry), "extra": "kept"} for entry in listed])
    done = command("select", "--from-scores", file, "--layers", str(layers))
    assert done.returncode == 0
    chosen = json.loads(done.stdout)
    assert (chosen["position"], chosen["layer"]) == place
    assert chosen["extra"] == "kept"
    assert done.stderr.strip() == "loaded:"


FAILS: dict[str, tuple[Any, tuple[str, ...], int, str]] = {
    "none passes": ([row(-1, 1, -1.0, -1.0, 0.01)], ("--layers", "10"), 1, "rejected by: steering 1"),
    "empty": ([], ("--layers", "10"), 1, "no list of candidates"),
    "no number": ([{**GOOD, "kl_div_score": "x"}], ("--layers", "10"), 1, "kl_div_score = 'x'"),
    "missing": ([{"layer": 1}], ("--layers", "10"), 1, "position = None"),
    "no layers": ([GOOD], (), 2, "--layers N"),
    "zero layers": ([GOOD], ("--layers", "0"), 2, "--layers N"),
    "no JSON": ("{", ("--layers", "10"), 2, "does not parse"),
    "bad threshold": ([GOOD], ("--layers", "10", "--kl-threshold", "-1"), 2, "--kl-threshold"),
}


@pytest.mark.parametrize("case", FAILS)
def test_select_from_scores_fails_with_a_status_and_a_sentence(tmp_path: Path, case: str) -> None:
    value, more, status, said = FAILS[case]
    done = command("select", "--from-scores", scores_file(tmp_path, value), *more)
    assert done.returncode == status
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# Recipe arditi on the tiny chat model


def arditi(tmp_path: Path, found: Directions | None = None, **limits: Any) -> tuple[Row, torch.Tensor]:
    task = recipe_input(tmp_path, "arditi", vectors=found, **limits)
    scores = select_arditi(task).scores
    return scores, task.directions.at("resid_pre", scores["chosen"]["layer"], scores["chosen"]["position"])


def by_place(scores: Row) -> dict[tuple[int, int], Row]:
    return {(entry["layer"], entry["position"]): entry for entry in scores["candidates"]}


LIMITS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all pass": {"induce_threshold": -99.0, "kl_threshold": 99.0, "layer_fraction": 1.0},
    "beyond": {"kl_threshold": 1e-6},
    "beyond, more": {"kl_threshold": 1e-6, "induce_threshold": -3.0},
}


@pytest.mark.chat
@pytest.mark.parametrize("case", LIMITS)
def test_scores_left_out_change_no_choice(tmp_path: Path, case: str) -> None:
    """Lazily scored and in full: the same choice, and the lazy scores are among the full ones."""
    lazy, vector = arditi(tmp_path / "lazy", **LIMITS[case])
    full, other = arditi(tmp_path / "full", complete=True, **LIMITS[case])
    assert lazy["chosen"] == full["chosen"]
    assert torch.equal(vector, other)
    missing = 0
    for place, entry in by_place(lazy).items():
        for name in ("steering_score", "kl_div_score", "refusal_score"):
            missing += entry[name] is None
            assert entry[name] in (None, by_place(full)[place][name])
    assert case == "all pass" or missing > 2


@pytest.mark.chat
def test_scores_are_those_of_their_definition(tmp_path: Path) -> None:
    """Ablated at every point of the stream, added at its own layer; one prompt at a time, by the
    model's own logits.
    """
    chat, scores = tiny_chat.chat(), by_place(arditi(tmp_path, complete=True)[0])

    def now(prompts: list[Any]) -> torch.Tensor:
        return torch.cat(
            [tiny_chat.raw(chat, ids).logits[:, -1].log_softmax(-1) for ids in chat.tokens(prompts)]
        )

    base = now(NEGATIVE)
    for (layer, position), entry in scores.items():
        vector = directions().at("resid_pre", layer, position)
        if entry["rejected"] == "both sets have the same mean there":
            assert not vector.any()
            continue
        remove = ablate(normalise(vector))
        with intervene(chat.model, {(site, at): remove for site in SITES for at in range(LAYERS)}):
            refusal, after = float(log_odds(now(POSITIVE), TOKENS).mean()), now(NEGATIVE)
        with intervene(chat.model, {("resid_pre", layer): add(vector)}):
            steering = float(log_odds(now(NEGATIVE), TOKENS).mean())
        kl = torch.nn.functional.kl_div(after, base, reduction="none", log_target=True).sum(-1).mean()
        assert entry["refusal_score"] == pytest.approx(refusal, abs=1e-3)
        assert entry["steering_score"] == pytest.approx(steering, abs=1e-3)
        assert entry["kl_div_score"] == pytest.approx(float(kl), rel=1e-2, abs=1e-5)


@pytest.mark.chat
def test_an_edit_on_every_writer_scores_as_ablation_at_every_point() -> None:
    """For a random direction too: the equality needs nothing of the model's training."""
    chat = tiny_chat.chat(taught_=False)
    tokens = chat.tokens(POSITIVE + NEGATIVE)
    edit = Edit.from_directions(unit(3), BaseModelRef.of(chat.checkpoint), chat.architecture.writers)
    plain = chat.next_token_log_probs(tokens, 4096)
    with edit.hooks(chat.model):
        edited = chat.next_token_log_probs(tokens, 4096)
    with intervene(chat.model, {(site, at): ablate(unit(3)) for site in SITES for at in range(LAYERS)}):
        ablated = chat.next_token_log_probs(tokens, 4096)
    torch.testing.assert_close(edited, ablated, rtol=1e-3, atol=1e-3)
    assert (edited - plain).abs().max() > 0.05


@pytest.mark.chat
def test_the_choice_is_the_rules_and_what_is_returned_is_its_direction(tmp_path: Path) -> None:
    scores, vector = arditi(tmp_path, complete=True)
    scored = [entry for entry in scores["candidates"] if entry["refusal_score"] is not None]
    wanted = choose(scored, LAYERS)
    place = {key: wanted[key] for key in ("site", "layer", "position", "token")}
    assert scores["chosen"] == {**place, "norm": float(vector.norm())}
    assert torch.equal(vector, directions().at("resid_pre", wanted["layer"], wanted["position"]))
    assert scores["chosen"]["token"] == ("<|assistant|>" if wanted["position"] == -1 else "<|end|>")
    assert scores["note"] is None
    assert scores["baseline"]["positive"] > 0 > scores["baseline"]["negative"]


@pytest.mark.chat
def test_template_tokens_before_any_attention_are_out_unscored(tmp_path: Path) -> None:
    """The last tokens are the same for every prompt, so at layer 0 both sets have the same mean
    there.
    """
    for (layer, _), entry in by_place(arditi(tmp_path, complete=True)[0]).items():
        assert (entry["rejected"] == "both sets have the same mean there") == (layer == 0)
        assert (entry["refusal_score"] is None) == (layer == 0)


@pytest.mark.chat
def test_strict_stops_where_the_default_goes_beyond(tmp_path: Path) -> None:
    with pytest.raises(SelectionError, match="KL"):
        arditi(tmp_path, kl_threshold=1e-6, strict=True)
    scores, _ = arditi(tmp_path, kl_threshold=1e-6)
    assert "KL < 1e-06" in scores["note"]


@pytest.mark.chat
def test_scores_in_the_journal_are_not_computed_again(tmp_path: Path, monkeypatch) -> None:
    first = arditi(tmp_path)[0]
    monkeypatch.setattr("vectomy.search.arditi.intervene", lambda *_: pytest.fail("steered again"))
    monkeypatch.setattr(
        "vectomy.search.arditi._ArditiScorer._ablate", lambda *_: pytest.fail("ablated again")
    )
    assert arditi(tmp_path)[0] == first


# Recipe article


def listed(*means: float) -> Directions:
    """One direction per layer, of unit length and with the given mean of its components, times its
    own length.
    """
    ones = torch.ones(32) / 32**0.5
    aside = normalise(torch.cat([torch.ones(16), -torch.ones(16)]))
    vectors = []
    for at, mean in enumerate(means):
        share = mean * 32**0.5
        vectors.append((at + 1) * (share * ones + (1 - share * share) ** 0.5 * aside))
    return Directions("difference_of_means", ("resid_pre",), (-1,), torch.stack(vectors)[None, :, None])


def test_the_article_ranks_by_the_mean_of_the_unit_direction_without_its_sign() -> None:
    """Layer 0 has the largest and is left out; lengths do not count, signs do not count."""
    ranked = rank(listed(0.17, 0.02, -0.10, 0.05, -0.01))
    assert [entry["layer"] for entry in ranked] == [2, 3, 1, 4]
    assert [entry["score"] for entry in ranked] == pytest.approx([0.10, 0.05, 0.02, 0.01], abs=1e-6)
    assert [entry["rank"] for entry in ranked] == [0, 1, 2, 3]
    assert {entry["site"] for entry in ranked} == {"resid_pre"}


def test_the_article_ranks_the_last_position() -> None:
    both = torch.cat([listed(0.1, 0.1, 0.1).vectors, listed(0.1, 0.01, 0.05).vectors], dim=2)
    ranked = rank(Directions("difference_of_means", ("resid_pre",), (-2, -1), both))
    assert [(entry["layer"], entry["position"]) for entry in ranked] == [(2, -1), (1, -1)]


def article(tmp_path: Path, ask: Any = None, **limits: Any) -> tuple[Row, torch.Tensor]:
    task = recipe_input(tmp_path, "article", ask=ask, **limits)
    scores = select_article(task).scores
    return scores, task.directions.at("resid_pre", scores["chosen"]["layer"], -1)


@pytest.mark.chat
def test_the_article_answers_with_the_direction_ablated_at_every_point(tmp_path: Path) -> None:
    chat = tiny_chat.chat()
    scores, _ = article(tmp_path, shown_prompts=3, shown_tokens=6)
    assert len(scores["candidates"]) == LAYERS - 1
    for entry in scores["candidates"]:
        remove = ablate(normalise(directions().at("resid_pre", entry["layer"], -1)))
        with intervene(chat.model, {(site, at): remove for site in SITES for at in range(LAYERS)}):
            expected = [chat.text(answer) for answer in chat.answer(chat.tokens(POSITIVE[:3]), 6, 4096)]
        assert [answer["completion"] for answer in entry["answers"]] == expected
        assert [answer["prompt"] for answer in entry["answers"]] == [prompt.text for prompt in POSITIVE[:3]]
        assert entry["dropped"] == sum("I can't" in text for text in expected)


@pytest.mark.chat
def test_headless_the_fewest_dropped_answers_win(tmp_path: Path) -> None:
    scores, vector = article(tmp_path)
    best = min(scores["candidates"], key=lambda entry: (entry["dropped"], entry["rank"]))
    assert scores["chosen"]["layer"] == best["layer"]
    assert scores["how"].startswith("headless")
    assert torch.equal(vector, directions().at("resid_pre", best["layer"], -1))
    assert {entry["dropped"] for entry in scores["candidates"]} != {best["dropped"]}


@pytest.mark.chat
def test_as_many_candidates_are_tried_as_asked(tmp_path: Path) -> None:
    scores, _ = article(tmp_path, candidates=2)
    assert ["answers" in entry for entry in scores["candidates"]] == [True, True, False]
    assert Selection().candidates == 20


@pytest.mark.chat
@pytest.mark.parametrize("picked", [0, 2])
def test_a_person_or_pick_takes_a_rank(tmp_path: Path, picked: int) -> None:
    seen: list[Row] = []

    def ask(tried: list[Row]) -> int:
        seen.extend(tried)
        return picked

    asked, _ = article(tmp_path / "asked", ask=ask)
    given, _ = article(tmp_path / "given", pick=picked, ask=lambda _: pytest.fail("asked all the same"))
    layer = asked["candidates"][picked]["layer"]
    assert asked["chosen"]["layer"] == given["chosen"]["layer"] == layer
    assert [entry["rank"] for entry in seen] == [0, 1, 2]
    assert (asked["how"], given["how"]) == ("picked by a person", f"--pick {picked}")


@pytest.mark.chat
def test_a_pick_that_was_not_tried_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SelectionError, match=r"--pick 2 is not among the 2 tried candidates \(ranks 0 to 1\)"
    ):
        article(tmp_path, candidates=2, pick=2)


DROPPED = {
    "I cannot say": True,
    "Well, I can't say": True,
    "I can\u2019t say": True,
    "": True,
    "...": True,
    "I will say": False,
    "You cannot": False,
    "no " * 30: True,
}


@pytest.mark.chat
@pytest.mark.parametrize("text", DROPPED)
def test_the_blacklist_of_the_article(text: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("vectomy.models.ChatModel.text", lambda *_: text)
    scores, _ = article(tmp_path, shown_prompts=1, shown_tokens=1)
    assert {entry["answers"][0]["dropped"] for entry in scores["candidates"]} == {DROPPED[text]}
