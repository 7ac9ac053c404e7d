"""Prompt files of every kind."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from vectomy.core.run_config import Source


def write_prompts(path: Path, rows: list[dict], text: str | None = None) -> Source:
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


def write_numbered(path: Path, count: int, what: str = "prompt", start: int = 0) -> Source:
    path.write_text("\n".join(f"{what} {n}" for n in range(start, start + count)), encoding="utf-8")
    return Source(prompts=str(path))
