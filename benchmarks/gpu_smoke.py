"""The project on one card: is it right there, how fast is it, and how much memory does it take.

    python benchmarks/gpu_smoke.py [--device cuda] [--shape 8b] [--seconds 520] [--only NAME,...]
    [--json FILE]

Right: a tiny model with a known behaviour, every recipe on the card in bfloat16 and on the CPU in
float32. Fast and large: random weights in the shape of a real model (8b: Llama 3.1) with a
vocabulary of words; its behaviour is "answers open alike", which needs no judge. A section that
fails is a row of the table and not the end; one for which the time is short is skipped. Run on the
CPU with `--device cpu --shape tiny`, it tests itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import tiny_chat

import vectomy.models.decoding as decoding_module
from vectomy import Edit, collect, evaluate_models, load_layerwise, load_model, run
from vectomy.core.errors import VectomyError
from vectomy.core.progress import silent
from vectomy.data.prompts import Prompt
from vectomy.edits.operation import BaseModelRef
from vectomy.models import ChatModel, Example, packs_exactly
from vectomy.search.distill.closed_forms import learnables
from vectomy.search.distill.distill_examples import DistillExample, mean_streams, pair_examples
from vectomy.search.distill.distillation import learn_edit

GIB = 2**30
SHAPES = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
}
SPECIAL = ("<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<unk>")
# What PyTorch may take of a card of 24 GB beside its own context.
CAP_GIB = 22.5

# What a section may raise: its row says so, and the next one runs.
FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    VectomyError,
)

Figures = dict[str, Any]


class Smoke:
    """The rows measured so far, and what the sections share."""

    def __init__(self, device: str, shape: str, seconds: float, only: list[str]) -> None:
        self.device, self.shape, self.seconds, self.only = device, shape, seconds, only
        self.cuda = device == "cuda"
        self.began = time.monotonic()
        self.folder = Path(tempfile.mkdtemp(prefix="gpu-smoke-"))
        self.big = self.folder / "big"
        self.vocabulary = SHAPES[shape]["vocab_size"]
        self.rows: list[Figures] = []

    @property
    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def peak(self) -> float | None:
        """GiB that PyTorch had in tensors at once since the section began; None on a CPU."""
        return round(torch.cuda.max_memory_allocated() / GIB, 2) if self.cuda else None

    def clear(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of the second of two runs."""
        work()
        self.synchronise()
        began = time.monotonic()
        work()
        self.synchronise()
        return time.monotonic() - began

    def section(self, name: str, work: Callable[[], Figures | None], least: float = 0) -> None:
        """Run a section for which at least `least` seconds are left, and write its row."""
        if (self.only and name.split()[0] not in self.only) or self.left < least:
            self.rows.append({"name": name, "status": "skipped"})
            return
        self.clear()
        began, figures, status = time.monotonic(), {}, "ok"
        try:
            figures = work() or {}
        except FAULTS as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "vectomy" in f.filename]
            places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-2:]]
            status = f"FAILED {type(error).__name__}: {str(error)[:200]} at {', '.join(places)}"
        self.synchronise()
        seconds = round(time.monotonic() - began, 1)
        self.rows.append(
            {"name": name, "status": status, "seconds": seconds, **figures, "peak_gib": self.peak()}
        )
        print(f"[{time.monotonic() - self.began:5.0f}s] {json.dumps(self.rows[-1], default=str)}", flush=True)

    def words(self, count: int, seed: int, low: int = 8, high: int = 24) -> list[str]:
        """Prompts of random words, `low` to `high` of them each."""
        source = random.Random(seed)
        return [
            " ".join(
                f"w{source.randrange(200, self.vocabulary - 16)}" for _ in range(source.randint(low, high))
            )
            for _ in range(count)
        ]


def behaviour(smoke: Smoke, recipe: str) -> Figures:
    """A recipe on the card in bfloat16 and on the CPU in float32: the same refusals."""
    rates = {}
    for device, dtype in ((smoke.device, "bfloat16"), ("cpu", "float32")):
        out = smoke.folder / f"{recipe}-{device}-{dtype}"
        more = {"steps": 24} if recipe == "gradient" else {}
        run(
            str(tiny_chat.folder()),
            out,
            **tiny_chat.sources(),
            device=device,
            dtype=dtype,
            recipe=recipe,
            answer_tokens=8,
            n_search=12,
            n_test=12,
            force=True,
            **more,
        )
        results = json.loads((out / "evaluation.json").read_text())
        rates[f"{device} {dtype}"] = {name: model["refusal_rate"] for name, model in results.items()}
    card, cpu = rates.values()
    assert recipe == "article" or abs(card["baked"] - cpu["baked"]) <= 0.25, rates
    assert abs(card["hooks"] - card["baked"]) <= 0.1, rates
    return {"refusals": rates}


def traits(smoke: Smoke) -> None:
    """An Edit learned on the card, a trait added and a trait removed."""
    chat = load_model(tiny_chat.folder(), device=smoke.device, dtype="float32")
    day, night = tiny_chat.prompts(tiny_chat.DAY, 12), tiny_chat.prompts(tiny_chat.NIGHT, 12)
    day_ids, night_ids = chat.tokens(day), chat.tokens(night)
    day_answers, night_answers = chat.answer(day_ids, 6, 4096), chat.answer(night_ids, 6, 4096)
    means = (mean_streams(chat, day, day_answers, 4096), mean_streams(chat, night, night_answers, 4096))
    examples = [
        DistillExample(source, [(prompt, answer, 0)])
        for source, prompt, answer in zip(day_ids, night_ids, night_answers, strict=True)
    ]
    change = pair_examples(chat, examples, 4096, silent)
    base = BaseModelRef.of(chat.checkpoint, "tiny")
    for what in ("induce", "remove"):
        parameters = learnables(what, list(chat.architecture.writers), means)
        learn_edit(chat, base, parameters, change, [], steps=2, seed=0, progress=silent)


def evaluate(smoke: Smoke) -> Figures:
    """The base, an Edit at two strengths and the baked checkpoint, in one evaluation."""
    folder = smoke.folder / f"gradient-{smoke.device}-bfloat16"
    sources = tiny_chat.sources()
    result = evaluate_models(
        [str(tiny_chat.folder()), f"{folder}@0.5,1", str(folder / "checkpoint")],
        smoke.folder / "evaluated",
        prompts=("p=" + sources["positive"], "n=" + sources["negative"]),
        answer_tokens=8,
        limit=12,
        device=smoke.device,
        dtype="bfloat16",
        tool_calls=False,
    )
    return {name: row["sets"]["p"]["refusal"]["rate"] for name, row in result["results"].items()}


def make_big_model(smoke: Smoke) -> Figures:
    """A checkpoint of random weights, a tokenizer of words, and prompt files, short and long."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    size = smoke.vocabulary
    words = [*SPECIAL, *(f"w{index}" for index in range(len(SPECIAL), size))]
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<|end|>",
        unk_token="<unk>",
        extra_special_tokens=list(SPECIAL[3:6]),
    )
    # A shared beginning as long as Llama 3.1's.
    head = " ".join(f"w{index}" for index in range(100, 128))
    fast.chat_template = (
        f"<bos> <|system|> {head} <|end|>"
        "{% for m in messages %} <|{{ m['role'] }}|> {{ m['content'] }} <|end|>{% endfor %}"
        "{% if add_generation_prompt %} <|assistant|>{% endif %}"
    )
    config = AutoConfig.for_model(
        "llama",
        **SHAPES[smoke.shape],
        max_position_embeddings=8192,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.02,
    )
    with torch.device(smoke.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(smoke.big, max_shard_size="4GB")
    fast.save_pretrained(smoke.big)
    for side, seed in (("positive", 1), ("negative", 2)):
        (smoke.folder / f"{side}.json").write_text(json.dumps(smoke.words(400, seed)))
        (smoke.folder / f"{side}-long.json").write_text(json.dumps(smoke.words(90, seed, 200, 260)))
    stored = sum(file.stat().st_size for file in smoke.big.glob("*.safetensors"))
    return {"gib": round(stored / GIB, 1)}


def speed(smoke: Smoke) -> Figures:
    """Load, forward passes, collect, decoding with and without an Edit."""
    began = time.monotonic()
    chat = load_model(smoke.big, device=smoke.device, dtype="bfloat16")
    smoke.synchronise()
    figures: Figures = {"load_s": round(time.monotonic() - began, 1)}
    prompts = [Prompt(text) for text in smoke.words(256, 3)]
    ids = chat.tokens(prompts)
    samples = [Example(row, tokens, [[150, 151, 152, 153]]) for row, tokens in enumerate(ids[:4])]
    figures["packs_exactly"] = packs_exactly(chat, samples)

    def forward() -> None:
        with torch.inference_mode():
            for batch in chat.batches(ids, 4096):
                chat.hidden(batch)

    bare = smoke.timed(forward)
    padded = smoke.timed(lambda: collect(chat, prompts, sites=["resid_pre"]))
    packed = smoke.timed(lambda: collect(chat, prompts, sites=["resid_pre"], packed=True))
    figures |= {
        "forward_tokens_a_second": round(sum(map(len, ids)) / bare),
        "collect_over_forward": round(padded / bare, 2),
        "packed_collect_over_forward": round(packed / bare, 2),
    }
    d_model, n_layers = chat.architecture.d_model, chat.architecture.n_layers
    direction = torch.nn.functional.normalize(torch.randn(d_model), dim=0)
    edit = Edit.ablation(smoke.big, direction, embeddings=False)
    edit = edit.only(layers=range(round(0.4 * n_layers), n_layers))
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "plain": nullcontext,
        "edit": lambda: edit.hooks(chat.model),
    }
    for rows in (32, 256):
        for name, hooked in ways.items():
            with hooked():
                figures[f"decode {rows} rows {name}"] = decode(smoke, chat, ids[:rows], 32)
    if smoke.cuda:
        figures["attention_kernels"] = attention_kernels(smoke, chat, ids)
        figures["continuous_batching"] = continuous_batching(chat, ids, 32)
    return figures


def decode(smoke: Smoke, chat: ChatModel, ids: list[list[int]], limit: int) -> Figures:
    chat.answer(ids[:4], 2, 1 << 20)
    smoke.synchronise()
    began = time.monotonic()
    answers = chat.answer(ids, limit, 1 << 20)
    smoke.synchronise()
    seconds = time.monotonic() - began
    return {
        "ms_a_step": round(1000 * seconds / (limit + 1), 1),
        "tokens_a_second": round(sum(map(len, answers)) / seconds),
    }


def generation(smoke: Smoke) -> Figures:
    """Tokens a second for 128 prompts and 64 tokens: with passes of 4,096 tokens and cuDNN's
    attention, without the latter, and with `auto`.
    """
    chat = load_model(smoke.big, device=smoke.device, dtype="bfloat16")
    ids = chat.tokens([Prompt(text) for text in smoke.words(128, 7)])
    figures = {}
    plain = decoding_module.without_cudnn_attention
    for name, batch_tokens, kernels in (
        ("4096 tokens, cuDNN", 4096, nullcontext),
        ("4096 tokens", 4096, plain),
        ("auto", "auto", plain),
    ):
        decoding_module.without_cudnn_attention = kernels  # type: ignore[assignment]
        try:
            smoke.synchronise()
            began = time.monotonic()
            answers = chat.answer(ids, 64, batch_tokens)
            smoke.synchronise()
            figures[name] = round(sum(map(len, answers)) / (time.monotonic() - began))
        finally:
            decoding_module.without_cudnn_attention = plain
    return {"tokens_a_second": figures}


def attention_kernels(smoke: Smoke, chat: ChatModel, ids: list[list[int]]) -> list[str]:
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode(), profile(activities=[ProfilerActivity.CUDA]) as profiler:
        chat.hidden(next(iter(chat.batches(ids[:16], 4096))))
        smoke.synchronise()
    named = ("fmha", "flash", "cudnn", "attn", "softmax")
    return sorted(
        {event.key[:60] for event in profiler.key_averages() if any(w in event.key.lower() for w in named)}
    )[:6]


def continuous_batching(chat: ChatModel, ids: list[list[int]], limit: int) -> Figures | str:
    """Tokens a second of transformers' own continuous batching, with its warm-up and without."""
    from transformers import GenerationConfig

    config = GenerationConfig(max_new_tokens=limit, do_sample=False, eos_token_id=2, pad_token_id=0)
    figures = {}
    try:
        for name in ("first_call_tokens_a_second", "second_call_tokens_a_second"):
            began = time.monotonic()
            results = chat.model.generate_batch(inputs=ids, generation_config=config)
            seconds = time.monotonic() - began
            figures[name] = round(sum(len(result.generated_tokens) for result in results.values()) / seconds)
    except FAULTS as error:
        return f"{type(error).__name__}: {str(error)[:160]}"
    return figures


def whole_run(smoke: Smoke) -> Figures:
    """A whole run with the default recipe and sizes: seconds a stage."""
    out = smoke.folder / "run"
    run(
        str(smoke.big),
        out,
        positive=str(smoke.folder / "positive.json"),
        negative=str(smoke.folder / "negative.json"),
        behaviour="opening",
        device=smoke.device,
        dtype="bfloat16",
        target_rate=1.0,
        force=True,
        bake=smoke.left > 150,
    )
    stages = {
        file.stem: round(json.loads(file.read_text())["seconds"], 1)
        for file in sorted((out / "stages").glob("*.json"))
    }
    history = json.loads((out / "scores.json").read_text())["history"]
    losses = [round(history[index]["change"], 3) for index in (0, -1)]
    return {"stages_s": stages, "steps": len(history), "loss": losses}


def capped_search(smoke: Smoke, ending: str) -> None:
    """The search alone on what a card of 24 GB has free."""
    if smoke.cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(CAP_GIB * GIB / total)
    try:
        run(
            str(smoke.big),
            smoke.folder / f"capped{ending}",
            positive=str(smoke.folder / f"positive{ending}.json"),
            negative=str(smoke.folder / f"negative{ending}.json"),
            behaviour="opening",
            device=smoke.device,
            dtype="bfloat16",
            n_fit=64,
            n_search=8,
            n_test=8,
            answer_tokens=8,
            steps=4,
            target_rate=1.0,
            force=True,
            until="select",
        )
    finally:
        if smoke.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0)


def layerwise(smoke: Smoke) -> Figures:
    """Collect block by block equals collect on the whole model, in less memory."""
    prompts = [Prompt(text) for text in smoke.words(32, 5)]
    model = load_layerwise(smoke.big, device=smoke.device, dtype="bfloat16")
    low = collect(model, prompts, sites=["resid_pre"])
    peak = smoke.peak()
    smoke.clear()
    whole = collect(
        load_model(smoke.big, device=smoke.device, dtype="bfloat16"), prompts, sites=["resid_pre"]
    )
    off = float((low.mean - whole.mean).abs().max() / whole.mean.abs().max())
    assert off < 1e-3, off
    return {"layerwise_peak_gib": peak, "relative_difference": off}


def describe_machine(smoke: Smoke) -> Figures:
    name = torch.cuda.get_device_name() if smoke.cuda else "cpu"
    return {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "shape": smoke.shape}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--shape", default="8b", choices=tuple(SHAPES))
    parser.add_argument(
        "--seconds", type=float, default=520, help="sections that would end later are skipped"
    )
    parser.add_argument("--only", default="", help="first words of section names, with commas")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    smoke = Smoke(args.device, args.shape, args.seconds, [name for name in args.only.split(",") if name])
    machine = describe_machine(smoke)
    print(json.dumps(machine), flush=True)
    for recipe in ("gradient", "arditi", "cosmic", "article"):
        smoke.section(f"behaviour {recipe}", lambda recipe=recipe: behaviour(smoke, recipe))
    smoke.section("traits", lambda: traits(smoke))
    smoke.section("evaluate", lambda: evaluate(smoke))
    smoke.section("make the big model", lambda: make_big_model(smoke), least=60)
    smoke.section("speed", lambda: speed(smoke), least=60)
    smoke.section("generation", lambda: generation(smoke), least=60)
    for kind, ending in (("short", ""), ("long", "-long")):
        name = f"memory of a search on 24 GB, {kind} prompts"
        smoke.section(name, lambda ending=ending: capped_search(smoke, ending), least=50)
    smoke.section("layerwise", lambda: layerwise(smoke), least=40)
    smoke.section("default run", lambda: whole_run(smoke), least=100)
    args.json.write_text(json.dumps({"machine": machine, "rows": smoke.rows}, indent=1, default=str) + "\n")
    for row in smoke.rows:
        mark = {"ok": "ok ", "skipped": "-- "}.get(row["status"], "BAD")
        print(f"{mark} {json.dumps(row, default=str)[:900]}")
    return int(any(row["status"].startswith("FAILED") for row in smoke.rows))


if __name__ == "__main__":
    sys.exit(main())
