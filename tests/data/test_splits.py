"""What a direction is fitted on is never what it is reported on."""

import json
from pathlib import Path

import pytest
from written_prompts import write_numbered

from vectomy.core.errors import PromptError
from vectomy.core.run_config import Contrast, Source
from vectomy.data.splits import SPLITS, Splits, split_contrast

TIER = "unit"


def contrast(tmp_path: Path, count: int = 40, **changes: object) -> Contrast:
    sides = {
        "positive": write_numbered(tmp_path / "p.txt", count),
        "negative": write_numbered(tmp_path / "n.txt", count, "other"),
    }
    return Contrast(**{**sides, **changes})


def texts(splits: Splits) -> dict[str, list[str]]:
    return {name: [prompt.text for prompt in getattr(splits, name)] for name in SPLITS}


def test_the_bundled_sets_bring_their_own_splits() -> None:
    chosen = Contrast(positive=Source(prompts="bundled:refused"), negative=Source(prompts="bundled:harmless"))
    for side in split_contrast(chosen):
        assert [len(getattr(side, name)) for name in SPLITS] == [64, 32, 40]
    assert split_contrast(chosen, seed=1) == split_contrast(chosen, seed=2)


@pytest.mark.parametrize("count", [6, 13, 400])
def test_splits_share_nothing_and_leave_no_prompt_unused(tmp_path: Path, count: int) -> None:
    for side in split_contrast(contrast(tmp_path, count)):
        found = texts(side)
        everything = [text for name in SPLITS for text in found[name]]
        assert len(everything) == len(set(everything)) == min(count, 256 + 32 + 100)
        assert min(map(len, found.values())) >= 2


def test_the_limits_are_kept(tmp_path: Path) -> None:
    side, _ = split_contrast(contrast(tmp_path, 100, n_fit=9, n_search=5, n_test=7))
    assert [len(found) for found in texts(side).values()] == [9, 5, 7]


def test_the_same_seed_gives_the_same_splits_and_another_seed_others(tmp_path: Path) -> None:
    chosen = contrast(tmp_path)
    assert split_contrast(chosen, 3) == split_contrast(chosen, 3)
    assert texts(split_contrast(chosen, 3)[0]) != texts(split_contrast(chosen, 4)[0])


def test_splits_are_shuffled_so_that_a_sorted_file_is_no_trap(tmp_path: Path) -> None:
    fit = texts(split_contrast(contrast(tmp_path, 200))[0])["fit"]
    numbers = [int(text.split()[1]) for text in fit]
    assert numbers != sorted(numbers)
    assert max(numbers) > 190 > 10 > min(numbers)


def test_two_system_prompts_over_one_set_are_a_contrast_and_a_text_stays_in_one_split(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "p.txt", 50)
    sides = {"positive": "Be melancholic.", "negative": None}
    chosen = Contrast(**{side: source.model_copy(update={"system": text}) for side, text in sides.items()})
    positive, negative = split_contrast(chosen, seed=5)
    assert texts(positive) == texts(negative)
    assert {p.system for p in positive.test} == {"Be melancholic."}
    assert {p.system for p in negative.test} == {None}


def test_identical_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="are the same set"):
        split_contrast(contrast(tmp_path, negative=write_numbered(tmp_path / "same.txt", 40)))


def test_sets_that_share_a_prompt_are_refused_by_example(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"share 1 prompts, for example 'prompt 39'"):
        split_contrast(contrast(tmp_path, negative=write_numbered(tmp_path / "n2.txt", 40, start=39)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_prompts_are_counted(tmp_path: Path, count: int) -> None:
    with pytest.raises(PromptError, match=f"positive prompts .* are {count}; at least 6"):
        split_contrast(contrast(tmp_path, positive=write_numbered(tmp_path / "few.txt", count)))


def test_a_test_set_of_one_is_refused(tmp_path: Path) -> None:
    one = write_numbered(tmp_path / "one.txt", 1, "test")
    with pytest.raises(PromptError, match="positive test split has 1"):
        split_contrast(contrast(tmp_path, positive_test=one))


def own_splits(tmp_path: Path, test_start: int) -> dict[str, Source]:
    return {
        "positive_search": write_numbered(tmp_path / "ps.txt", 10, start=100),
        "negative_search": write_numbered(tmp_path / "ns.txt", 10, "other", start=100),
        "positive_test": write_numbered(tmp_path / "pt.txt", 10, start=test_start),
        "negative_test": write_numbered(tmp_path / "nt.txt", 10, "other", start=200),
    }


def test_splits_from_files_of_their_own_are_taken_as_they_are(tmp_path: Path) -> None:
    positive, _ = split_contrast(contrast(tmp_path, **own_splits(tmp_path, 200)))
    assert sorted(texts(positive)["fit"]) == sorted(f"prompt {n}" for n in range(40))
    assert texts(positive)["search"] == [f"prompt {n}" for n in range(100, 110)]
    assert texts(positive)["test"] == [f"prompt {n}" for n in range(200, 210)]


@pytest.mark.parametrize(("start", "earlier", "count"), [(35, "fit", 5), (105, "search", 5)])
def test_a_test_file_that_overlaps_is_refused_or_thinned(
    tmp_path: Path, start: int, earlier: str, count: int
) -> None:
    files = own_splits(tmp_path, start)
    with pytest.raises(PromptError, match=f"test prompts overlap the {earlier} prompts in {count}"):
        split_contrast(contrast(tmp_path, **files))
    positive, _ = split_contrast(contrast(tmp_path, drop_overlap=True, **files))
    assert len(positive.test) == 10 - count
    assert not set(texts(positive)["test"]) & set(texts(positive)[earlier])


def test_an_overlap_with_what_the_limit_cut_off_counts_too(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="overlap the fit prompts in 10"):
        split_contrast(contrast(tmp_path, n_fit=3, **own_splits(tmp_path, 0)))


def test_a_split_of_its_own_takes_the_system_prompt_of_its_side(tmp_path: Path) -> None:
    positive = write_numbered(tmp_path / "p.txt", 40).model_copy(update={"system": "Be sad."})
    found, _ = split_contrast(contrast(tmp_path, positive=positive, **own_splits(tmp_path, 200)))
    assert {p.system for name in SPLITS for p in getattr(found, name)} == {"Be sad."}


def test_splits_as_json_hold_every_prompt(tmp_path: Path) -> None:
    side, _ = split_contrast(contrast(tmp_path))
    written = json.loads(json.dumps(side.to_json()))
    assert {name: [row["text"] for row in rows] for name, rows in written.items()} == texts(side)
