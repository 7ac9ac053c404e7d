"""Tokens a second of ways to answer 256 prompts of mixed lengths with the demo model on a CPU.

    python benchmarks/generation.py [--prompts 256] [--limit 64] [--dtypes bfloat16 float32]
        [--ways old own ...] [--rounds 1] [--json benchmarks/generation.json]

Every way answers the same prompts, up to the end of the turn or `limit` tokens; the ways take
turns. `old` is the loop of commit OLD, read from git; `generate` and `continuous` are those of
transformers. Time is this process's processor time, and wall time beside it. Answers are compared
with those of `generate`, one prompt at a time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import time
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from vectomy.core.config import Runtime
from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel, load_model, shared_beginning
from vectomy.models.decoding import generate
from vectomy.models.demo import demo_folder

OLD = "3a1f69e"
OLD_TOKENS = 4096
Answers = list[list[int]]


def mixed_prompts(count: int) -> list[Prompt]:
    """Bundled prompts: half of them alone, half behind one to eight others."""
    texts = []
    for name in ("harmless", "everyday", "refused"):
        lines = (resources.files("vectomy") / "data" / "bundled" / f"{name}.jsonl").read_text("utf-8")
        texts += [json.loads(line)["text"] for line in lines.splitlines()]
    generator = random.Random(0)
    prompts = []
    for number in range(count):
        others = generator.randint(1, 8) if number % 2 else 0
        prompts.append(Prompt(" ".join(generator.sample(texts, others + 1))))
    return prompts


def load_old_loop() -> Any:
    """generation.py of commit OLD."""
    source = subprocess.run(
        ["git", "show", f"{OLD}:src/vectomy/models/generation.py"],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    ).stdout
    module = types.ModuleType("old_generation")
    exec(compile(source, "old_generation", "exec"), module.__dict__)  # noqa: S102 (our own commit)
    return module


def answer_by_old_loop(chat: ChatModel, tokens: Answers, limit: int) -> Answers:
    old, length = load_old_loop(), shared_beginning(tokens)
    head = chat.model.get_output_embeddings()
    greedy = old.Greedy(
        chat.model,
        lambda hidden: head(hidden).argmax(-1),
        tokens[0][:length],
        chat.end_tokens,
        chat.device,
    )
    answers: Answers = [[] for _ in tokens]
    own = [ids[length:] for ids in tokens]
    for batch in chat.batches(own, OLD_TOKENS, growth=limit + length):
        for row, answer in zip(batch.rows, greedy.answers(batch, limit), strict=True):
            answers[row] = answer
    return answers


def answer_by_own_loop(chat: ChatModel, tokens: Answers, limit: int) -> Answers:
    return chat.answer(tokens, limit, "auto")


def answer_by_generate(chat: ChatModel, tokens: Answers, limit: int) -> Answers:
    answers: Answers = [[] for _ in tokens]
    for batch in chat.batches(tokens, OLD_TOKENS, growth=limit):
        for row, answer in zip(batch.rows, generate(chat, batch, limit), strict=True):
            answers[row] = answer
    return answers


def answer_one_by_one(chat: ChatModel, tokens: Answers, limit: int) -> Answers:
    return [generate(chat, next(chat.batches([ids], OLD_TOKENS)), limit)[0] for ids in tokens]


def answer_by_continuous_batching(chat: ChatModel, tokens: Answers, limit: int) -> Answers:
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=list(chat.end_tokens),
        pad_token_id=chat.pad_token,
    )
    results = chat.model.generate_batch(inputs=tokens, generation_config=config)
    order = sorted(results, key=lambda key: int(key.rsplit("_", 1)[-1]))
    return [list(results[key].generated_tokens) for key in order]


WAYS: dict[str, Callable[[ChatModel, Answers, int], Answers]] = {
    "old": answer_by_old_loop,
    "own": answer_by_own_loop,
    "generate": answer_by_generate,
    "continuous": answer_by_continuous_batching,
    "one-by-one": answer_one_by_one,
}


def measure(chat: ChatModel, way: str, tokens: Answers, limit: int) -> dict[str, Any]:
    began, wall = time.process_time(), time.monotonic()
    with torch.inference_mode():
        answers = WAYS[way](chat, tokens, limit)
    seconds, wall = time.process_time() - began, time.monotonic() - wall
    generated = sum(map(len, answers))
    return {
        "seconds": seconds,
        "wall_seconds": wall,
        "tokens": generated,
        "tokens_per_second": generated / seconds,
        "answers": answers,
    }


def edit_hooks(chat: ChatModel, edit: Path | None) -> AbstractContextManager[None]:
    from vectomy import Edit

    return nullcontext() if edit is None else Edit.load(edit).hooks(chat.model)


def count_equal(answers: Sequence[Any], expected: Sequence[Any]) -> int:
    return sum(a == b for a, b in zip(answers, expected, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--ways", nargs="+", default=["old", "own"], choices=WAYS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--edit", type=Path, help="an Edit whose hooks are in place")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for dtype in args.dtypes:
        chat = load_model(demo_folder(), runtime=Runtime(device="cpu", dtype=dtype))
        tokens = chat.tokens(mixed_prompts(args.prompts))
        lengths = sorted(map(len, tokens))
        print(f"{dtype}: {len(tokens)} prompts of {lengths[0]} to {lengths[-1]} tokens, ", end="")
        print(f"median {statistics.median(lengths)}, {torch.get_num_threads()} threads", flush=True)
        with edit_hooks(chat, args.edit):
            for way in args.ways:
                with torch.inference_mode():
                    WAYS[way](chat, tokens[:4], 2)
            taken: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
            for _ in range(args.rounds):
                for way in args.ways:
                    taken[way].append(measure(chat, way, tokens, args.limit))
        first = taken[args.ways[0]][0]
        for way, measured in taken.items():
            best = min(measured, key=lambda row: row["seconds"])
            equal = count_equal(best["answers"], first["answers"])
            row = {
                "dtype": dtype,
                "threads": torch.get_num_threads(),
                "way": way,
                "seconds": round(best["seconds"], 2),
                "wall_seconds": round(best["wall_seconds"], 2),
                "tokens": best["tokens"],
                "tokens_per_second": round(best["tokens_per_second"], 1),
                "times_the_first": round(best["tokens_per_second"] / first["tokens_per_second"], 2),
                "answers_equal_to_the_first": equal,
            }
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
