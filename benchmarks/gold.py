"""How far an edited demo model is from the model before refusal was taught to it.

    python benchmarks/gold.py --data DIR --row OURS=RUN/edit.safetensors --row HERETIC=FOLDER

The demo model is SmolLM2 and an adapter that taught it to refuse, so the model before refusal is
there to compare with. KL(before || edited) per token is measured on the earlier model's own greedy
answers to the harmful and the harmless test prompts. On harmless prompts the adapter alone moved
the model; no edit of the refusal undoes that, so the excess of the harmful figure over the harmless
figure of the unedited model is what remains of the taught refusal. Degenerate answers of the
earlier model to the same prompts are counted too: an edited model cannot be expected to go in
circles less often than that one. Prints a table and writes JSON; no answers are kept.

A row is NAME=PATH, where PATH is an Edit (NAME=PATH@0.7 turns its dial), or the folder of a whole
model. DIR has test-positive.jsonl and test-negative.jsonl with a field `text`, as
benchmarks/search.py writes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vectomy.core.jsonl import read_jsonl
from vectomy.data.prompts import Prompt
from vectomy.edits.edit import Edit
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges.degeneration import degenerate
from vectomy.models import ChatModel, load_model
from vectomy.models.demo import demo_base_folder, demo_folder

BATCH_TOKENS = 8192
SETS = ("positive", "negative")


class Row(NamedTuple):
    """What is compared: an Edit of the demo model at a strength, or the folder of a whole model."""

    name: str
    path: Path
    strength: float

    @classmethod
    def read(cls, text: str) -> Row:
        name, equals, rest = text.partition("=")
        path, _, strength = rest.rpartition("@") if "@" in rest else (rest, "", "1")
        if not equals or not name or not Path(path).exists():
            raise SystemExit(
                f"--row {text}: give NAME=EDIT, NAME=EDIT@STRENGTH or NAME=FOLDER, with a path that exists"
            )
        return cls(name, Path(path), float(strength))


class BeforeRefusal:
    """The model before refusal, and its answers to the test prompts.

    Args:
        tokens: the first tokens of each answer, over which KL is measured.
        judged_tokens: tokens of an answer that may go in circles.
    """

    def __init__(self, data: Path, tokens: int, judged_tokens: int, dtype: str) -> None:
        self.dtype = dtype
        self.chat = load_model(demo_base_folder(), device="cpu", dtype=dtype)
        self.prompts = {
            name: [Prompt(row["text"]) for row in read_jsonl(data / f"test-{name}.jsonl")] for name in SETS
        }
        self.judged = {
            name: self.chat.answer(self.chat.tokens(prompts), judged_tokens, BATCH_TOKENS)
            for name, prompts in self.prompts.items()
        }
        self.answers = {
            name: [answer[:tokens] for answer in answers] for name, answers in self.judged.items()
        }
        self.states = {
            name: answer_hidden(self.chat, prompts, self.answers[name], BATCH_TOKENS)
            for name, prompts in self.prompts.items()
        }

    def degenerate_rates(self) -> dict[str, dict[str, object]]:
        """Share of its own answers that go in circles, with the interval of Wilson."""
        result: dict[str, dict[str, object]] = {}
        for name, prompts in self.prompts.items():
            texts = [self.chat.text(answer) for answer in self.judged[name]]
            count = sum(degenerate(text, prompt.text) for text, prompt in zip(texts, prompts, strict=True))
            result[name] = {
                "count": count,
                "prompts": len(texts),
                "rate": count / len(texts),
                "interval": wilson_interval(count, len(texts)),
            }
        return result

    def distances(self, chat: ChatModel) -> dict[str, dict[str, float]]:
        """KL(before || chat) on the answers of the model before refusal, by set."""
        result = {}
        for name, prompts in self.prompts.items():
            states = answer_hidden(chat, prompts, self.answers[name], BATCH_TOKENS)
            result[name] = divergence(self.chat, chat, self.states[name], states, self.answers[name])
        return result


def measure(rows: Sequence[Row], before: BeforeRefusal) -> list[dict[str, object]]:
    """The distances of each row, the unedited demo model first."""
    demo = load_model(demo_folder(), device="cpu", dtype=before.dtype)
    results: list[dict[str, object]] = [{"name": "unedited", **before.distances(demo)}]
    for row in rows:
        if row.path.is_dir() and (row.path / "config.json").exists():
            distances = before.distances(load_model(row.path, device="cpu", dtype=before.dtype))
        else:
            with Edit.load(row.path).hooks(demo.model, strength=row.strength):
                distances = before.distances(demo)
        results.append({"name": row.name, "strength": row.strength, **distances})
        print(f"{row.name}: measured", flush=True)
    return results


def add_excess(results: Sequence[dict[str, dict[str, float]]]) -> None:
    """The harmful figure of each row beyond the floor: the harmless figure of the unedited
    model.
    """
    floor = results[0]["negative"]["kl_per_token"]
    for result in results:
        result["excess"] = result["positive"]["kl_per_token"] - floor  # type: ignore[assignment]


def table(results: Sequence[dict[str, dict[str, float]]]) -> str:
    lines = [f"{'':24s}{'harmful':>10s}{'harmless':>10s}{'excess':>10s}"]
    for result in results:
        numbers = result["positive"]["kl_per_token"], result["negative"]["kl_per_token"], result["excess"]
        lines.append(f"{result['name']!s:24s}" + "".join(f"{number:10.4f}" for number in numbers))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the test prompts")
    parser.add_argument("--row", type=Row.read, action="append", default=[], help="NAME=PATH[@STRENGTH]")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer, for KL")
    parser.add_argument("--judged-tokens", type=int, default=100, help="of answers that may go in circles")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("gold.json"))
    args = parser.parse_args()
    before = BeforeRefusal(args.data, args.tokens, args.judged_tokens, args.dtype)
    rows: list = measure(args.row, before)
    add_excess(rows)
    print(table(rows))
    result = {
        "tokens": args.tokens,
        "judged_tokens": args.judged_tokens,
        "dtype": args.dtype,
        "kl": "KL(before || row) in nats per token, on the greedy answers of the model before refusal",
        "prompts": {name: len(prompts) for name, prompts in before.prompts.items()},
        "degenerate_before_refusal": before.degenerate_rates(),
        "rows": rows,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
