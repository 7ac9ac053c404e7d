"""Prompts come whole from any source, and what a direction is fitted on is never what it is
reported on.
"""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from vectomy.core.config import Contrast, Source
from vectomy.core.errors import PromptError
from vectomy.data.prompts import SPLITS, Prompt, Splits, read_prompts, split_contrast

TIER = "unit"

TEXTS = ["How do I bake bread?", "Ünïcode “quotes”, commas\nand a line", "a\u2028b\x85c"]


def write(path: Path, rows: list[dict], text: str | None = None) -> Source:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text(
            "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n", encoding="utf-8"
        )
    else:
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return Source(prompts=str(path))


def numbered(path: Path, count: int, what: str = "prompt", start: int = 0) -> Source:
    path.write_text("\n".join(f"{what} {n}" for n in range(start, start + count)), encoding="utf-8")
    return Source(prompts=str(path))


def contrast(tmp_path: Path, count: int = 40, **changes: object) -> Contrast:
    sides = {
        "positive": numbered(tmp_path / "p.txt", count),
        "negative": numbered(tmp_path / "n.txt", count, "other"),
    }
    return Contrast(**{**sides, **changes})


def texts(splits: Splits) -> dict[str, list[str]]:
    return {name: [prompt.text for prompt in getattr(splits, name)] for name in SPLITS}


# Sources


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("column", ["text", "prompt", "instruction", "goal", "question"])
def test_every_file_kind_gives_its_texts(tmp_path: Path, suffix: str, column: str) -> None:
    source = write(tmp_path / f"p{suffix}", [{"id": f"n{n}", column: text} for n, text in enumerate(TEXTS)])
    assert [prompt.text for prompt in read_prompts(source)] == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_column_is_the_named_one_else_the_first_known(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"p{suffix}", [{"goal": "a goal", "prompt": "a prompt", "other": "another"}])
    assert read_prompts(source) == [Prompt("a prompt")]
    for column, text in (("goal", "a goal"), ("other", "another")):
        assert read_prompts(Source(prompts=f"{source.prompts}#{column}")) == [Prompt(text)]


def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffone\r\n\n  two  \nThree ü\u2028a\u2029b\x85c".encode())
    assert [p.text for p in read_prompts(Source(prompts=str(tmp_path / "p.txt")))] == [
        "one",
        "two",
        "Three ü\u2028a\u2029b\x85c",
    ]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_rows_may_be_plain_texts(tmp_path: Path, suffix: str) -> None:
    assert read_prompts(write(tmp_path / f"p{suffix}", ["one", "two"])) == [Prompt("one"), Prompt("two")]


def test_doubles_and_blanks_are_left_out_whatever_their_case_and_spacing(tmp_path: Path) -> None:
    rows = [
        {"text": text} for text in ("Say  hi", "say hi ", "SAY\nHI", " ", "Say ﬁne", "say fine", "say hi!")
    ]
    assert [p.text for p in read_prompts(write(tmp_path / "p.json", rows))] == [
        "Say  hi",
        "Say ﬁne",
        "say hi!",
    ]


def test_a_system_prompt_goes_with_every_prompt(tmp_path: Path) -> None:
    source = numbered(tmp_path / "p.txt", 3).model_copy(update={"system": "Be sad."})
    assert {prompt.system for prompt in read_prompts(source)} == {"Be sad."}


FILES: dict[str, tuple[str, bytes, str]] = {
    "empty-txt": ("p.txt", b"\n \n", "is empty"),
    "empty-json": ("p.json", b"[]", "is empty"),
    "empty-jsonl": ("p.jsonl", b"", "is empty"),
    "empty-csv": ("p.csv", b"text\n", "is empty"),
    "blank": ("p.json", b'[{"text": " "}]', "only empty prompts"),
    "half-json": ("p.json", b'[{"text"', "does not parse"),
    "half-jsonl": ("p.jsonl", b'{"text": "a"}\n{"te', "does not parse"),
    "deep": ("p.json", b"[" * 100_000, "does not parse"),
    "huge-number": ("p.json", b"[" + b"9" * 5000 + b"]", "does not parse"),
    "object": ("p.json", b'{"text": "a"}', "contains a dict"),
    "number-row": ("p.json", b"[1]", "row 1 .* is 1, neither"),
    "null-text": (
        "p.json",
        b'[{"text": "a"}, {"text": null}]',
        "row 2 .* None in column 'text', which is not text",
    ),
    "number-text": ("p.jsonl", b'{"text": "a"}\n{"text": 3}', "row 2 .* 3 in column"),
    "no-text-later": ("p.json", b'[{"text": "a"}, {"goal": "b"}]', "row 2"),
    "short-csv-row": ("p.csv", b"id,text\n1,a\n2\n", "row 2"),
    "no-column": (
        "p.json",
        b'[{"topic": "a", "body": "b"}]',
        "none of the columns text, .*it has topic, body",
    ),
    "latin-1": ("p.txt", b"caf\xe9", "not UTF-8"),
    "no-parquet": ("p.parquet", b"PAR1 nothing PAR1", "does not parse as Parquet"),
    "kind": ("p.xlsx", b"PK", "unknown suffix"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_without_prompts_is_named_with_its_fault(tmp_path: Path, case: str) -> None:
    name, data, message = FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompts(Source(prompts=str(tmp_path / name)))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{}/none.txt", "none.txt does not exist"),
        ("none.txt", "none.txt does not exist"),
        ("{}", "is a folder"),
        ("bundled:nothing", "no bundled prompt set 'nothing'; there are everyday, harmless, refused"),
        ("bundled:../../config", "no bundled prompt set"),
        ("{}/p.txt#goal", "no column 'goal'; it has text"),
        ("owner/name", "Hub has no data set of that name with split 'train'.*Offline"),
        ("owner/name:test", "with split 'test'"),
        ("a/b/c", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("~nobody-at-all/p.txt", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, spec: str, message: str) -> None:
    numbered(tmp_path / "p.txt", 3)
    with pytest.raises(PromptError, match=message):
        read_prompts(Source(prompts=spec.format(tmp_path)))


# Splits


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
    source = numbered(tmp_path / "p.txt", 50)
    sides = {"positive": "Be melancholic.", "negative": None}
    chosen = Contrast(**{side: source.model_copy(update={"system": text}) for side, text in sides.items()})
    positive, negative = split_contrast(chosen, seed=5)
    assert texts(positive) == texts(negative)
    assert {p.system for p in positive.test} == {"Be melancholic."}
    assert {p.system for p in negative.test} == {None}


def test_identical_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="are the same set"):
        split_contrast(contrast(tmp_path, negative=numbered(tmp_path / "same.txt", 40)))


def test_sets_that_share_a_prompt_are_refused_by_example(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"share 1 prompts, for example 'prompt 39'"):
        split_contrast(contrast(tmp_path, negative=numbered(tmp_path / "n2.txt", 40, start=39)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_too_few_prompts_are_counted(tmp_path: Path, count: int) -> None:
    with pytest.raises(PromptError, match=f"positive prompts .* are {count}; at least 6"):
        split_contrast(contrast(tmp_path, positive=numbered(tmp_path / "few.txt", count)))


def test_a_test_set_of_one_is_refused(tmp_path: Path) -> None:
    one = numbered(tmp_path / "one.txt", 1, "test")
    with pytest.raises(PromptError, match="positive test split has 1"):
        split_contrast(contrast(tmp_path, positive_test=one))


def own_splits(tmp_path: Path, test_start: int) -> dict[str, Source]:
    return {
        "positive_search": numbered(tmp_path / "ps.txt", 10, start=100),
        "negative_search": numbered(tmp_path / "ns.txt", 10, "other", start=100),
        "positive_test": numbered(tmp_path / "pt.txt", 10, start=test_start),
        "negative_test": numbered(tmp_path / "nt.txt", 10, "other", start=200),
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
    positive = numbered(tmp_path / "p.txt", 40).model_copy(update={"system": "Be sad."})
    found, _ = split_contrast(contrast(tmp_path, positive=positive, **own_splits(tmp_path, 200)))
    assert {p.system for name in SPLITS for p in getattr(found, name)} == {"Be sad."}


def test_splits_as_json_hold_every_prompt(tmp_path: Path) -> None:
    side, _ = split_contrast(contrast(tmp_path))
    written = json.loads(json.dumps(side.to_json()))
    assert {name: [row["text"] for row in rows] for name, rows in written.items()} == texts(side)
