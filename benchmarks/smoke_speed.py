"""The sections of gpu_smoke.py that ask how fast a large model is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from smoke_rows import FAULTS, Figures, Smoke

import vectomy.models.decoding as decoding_module
from vectomy import Edit, collect, load_model
from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel, Example, packs_exactly


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
