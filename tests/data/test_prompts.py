"""Prompts come whole from any source, and what a direction is fitted on is never what it is
reported on.
"""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from vectomy.core.config import Contrast, Source
from vectomy.core.errors import PromptError
from vectomy.data.prompts import Prompt, Turn, read_prompts
from vectomy.data.splits import SPLITS, Splits, split_contrast

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
    "null-text": ("p.json", b'[{"text": null}]', "only empty prompts"),
    "commas": (
        "p.csv",
        b"prompt\na\nb, please\n",
        r"row 2 \(line 3\) .* 2 fields .* 1 \(prompt\): b, please",
    ),
    "commas-2": ("p.csv", b"id,prompt\n1,b, please\n", r'row 1 \(line 2\) .* into quotes \("..."\)'),
    "short-tsv-row": ("p.tsv", b"id\tprompt\n1\n", "row 1 .* a field is missing"),
    "open-quote": ("p.csv", b'prompt\n"a\nb\nc\n', "line 4: unexpected end of data"),
    "quote-within": ("p.csv", b'prompt\n"say "hi" now"\n', 'line 2: .* written twice \\(""\\)'),
    "column-twice": ("p.csv", b"prompt,prompt\na,b\n", "the column 'prompt' twice"),
    "no-header": ("p.csv", b"How do I bake\nb\n", "put a line `prompt` before it"),
    "web-page": ("p.csv", b"<!DOCTYPE html><p>", "is a web page"),
    "lfs-pointer": ("p.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "spreadsheet": ("p.csv", b"PK\x03\x04", "is a spreadsheet"),
    "half-gzip": ("p.csv.gz", gzip.compress(b"prompt\na\n" * 50)[:-9], "cannot be read"),
    "nul": ("p.txt", b"a\nb\0\n", "line 2 has a NUL"),
    "half-utf-16": ("p.txt", b"\xff\xfea\0b", "not UTF-16 text"),
    "half-letter": ("p.jsonl", b'{"text": "\\ud800"}', "row 1 .* half a character"),
    "picture": (
        "p.jsonl",
        b'{"messages": [{"role": "user", "content": [{"type": "image"}]}]}',
        "row 1 .* not a conversation",
    ),
    "two-texts": ("p.jsonl", b'{"turns": ["a", "b"]}', "row 1 .* nothing says who speaks"),
    "answer-alone": ("p.jsonl", b'{"messages": [{"role": "assistant", "content": "a"}]}', "row 1"),
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
        (
            "owner/name",
            "'owner/name' does not exist as a local file, and the Hub cannot be reached .*bundled",
        ),
        ("bundled:refusd", "; did you mean refused"),
        ("{}/pp.txt", "did you mean .*/p.txt"),
        ("{}/p.txt[:x]", "is no slice of .*write .:400."),
        ("a/b/c", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("~nobody-at-all/p.txt", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, spec: str, message: str) -> None:
    numbered(tmp_path / "p.txt", 3)
    with pytest.raises(PromptError, match=message):
        read_prompts(Source(prompts=spec.format(tmp_path)))


# Kinds of files that other programs write


ASKS = [f"How do I bake bread {n}?" for n in range(8)]


def from_bytes(path: Path, data: bytes, spec: str = "{}") -> list[str]:
    path.write_bytes(data)
    return [prompt.text for prompt in read_prompts(Source(prompts=spec.format(path)))]


def turns(*pairs: tuple[str, object]) -> list[dict[str, object]]:
    return [{"role": role, "content": content} for role, content in pairs]


TABLES: dict[str, tuple[str, str]] = {
    "semicolon": ("p.csv", "prompt;label\n" + "\n".join(f"{ask};1" for ask in ASKS)),
    "semicolon, and commas in prompts": ("p.csv", "Prompt;label\n" + "\n".join(f"{ask};1" for ask in ASKS)),
    "tab": ("p.csv", "prompt\tlabel\n" + "\n".join(f"{ask}\t1" for ask in ASKS)),
    "bar": ("p.csv", "id|prompt\n" + "\n".join(f"1|{ask}" for ask in ASKS)),
    "tsv": ("p.tsv", "prompt\tlabel\n" + "\n".join(f"{ask}\t1" for ask in ASKS)),
    "capitals": ("P.CSV", "prompt\n" + "\n".join(ASKS)),
    "index of pandas": ("p.csv", ",Goal,target\n" + "\n".join(f"{n},{ask},x" for n, ask in enumerate(ASKS))),
    "spaces in the header": (
        "p.csv",
        "id, User Prompt\n" + "\n".join(f"{n},{a}" for n, a in enumerate(ASKS)),
    ),
    "sep=": ("p.csv", "sep=;\r\nprompt;label\r\n" + "\r\n".join(f"{ask};1" for ask in ASKS)),
    "old Macintosh": ("p.csv", "prompt,label\r" + "\r".join(f"{ask},1" for ask in ASKS)),
    "JSON lines named .json": ("p.json", "\n".join(json.dumps({"prompt": ask}) for ask in ASKS)),
    "ndjson": ("p.NDJSON", "\n".join(json.dumps({"prompt": ask}) for ask in ASKS)),
    "rows within an object": (
        "p.json",
        json.dumps({"version": 1, "data": [{"prompt": ask} for ask in ASKS]}),
    ),
    "pandas, columns": ("p.json", json.dumps({"prompt": {str(n): ask for n, ask in enumerate(ASKS)}})),
    "pandas, list": ("p.json", json.dumps({"prompt": ASKS, "label": [1] * len(ASKS)})),
    "pandas, split": (
        "p.json",
        json.dumps({"columns": ["prompt"], "index": [0], "data": [[ask] for ask in ASKS]}),
    ),
    "viewer of the Hub": (
        "p.json",
        json.dumps({"rows": [{"row_idx": 0, "row": {"prompt": a}} for a in ASKS]}),
    ),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_what_spreadsheets_and_pandas_write_is_read_whole(
    tmp_path: Path, case: str, packed: bool, encoding: str
) -> None:
    name, text = TABLES[case]
    data = text.encode(encoding)
    path = tmp_path / (name + ".gz" if packed else name)
    assert from_bytes(path, gzip.compress(data) if packed else data) == ASKS


CONVERSATIONS: dict[str, dict[str, object]] = {
    "TRL prompt": {"prompt": turns(("user", "Q")), "chosen": turns(("assistant", "no"))},
    "SFT messages": {"messages": turns(("user", "Q"), ("assistant", "no"))},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "no"}]},
    "parts": {"messages": turns(("user", [{"type": "text", "text": "Q"}]))},
    "two parts": {"messages": turns(("user", [{"type": "text", "text": "Q"}, {"type": "text", "text": ""}]))},
    "roles of others": {"messages": turns(("Human", "Q"), ("model", "no"))},
    "JSON in a table": {"messages": json.dumps(turns(("user", "Q"), ("assistant", "no")))},
    "Python in a table": {"messages": str(turns(("user", "Q"), ("assistant", "it's no")))},
    "a list of one text": {"turns": ["Q"]},
}


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("case", CONVERSATIONS)
def test_the_turn_of_the_user_is_the_prompt(tmp_path: Path, case: str, suffix: str) -> None:
    assert read_prompts(write(tmp_path / f"p{suffix}", [CONVERSATIONS[case]])) == [Prompt("Q")]


def test_what_precedes_the_last_turn_of_the_user_is_kept(tmp_path: Path) -> None:
    said = turns(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "Q"), ("assistant", "no"))
    wanted = Prompt("Q", "S", (Turn("user", "A"), Turn("assistant", "B")))
    assert read_prompts(write(tmp_path / "p.jsonl", [{"messages": said}])) == [wanted]
    # ShareGPT's system prompt is a key of the row.
    shared = {"system": "S", "conversations": [{"from": "human", "value": "Q"}]}
    assert read_prompts(write(tmp_path / "s.jsonl", [shared])) == [Prompt("Q", "S")]


def test_an_instruction_and_its_input_are_one_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": "Sum up.", "input": "A text."}, {"instruction": "Say hi.", "input": ""}]
    read = read_prompts(write(tmp_path / "p.json", rows))
    assert [prompt.text for prompt in read] == ["Sum up.\n\nA text.", "Say hi."]


@pytest.mark.parametrize(
    ("spec", "numbers"), [("[:3]", range(3)), ("[2:4]", range(2, 4)), ("[-2:]", range(6, 8))]
)
def test_a_slice_of_a_file(tmp_path: Path, spec: str, numbers: range) -> None:
    text = "goal\n" + "\n".join(ASKS)
    for column in ("", "#goal"):
        read = from_bytes(tmp_path / "p.csv", text.encode(), "{}" + spec + column)
        assert read == [ASKS[number] for number in numbers]


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ("own/set", ("own/set", None, "train")),
        ("own/set:test", ("own/set", None, "test")),
        ("own/set:train[:400]#q", ("own/set", None, "train[:400]")),
        ("own/set/part", ("own/set", "part", "train")),
        ("own/set/part:train[10%:20%]+test#q", ("own/set", "part", "train[10%:20%]+test")),
        ("https://huggingface.co/datasets/own/set:test", ("own/set", None, "test")),
    ],
)
def test_subsets_and_slices_of_the_hub(
    monkeypatch: pytest.MonkeyPatch, spec: str, asked: tuple[str | None, ...]
) -> None:
    import datasets

    calls = []
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *name, split: calls.append((*name, split)) or [{"q": "a", "text": "b"}],
    )
    assert read_prompts(Source(prompts=spec)) == [Prompt("a" if "#" in spec else "b")]
    assert calls == [asked]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']",
            r"subsets \(a, b\)",
        ),
        ("Unknown split \"test\". Should be one of ['train', 'val'].", "no split 'test'; it has train, val"),
        ("Dataset 'own/set' is a gated dataset on the Hub.", "accept its terms"),
    ],
)
def test_what_the_hub_asks_for_is_said(monkeypatch: pytest.MonkeyPatch, error: str, message: str) -> None:
    import datasets

    def refuse(*name: object, split: str) -> None:
        raise ValueError(error)

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(PromptError, match=message):
        read_prompts(Source(prompts="own/set:test"))


def test_rows_that_are_not_used_are_counted(tmp_path: Path) -> None:
    lines: list[str] = []
    rows = [{"text": text} for text in ("a", "", None, "b", "A ", None)]
    assert len(read_prompts(write(tmp_path / "p.jsonl", rows), lines.append)) == 2
    assert lines == [f"{tmp_path / 'p.jsonl'}: 4 of 6 rows are not used (1 empty, 2 null, 1 double)"]
    read_prompts(write(tmp_path / "q.jsonl", [{"text": "a"}]), lines.append)
    assert len(lines) == 1


def test_both_sides_of_a_contrast_say_what_was_left_out(tmp_path: Path) -> None:
    lines: list[str] = []
    both = [json.dumps([*(f"{side} {n}" for n in range(20)), f"{side} 1"]) for side in "pn"]
    (tmp_path / "p.json").write_text(both[0])
    (tmp_path / "n.json").write_text(both[1])
    sides = {side: Source(prompts=str(tmp_path / f"{side[0]}.json")) for side in ("positive", "negative")}
    split_contrast(Contrast(**sides), log=lines.append)
    assert [line.rpartition(": ")[2] for line in lines] == ["1 of 21 rows are not used (1 double)"] * 2


def test_neither_u2028_nor_its_kin_end_a_line_of_any_file(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    files = {
        "p.txt": text,
        "p.csv": f"prompt,label\n{text},1",
        "p.tsv": f"prompt\tlabel\n{text}\t1",
        "p.jsonl": json.dumps({"prompt": text}, ensure_ascii=False),
        "p.json": json.dumps([text], ensure_ascii=False),
    }
    for name, content in files.items():
        assert from_bytes(tmp_path / name, content.encode()) == [text]
        assert from_bytes(tmp_path / name, content.encode("utf-16")) == [text]


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


def test_a_column_of_an_odd_name_is_shown_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text('"a\u202eb","c\nd"\n1,2\n', encoding="utf-8")
    with pytest.raises(PromptError, match=r"a\\u202eb, c\\nd") as error:
        read_prompts(Source(prompts=str(file)))
    assert str(error.value).isprintable()
