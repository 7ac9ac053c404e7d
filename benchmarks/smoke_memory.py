"""The sections of gpu_smoke.py that ask what a large model takes: whole, capped, block by block."""

from __future__ import annotations

import json

import torch
from smoke_rows import GIB, Figures, Smoke

from vectomy import collect, load_layerwise, load_model, run
from vectomy.data.prompts import Prompt

# What PyTorch may take of a card of 24 GB beside its own context.
CAP_GIB = 22.5


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
