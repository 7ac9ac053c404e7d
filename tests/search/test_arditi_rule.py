"""The paper's rule by its filters and its published choices, and as a command."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from candidate_scores import Row
from command_line import Vectomy, process

from vectomy.core.errors import SelectionError
from vectomy.core.run_config import Selection
from vectomy.search.arditi_rule import (
    choose,
    choose_beyond_kl,
    explain_choice,
    first_late_layer,
    rejection,
)

TIER = "unit"


def row(position: int, layer: int, refusal: float, steering: float, kl: float) -> Row:
    scores = {"refusal_score": refusal, "steering_score": steering, "kl_div_score": kl}
    return {"position": position, "layer": layer, **scores}


# The rule

# Rows of the five published tables (github.com/andyrdt/refusal_direction, pipeline/runs/
# MODEL/select_direction/direction_evaluations.json), rounded: position, layer, refusal score under
# ablation, steering score, KL. The first row is the published choice; the others have the next best
# scores, or would be chosen if the filter that they are filed under did not exist.
PUBLISHED: dict[str, tuple[int, tuple[int, int], dict[str, list[tuple[int, int, float, float, float]]]]] = {
    "Qwen-1.8B": (
        24,
        (-2, 15),
        {
            "passes": [(-2, 15, -5.0575, 1.6514, 0.06584), (-1, 15, -5.0224, 1.7627, 0.06878)],
            "KL": [(-2, 14, -5.0783, 1.4903, 0.10727), (-1, 14, -5.0476, 1.5848, 0.11273)],
            "steering": [(-4, 1, -8.5429, -6.5259, 7.72596), (-1, 1, -8.3688, -6.5376, 9.16942)],
            "layer": [(-2, 19, -3.3849, 1.4767, 0.09553), (-2, 21, -3.6208, 1.2607, 0.08251)],
        },
    ),
    "Gemma-2B": (
        18,
        (-2, 10),
        {
            "passes": [(-2, 10, -14.4193, 6.7886, 0.06593), (-1, 12, -14.2960, 6.4455, 0.09040)],
            "KL": [(-2, 12, -14.1950, 6.5925, 0.12511)],
            "steering": [(-3, 1, -18.4207, -13.9560, 13.14454), (-4, 12, -11.5236, -1.9198, 0.04405)],
            "layer": [(-2, 14, -7.3846, 4.0238, 0.05456), (-2, 15, -8.5737, 4.2929, 0.05158)],
        },
    ),
    "Yi-6B": (
        32,
        (-5, 20),
        {
            "passes": [(-5, 20, -6.7479, 1.6392, 0.04724), (-1, 22, -6.3112, 1.8395, 0.04305)],
            "KL": [(-1, 20, -7.7909, 1.7713, 0.10281), (-5, 18, -6.9940, 2.2115, 0.32358)],
            "steering": [(-1, 18, -6.6910, -1.6218, 0.14120)],
            "layer": [(-1, 25, -7.0630, 1.7884, 0.05397), (-1, 28, -8.3198, 1.7273, 0.07201)],
        },
    ),
    "Llama-2-7B": (
        32,
        (-1, 14),
        {
            "passes": [(-1, 14, -5.6169, 5.9863, 0.07121), (-4, 15, -4.2709, 3.3886, 0.09464)],
            "KL": [(-2, 11, -10.5733, 4.0365, 0.18716), (-4, 11, -9.0266, 5.1885, 0.26177)],
            "steering": [(-6, 2, -9.2537, -8.6737, 10.18368), (-3, 7, -2.4747, -9.7584, 0.09095)],
            "layer": [(-6, 29, -9.5468, -8.7389, 9.90010), (-6, 30, math.nan, -8.5054, math.nan)],
        },
    ),
    "Llama-3-8B": (
        32,
        (-5, 12),
        {
            "passes": [(-5, 12, -9.8551, 7.6757, 0.05882), (-2, 12, -9.5877, 7.9620, 0.02575)],
            "KL": [(-3, 13, -5.5447, 3.2781, 0.15577)],
            "steering": [(-5, 18, -3.0575, -0.0834, 0.03631)],
            "layer": [(-1, 29, -1.4404, 4.3745, 0.06997)],
        },
    ),
}


PUBLISHED_FOLDERS = (
    "qwen-1_8b-chat",
    "gemma-2b-it",
    "yi-6b-chat",
    "llama-2-7b-chat-hf",
    "meta-llama-3-8b-instruct",
)


def published_rows(model: str) -> list[Row]:
    return [row(*entry) for entries in PUBLISHED[model][2].values() for entry in entries]


@pytest.mark.parametrize("order", [1, -1], ids=["forward", "backward"])
@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_choices(model: str, order: int) -> None:
    layers, place, _ = PUBLISHED[model]
    chosen = choose(published_rows(model)[::order], layers)
    assert (chosen["position"], chosen["layer"]) == place


@pytest.mark.parametrize("model", PUBLISHED)
def test_each_published_row_is_rejected_by_the_filter_it_is_filed_under(model: str) -> None:
    layers, _, filed = PUBLISHED[model]
    for name, entries in filed.items():
        for entry in entries:
            reason = rejection(row(*entry), layers, Selection())
            assert (reason or "passes").split()[0] == name


def test_late_layers_begin_at_a_whole_number() -> None:
    """int(0.8 L), by integer arithmetic as the oracle; a fraction that floats cannot say exactly
    cuts where it should.
    """
    assert [first_late_layer(n, 0.8) for n in range(1, 400)] == [4 * n // 5 for n in range(1, 400)]
    assert first_late_layer(100, 0.29) == 29
    assert first_late_layer(24, 1.0) == 24
    yi = row(-1, 25, -7.0630, 1.7884, 0.05397)
    assert rejection(yi, 32, Selection()) == "layer 25 is not below 25, which is int(0.8 * 32)"


def test_an_outcome_names_every_lower_score_and_its_reason() -> None:
    rows = published_rows("Yi-6B")
    outcome = explain_choice(rows, 32, Selection())
    assert outcome.chosen == choose(rows, 32)
    assert (outcome.passing, outcome.rejected_by) == (2, {"KL": 2, "steering": 1, "layer": 2})
    lower = [(candidate["position"], candidate["layer"]) for candidate, _ in outcome.lower]
    assert lower == [(-1, 28), (-1, 20), (-1, 25), (-5, 18)]
    with_nan = explain_choice(published_rows("Llama-2-7B"), 32, Selection())
    assert [candidate["layer"] for candidate, _ in with_nan.lower] == [11, 29, 2, 11]


GOOD = row(-1, 5, -1.0, 1.0, 0.05)
OUT = {
    "steering below": ({"steering_score": -0.1}, "steering score -0.1 is not above 0"),
    "steering at": ({"steering_score": 0.0}, "steering score 0 is not above 0"),
    "kl above": ({"kl_div_score": 7.7}, "KL 7.7 is not below 0.1"),
    "kl at": ({"kl_div_score": 0.1}, "KL 0.1 is not below 0.1"),
    "kl infinite": ({"kl_div_score": math.inf}, "KL inf is not below 0.1"),
    "layer at": ({"layer": 8}, "layer 8 is not below 8, which is int(0.8 * 10)"),
    "layer above": ({"layer": 9}, "layer 9 is not below 8, which is int(0.8 * 10)"),
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


def scores_file(path: Path, value: Any) -> str:
    file = path / "scores.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(file)


@pytest.mark.parametrize("model", PUBLISHED)
def test_select_from_scores_reproduces_each_published_choice(
    tmp_path: Path, vectomy: Vectomy, model: str
) -> None:
    layers, place, _ = PUBLISHED[model]
    file = scores_file(tmp_path, published_rows(model))  # with NaN, as they were published
    status, out, _ = vectomy("select", "--from-scores", file, "--layers", str(layers))
    assert status == 0
    chosen = json.loads(out)
    assert (chosen["position"], chosen["layer"]) == place


@pytest.mark.tiny
def test_select_from_scores_prints_the_choice_and_loads_no_torch(tmp_path: Path) -> None:
    layers, place, _ = PUBLISHED["Yi-6B"]
    file = scores_file(tmp_path, [{**entry, "extra": "kept"} for entry in published_rows("Yi-6B")])
    done = process(LOADED, "select", "--from-scores", file, "--layers", str(layers))
    assert done.returncode == 0
    chosen = json.loads(done.stdout)
    assert (chosen["position"], chosen["layer"]) == place
    assert chosen["extra"] == "kept"
    *reasons, loaded = done.stderr.strip().splitlines()
    assert loaded == "loaded:"
    assert reasons[0] == "2 of 7 directions pass the filters (rejected by: KL 2, steering 1, layer 2)"
    assert (
        "position -1, layer 25 has a lower refusal score (-7.06), but layer 25 is not below 25" in done.stderr
    )


def test_select_from_scores_as_json_says_why_others_fell_out(tmp_path: Path, vectomy: Vectomy) -> None:
    rows = published_rows("Llama-2-7B")
    rows.append({**rows[0], "layer": 13, "refusal_score": -6.0, "kl_div_score": math.nan})
    file = scores_file(tmp_path, rows)
    status, out, err = vectomy("select", "--from-scores", file, "--layers", "32", "--json")
    assert (status, err) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    result = json.loads(out, parse_constant=refuse)
    assert (result["position"], result["layer"], result["kl_div_score"]) == (-1, 14, 0.07121)
    assert (result["candidates"], result["passing"]) == (len(rows), 2)
    assert result["rejected_by"] == {"KL": 2, "steering": 2, "layer": 2, "kl_div_score": 1}
    assert result["lower_but_rejected"][-1]["rejected"] == "kl_div_score is NaN"
    assert result["lower_but_rejected"][-1]["kl_div_score"] is None


FAILS: dict[str, tuple[Any, tuple[str, ...], int, str]] = {
    "none passes": ([row(-1, 1, -1.0, -1.0, 0.01)], ("--layers", "10"), 1, "rejected by: steering 1"),
    "empty": ([], ("--layers", "10"), 1, "no list of candidates"),
    "no number": ([{**GOOD, "kl_div_score": "x"}], ("--layers", "10"), 1, "kl_div_score = 'x'"),
    "missing": ([{"layer": 1}], ("--layers", "10"), 1, "position = None"),
    "no layers": ([GOOD], (), 2, "--layers N"),
    "too few layers": ([GOOD], ("--layers", "5"), 1, "is of layer 5, but --layers 5 ends at layer 4"),
    "negative layer": ([{**GOOD, "layer": -1}], ("--layers", "5"), 1, "is of layer -1"),
    "zero layers": ([GOOD], ("--layers", "0"), 2, "--layers N"),
    "no JSON": ("{", ("--layers", "10"), 2, "does not parse"),
    "bad threshold": ([GOOD], ("--layers", "10", "--kl-threshold", "-1"), 2, "--kl-threshold"),
}


@pytest.mark.parametrize("case", FAILS)
def test_select_from_scores_fails_with_a_status_and_a_sentence(
    tmp_path: Path, vectomy: Vectomy, case: str
) -> None:
    value, more, status, message = FAILS[case]
    result, out, err = vectomy("select", "--from-scores", scores_file(tmp_path, value), *more)
    assert (result, out) == (status, "")
    assert message in err
    assert "Traceback" not in err


# The benchmark over the published files


# Three processes of the benchmark.
@pytest.mark.tiny
def test_the_benchmark_says_what_it_did_not_check(tmp_path: Path) -> None:
    """Four models reproduced, one without files: status 2 and a line that says so; another choice
    than the published one: status 1.
    """
    names = dict(zip(PUBLISHED, PUBLISHED_FOLDERS, strict=True))
    for model, folder in names.items():
        place = tmp_path / folder
        (place / "select_direction").mkdir(parents=True)
        text = json.dumps(published_rows(model))
        (place / "select_direction" / "direction_evaluations.json").write_text(text)
        position, layer = PUBLISHED[model][1]
        (place / "direction_metadata.json").write_text(json.dumps({"pos": position, "layer": layer}))
    script = Path(__file__).parents[2] / "benchmarks" / "published_choices.py"

    def check() -> tuple[int, str]:
        done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    status, out = check()
    assert (status, out.count("as published")) == (0, 5)
    (tmp_path / "gemma-2b-it" / "direction_metadata.json").unlink()
    status, out = check()
    assert status == 2
    assert "gemma-2b-it: not checked" in out
    assert "4 of 5 published choices reproduced" in out
    (tmp_path / "yi-6b-chat" / "direction_metadata.json").write_text('{"pos": -1, "layer": 25}')
    status, out = check()
    assert status == 1
    assert "yi-6b-chat: position -5, layer 20: published is position -1, layer 25" in out
