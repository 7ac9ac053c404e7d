"""Prompt files as spreadsheets, pandas, chat data sets and the Hub write them."""

import gzip
import json
from pathlib import Path

import pytest
from written_prompts import write_prompts

from vectomy.core.errors import PromptError
from vectomy.core.run_config import Contrast, Source
from vectomy.data.prompts import Prompt, Turn, read_prompts
from vectomy.data.splits import split_contrast

TIER = "unit"

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
    "two names by case": ("p.csv", "Prompt,prompt\n" + "\n".join(f"1,{ask}" for ask in ASKS)),
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
    assert read_prompts(write_prompts(tmp_path / f"p{suffix}", [CONVERSATIONS[case]])) == [Prompt("Q")]


def test_what_precedes_the_last_turn_of_the_user_is_kept(tmp_path: Path) -> None:
    said = turns(("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "Q"), ("assistant", "no"))
    wanted = Prompt("Q", "S", (Turn("user", "A"), Turn("assistant", "B")))
    assert read_prompts(write_prompts(tmp_path / "p.jsonl", [{"messages": said}])) == [wanted]
    # ShareGPT's system prompt is a key of the row.
    shared = {"system": "S", "conversations": [{"from": "human", "value": "Q"}]}
    assert read_prompts(write_prompts(tmp_path / "s.jsonl", [shared])) == [Prompt("Q", "S")]


def test_an_instruction_and_its_input_are_one_prompt(tmp_path: Path) -> None:
    rows = [{"instruction": "Sum up.", "input": "A text."}, {"instruction": "Say hi.", "input": ""}]
    read = read_prompts(write_prompts(tmp_path / "p.json", rows))
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
    assert len(read_prompts(write_prompts(tmp_path / "p.jsonl", rows), lines.append)) == 2
    assert lines == [f"{tmp_path / 'p.jsonl'}: 4 of 6 rows are not used (1 empty, 2 null, 1 double)"]
    read_prompts(write_prompts(tmp_path / "q.jsonl", [{"text": "a"}]), lines.append)
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
