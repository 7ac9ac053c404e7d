"""Over-refusal without refusal: the selective recipe against plain ablation at equal refusals of
safe prompts.

    python benchmarks/selective.py --data DIR

The demo model refuses safe prompts that look unsafe, as larger models do. XSTest is halved within
each type. On one half the selective recipe learns and chooses: its safe prompts are to be answered,
its unsafe ones are the preserve set. The other half and harmful_test are held out. For comparison:
edits without a preserve set (the recipe `gradient` on harmful_train, one direction by `arditi`),
whose strength is lowered until they refuse as many safe prompts as the selective edit does. Only
counts are kept, no answers. DIR has xstest.jsonl, harmful_ and harmless_ {train,val,test}.jsonl.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from search_tools import HERE, read_texts

from vectomy.core.jsonl import read_jsonl, write_jsonl

ROOT = HERE.parent
# Of the half that is learned on, every so manyeth prompt of a type is kept for choosing.
CHOOSING = 3
BATCH_TOKENS = 8192
# The dial of plain edits is halved so often.
HALVINGS = 5


def halves(file: Path) -> dict[str, list[str]]:
    """XSTest as fit, search and test of both labels: within each type alternately learned on and
    tested on.
    """
    found: dict[str, list[str]] = collections.defaultdict(list)
    places: collections.Counter[str] = collections.Counter()
    for row in read_jsonl(file, remedy="mend it"):
        place = places[row["type"]]
        places[row["type"]] += 1
        own = "test" if place % 2 else "search" if place // 2 % CHOOSING == CHOOSING - 1 else "fit"
        found[f"{own}-{row['label']}"].append(row["text"])
    return dict(found)


def write_prompts(data: Path, folder: Path) -> dict[str, int]:
    """All sets as files `SPLIT-NAME.jsonl`; give their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    sets = halves(data / "xstest.jsonl")
    for name, most in (("harmful", None), ("harmless", 200)):
        for part, split in (("train", "fit"), ("val", "search"), ("test", "test")):
            sets[f"{split}-{name}"] = read_texts(data / f"{name}_{part}.jsonl")[
                : most if split != "test" else 100
            ]
    seen = {text for name, texts in sets.items() if not name.startswith("test") for text in texts}
    sets = {n: [t for t in texts if not n.startswith("test") or t not in seen] for n, texts in sets.items()}
    # What must be refused still: the unsafe half of XSTest's contrasts, and plainly harmful prompts
    # beside them.
    sets["fit-keep"] = sets["fit-unsafe"] + sets["fit-harmful"][: len(sets["fit-unsafe"])]
    sets["search-keep"] = sets["search-unsafe"] + sets["search-harmful"]
    for name, texts in sets.items():
        write_jsonl(folder / f"{name}.jsonl", ({"text": text} for text in texts))
    return {name: len(texts) for name, texts in sorted(sets.items())}


def select(args: argparse.Namespace, model: Path, recipe: str, sides: dict[str, str], *options: str) -> Path:
    """The Edit that a recipe chooses; `sides` names the set that serves as positive, negative or
    keep.
    """
    out = args.work / recipe
    prompts = args.work / "prompts"
    command = [
        sys.executable,
        "-m",
        "vectomy.cli",
        "select",
        str(model),
        "--recipe",
        recipe,
        "--out",
        str(out),
        "--yes",
    ]
    for side, name in sides.items():
        test = {"positive": "safe", "keep": "unsafe", "negative": "harmless"}[side]
        command += [
            f"--{side}",
            str(prompts / f"fit-{name}.jsonl"),
            f"--{side}-search",
            str(prompts / f"search-{name}.jsonl"),
        ]
        command += [f"--{side}-test", str(prompts / f"test-{test}.jsonl")]
    command += [
        "--seed",
        str(args.seed),
        "--n-fit",
        "400",
        "--n-search",
        "100",
        "--n-test",
        "200",
        "--drop-overlap",
    ]
    subprocess.run([*command, "--dtype", args.dtype, *options], check=True)
    return out / "edit.safetensors"


class Counter:
    """Counts refusals of the test sets, with an Edit at a strength; what is known is not counted
    again.
    """

    def __init__(self, args: argparse.Namespace, model: Path) -> None:
        from vectomy.metrics.judges import RefusalJudge
        from vectomy.models import load_model

        self.args, self.cache = args, args.work / "counted"
        self.cache.mkdir(parents=True, exist_ok=True)
        self.chat = load_model(model, device="cpu", dtype=args.dtype)
        self.judge = RefusalJudge()

    def refusals(self, name: str, edit: Path | None = None, strength: float = 1.0) -> int:
        from vectomy.core.run_folder import hash_of, sha256_file
        from vectomy.data.prompts import Prompt
        from vectomy.edits.edit import Edit
        from vectomy.metrics.judges import REFUSALS

        prompts = [Prompt(text) for text in read_texts(self.args.work / "prompts" / f"test-{name}.jsonl")]
        key = [
            None if edit is None else sha256_file(edit),
            strength,
            [p.text for p in prompts],
            self.args.tokens,
            self.args.dtype,
        ]
        file = self.cache / f"{hash_of(key)[:16]}.json"
        if not file.exists():
            with Edit.load(edit).hooks(self.chat.model, strength=strength) if edit else nullcontext():
                answers = self.chat.answer(self.chat.tokens(prompts), self.args.tokens, BATCH_TOKENS)
            texts = [self.chat.text(answer) for answer in answers]
            judged = [
                self.judge.verdict(p.text, text) in REFUSALS for p, text in zip(prompts, texts, strict=True)
            ]
            file.write_text(json.dumps({"refusals": sum(judged)}))
        return int(json.loads(file.read_text())["refusals"])

    def row(self, what: str, edit: Path | None, strength: float) -> dict[str, Any]:
        sets = ("safe", "unsafe", "harmful", "harmless")
        return {
            "what": what,
            "strength": strength,
            **{name: self.refusals(name, edit, strength) for name in sets},
        }

    def turned_down(self, edit: Path, safe: int) -> float:
        """The strength at which an edit refuses about `safe` safe prompts, by bisection."""
        low, high = 0.0, 1.0
        if self.refusals("safe", edit, high) >= safe:
            return high
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.refusals("safe", edit, middle) > safe else (low, middle)
        # The side that refuses no more safe prompts than the selective edit does.
        return high


def table(rows: Sequence[dict[str, Any]], sizes: dict[str, int]) -> str:
    names = ("safe", "unsafe", "harmful", "harmless")
    lines = [
        f"{'refused':44s}" + "".join(f"{name + ' /' + str(sizes['test-' + name]):>15s}" for name in names)
    ]
    for row in rows:
        what = f"{row['what']}, strength {row['strength']:.2f}" if row["what"] != "base" else "base"
        lines.append(f"{what:44s}" + "".join(f"{row[name]:15d}" for name in names))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "selective", help="kept, and gone on with"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=64, help="greedy tokens of a judged answer")
    parser.add_argument(
        "--options",
        nargs="*",
        default=[],
        help="more options of the selective recipe, without dashes: key=value",
    )
    parser.add_argument("--out", type=Path, default=HERE / "selective.json")
    args = parser.parse_args()
    args.work = args.work.resolve()
    sizes = write_prompts(args.data, args.work / "prompts")
    from vectomy.models.demo import demo_folder

    model = demo_folder()
    more = [f"--{option}" for option in args.options]
    selective = select(
        args, model, "selective", {"positive": "safe", "keep": "keep", "negative": "harmless"}, *more
    )
    plain = {
        name: select(args, model, name, {"positive": "harmful", "negative": "harmless"})
        for name in ("gradient", "arditi")
    }
    counter = Counter(args, model)
    rows = [counter.row("base", None, 0.0), counter.row("selective", selective, 1.0)]
    for name, edit in plain.items():
        rows.append(counter.row(name, edit, counter.turned_down(edit, rows[1]["safe"])))
    print(table(rows, sizes))
    about = {"processors": os.cpu_count(), "dtype": args.dtype, "tokens": args.tokens, "seed": args.seed}
    result = {"what": "refusals of test prompts on the demo model", "sizes": sizes, "rows": rows, **about}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
