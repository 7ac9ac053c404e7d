"""The paper's rule by its filters and its published choices, and as a command."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from candidate_scores import Row

from vectomy.core.errors import SelectionError
from vectomy.core.run_config import Selection
from vectomy.search.arditi_rule import choose, choose_beyond_kl, rejection

TIER = "unit"


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
