"""Prompt files of every format, whole and damaged, and trait files: what was written is read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

from hostile.kind import Kind, allow
from hostile.mutations import damage_text, jumbled, restructured
from vectomy.core.errors import VectomyError
from vectomy.data.prompts import Source, read_prompts
from vectomy.data.trait_file import load_trait

__all__ = ["PROMPT_KINDS"]

TEXTS = (
    "How do I bake bread?",
    'A "quoted" word, and a comma',
    "semi;colon and\ttab",
    "line\nbreak in the middle",
    "separators \u2028 and \u2029 and \x85 inside",
    "été, 東京, \U0001f600",
    "an apostrophe's end",
    "=1+1",
    "{not json}",
    "x" * 5000,
    "\u202eturned",
    "trailing dot.",
)
TRAIT = {
    "description": "Answers in few words.",
    "positive": {"system": "be brief"},
    "negative": {"system": None},
    "scorer": {"kind": "log_odds"},
}


def _build(path: Path) -> None:
    (path / "prompts").mkdir()
    (path / "prompts" / "trait.json").write_text(json.dumps(TRAIT))


def _table(texts: list[str], delimiter: str) -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(["prompt", "type"])
    writer.writerows([text, "plain"] for text in texts)
    return out.getvalue()


def _written(texts: list[str], rng: random.Random) -> tuple[str, bytes]:
    """A file's suffix and bytes, by nothing of ours."""
    how = rng.choice(["txt", "json", "list", "jsonl", "messages", "sharegpt", "csv", "tsv", "semicolon"])
    rows = {
        "json": [{"prompt": text} for text in texts],
        "jsonl": [{"prompt": text, "n": index} for index, text in enumerate(texts)],
        "messages": [{"messages": [{"role": "user", "content": text}]} for text in texts],
        "sharegpt": [
            {"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": "Yes."}]}
            for text in texts
        ],
    }
    if how == "txt":
        suffix, text = ".txt", "\n".join(texts)
    elif how == "list":
        suffix, text = ".json", json.dumps(texts)
    elif how == "json":
        suffix, text = ".json", json.dumps(rows[how], ensure_ascii=rng.random() < 0.5)
    elif how in rows:
        ascii_only = rng.random() < 0.5
        suffix, text = ".jsonl", "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in rows[how])
    else:
        suffix = ".tsv" if how == "tsv" else ".csv"
        text = _table(texts, {"csv": ",", "tsv": "\t", "semicolon": ";"}[how])
    data = text.encode(rng.choice(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"]))
    suffix = suffix.upper() if rng.random() < 0.1 else suffix
    return (suffix + ".gz", gzip.compress(data)) if rng.random() < 0.15 else (suffix, data)


def _damage(rng: random.Random, folder: Path) -> tuple[Path, list[str] | None]:
    """The file, and its prompts where it is whole."""
    texts = rng.sample(TEXTS, rng.randint(3, len(TEXTS)))
    suffix, data = _written(texts, rng)
    if suffix.lower().startswith(".txt"):
        # Lines are prompts there.
        texts = [text for text in texts if "\n" not in text]
        data = "\n".join(texts).encode()
        data = gzip.compress(data) if suffix.endswith(".gz") else data
    file = folder / f"given{suffix}"
    file.write_bytes(data)
    how = rng.random()
    if how < 0.5:
        return file, texts
    if how < 0.75 or not suffix.lower().startswith(".json"):
        if how < 0.52:
            damage_text(file, rng)
        else:
            file.write_bytes(jumbled(data, rng))
    else:
        lines = [{"prompt": text} for text in texts]
        file = folder / "given.jsonl"
        spoilt = [restructured(line, rng) if rng.random() < 0.3 else line for line in lines]
        file.write_text("\n".join(json.dumps(line) for line in spoilt))
    return file, None


def _steps(folder: Path, out: Path, given: tuple[Path, list[str] | None]) -> Iterator[str]:
    file, texts = given
    yield "read"
    try:
        read = [prompt.text for prompt in read_prompts(Source(prompts=str(file)))]
    except VectomyError as error:
        allow(texts is None, f"a whole {file.suffix} is refused: {str(error)[:150]}")
        raise
    allow(bool(read) and all(text.strip() for text in read), "an empty prompt")
    allow(len(set(read)) == len(read), "a prompt twice")
    if texts is not None:
        allow(read == [text.strip() for text in texts], f"{file.name}: {_first_other(read, texts)}")


def _first_other(read: list[str], texts: list[str]) -> str:
    pairs = [(got[:60], text[:60]) for got, text in zip(read, texts, strict=False) if got != text.strip()]
    return f"{len(read)} of {len(texts)} prompts; {pairs[:1]}"


def _damage_trait(rng: random.Random, folder: Path) -> Path:
    damage_text(folder / "trait.json", rng)
    return folder / "trait.json"


def _trait_steps(folder: Path, out: Path, file: Path) -> Iterator[str]:
    yield "trait"
    trait = load_trait(str(file))
    yield "target"
    allow(0 <= trait.target <= 1, f"a target of {trait.target}")


PROMPT_KINDS = (
    Kind("prompts", _build, _damage, _steps),
    Kind("trait", _build, _damage_trait, _trait_steps),
)
