"""Prompts come whole from any source, and a source that gives none is named with its fault."""

import gzip
from pathlib import Path

import pytest
from written_prompts import write_numbered, write_prompts

from vectomy.core.errors import PromptError
from vectomy.core.run_config import Source
from vectomy.data.prompts import Prompt, read_prompts

TIER = "unit"


TEXTS = ["How do I bake bread?", "Ünïcode “quotes”, commas\nand a line", "a\u2028b\x85c"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize("column", ["text", "prompt", "instruction", "goal", "question"])
def test_every_file_kind_gives_its_texts(tmp_path: Path, suffix: str, column: str) -> None:
    source = write_prompts(
        tmp_path / f"p{suffix}", [{"id": f"n{n}", column: text} for n, text in enumerate(TEXTS)]
    )
    assert [prompt.text for prompt in read_prompts(source)] == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_column_is_the_named_one_else_the_first_known(tmp_path: Path, suffix: str) -> None:
    source = write_prompts(
        tmp_path / f"p{suffix}", [{"goal": "a goal", "prompt": "a prompt", "other": "another"}]
    )
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
    assert read_prompts(write_prompts(tmp_path / f"p{suffix}", ["one", "two"])) == [
        Prompt("one"),
        Prompt("two"),
    ]


def test_doubles_and_blanks_are_left_out_whatever_their_case_and_spacing(tmp_path: Path) -> None:
    rows = [
        {"text": text} for text in ("Say  hi", "say hi ", "SAY\nHI", " ", "Say ﬁne", "say fine", "say hi!")
    ]
    assert [p.text for p in read_prompts(write_prompts(tmp_path / "p.json", rows))] == [
        "Say  hi",
        "Say ﬁne",
        "say hi!",
    ]


def test_a_system_prompt_goes_with_every_prompt(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "p.txt", 3).model_copy(update={"system": "Be sad."})
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
    "csv-as-parquet": ("p.parquet", b"prompt\na\n", "no Parquet file .* give it the suffix of what it is"),
    "jsonl-as-csv": ("p.csv", b'{"prompt": "a"}\n', "holds JSON, not a table; name it .jsonl"),
    "list-as-jsonl": ("p.jsonl", b'[\n{"prompt": "a"}\n]', "over several lines is named .json"),
    "page-as-txt": ("p.txt", b"<html><body>404</body></html>", "is a web page"),
    "nothing-first": ("p.jsonl", b'{}\n{"prompt": "a"}\n', "it has none in its first row"),
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
        ("bundled:refusd", r"\(did you mean refused\?\); there are"),
        ("{}/pp.txt", "did you mean .*/p.txt"),
        ("{}/p.txt[:x]", "is no slice of .*write .:400."),
        ("a/b/c", "does not exist"),
        ("x" * 5000, "does not exist"),
        ("~nobody-at-all/p.txt", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, spec: str, message: str) -> None:
    write_numbered(tmp_path / "p.txt", 3)
    with pytest.raises(PromptError, match=message):
        read_prompts(Source(prompts=spec.format(tmp_path)))


def test_a_column_of_an_odd_name_is_shown_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text('"a\u202eb","c\nd"\n1,2\n', encoding="utf-8")
    with pytest.raises(PromptError, match=r"a\\u202eb, c\\nd") as error:
        read_prompts(Source(prompts=str(file)))
    assert str(error.value).isprintable()
