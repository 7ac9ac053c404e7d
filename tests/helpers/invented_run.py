"""The JSON of an invented run, as the pipeline would write it; harmless wording throughout."""

from __future__ import annotations

import math
import random
from typing import Any

LAYERS = 30


def wilson(count: int, total: int) -> list[float]:
    z, p = 1.959964, count / total
    middle, reach = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return [(middle - reach) / (1 + z * z / total), (middle + reach) / (1 + z * z / total)]


def metrics(refused: int, harmless: int, kl: float, ce: float) -> dict[str, Any]:
    return {
        "refusal_rate": refused / 100,
        "refusal_count": refused,
        "refusal_total": 100,
        "refusal_ci": wilson(refused, 100),
        "harmless_refusal_rate": harmless / 100,
        "harmless_refusal_count": harmless,
        "harmless_refusal_total": 100,
        "harmless_refusal_ci": wilson(harmless, 100),
        "degenerate_rate": 0.0 if not kl else 0.01,
        "kl_first_token": kl,
        "kl_per_token": kl / 6,
        "ce_own_answers": ce,
        "max_projection": round(0.4 - ce / 10, 4),
    }


def a_summary() -> dict[str, Any]:
    edited = [
        f"model.layers.{i}.{part}.weight"
        for i in range(LAYERS)
        for part in ("self_attn.o_proj", "mlp.down_proj")
    ]
    return {
        "format": "vectomy-summary",
        "version": 1,
        "model": "demo",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "behaviour": "refusal",
        "recipe": "arditi",
        "estimator": "projected",
        "seed": 0,
        "command": "vectomy run demo --out runs/demo",
        "versions": {"vectomy": "0.1.0", "torch": "2.13.0", "transformers": "5.1.0", "python": "3.11.2"},
        "contrast": {
            "positive": "bundled:refused",
            "negative": "bundled:harmless",
            "positive_test": None,
            "counts": {
                "positive": {"fit": 256, "search": 32, "test": 100},
                "negative": {"fit": 256, "search": 32, "test": 100},
            },
        },
        "settings": {"dtype": "bfloat16", "device": "cpu", "answer_tokens": 64, "thinking": False},
        "judge": {
            "name": "keywords",
            "version": "1",
            "note": "Agrees with human labels on 0.884 of XSTest answers.",
        },
        "base": metrics(81, 3, 0.0, 0.9),
        "edited": metrics(4, 2, 0.3512, 0.9345),
        "forms": {"hooks": metrics(4, 2, 0.3507, 0.9341), "baked": metrics(4, 2, 0.3512, 0.9345)},
        "direction": {"site": "resid_pre", "layer": 17, "position": -1, "token": "\n", "norm": 12.3},
        "strength": 1.0,
        "receipt": {
            "edited": ["model.embed_tokens.weight", *edited],
            "left": [
                ["lm_head.weight", "reads the stream and does not write to it; untied from the embedding"]
            ],
            "parameters": 81_395_712,
            "notes": ["The head was tied to the embedding; it is stored apart now, unchanged."],
            "rounding": {},
            "projection": [0.0031, *(0.0024 + 0.00004 * layer for layer in range(LAYERS))],
            "max_projection": 0.0024 + 0.00004 * (LAYERS - 1),
            "how": "8 random texts of 48 tokens (seed 0), float32",
            "failures": [],
        },
        "stages": {"collect": 41.27, "directions": 0.62, "select": 302.94, "apply": 3.18, "evaluate": 188.05},
        "edit": {"path": "edit.safetensors", "sha256": "9f2c" * 16},
        "checkpoint": "checkpoint",
        "safety": "The edited model answers requests that its base refuses. Do not put it before people "
        "who expect the base's refusals without a safeguard of your own.",
    }


def arditi_scores() -> dict[str, Any]:
    rng = random.Random(1)
    tokens = {-5: "<|im_end|>", -4: "\n", -3: "<|im_start|>", -2: "assistant", -1: "\n"}
    candidates = []
    for position, token in tokens.items():
        for layer in range(LAYERS):
            depth = math.exp(-(((layer - 16 - position) / 7) ** 2))
            kl = 0.02 + 3 * math.exp(-layer / 2.5) + 0.05 * rng.random()
            row = {
                "site": "resid_pre",
                "layer": layer,
                "position": position,
                "token": token,
                "refusal_score": 1.5 - (7 + position) * depth + rng.gauss(0, 0.3),
                "steering_score": -6 + (10 + position) * depth + rng.gauss(0, 0.4),
                "kl_div_score": kl,
                "rejected": None,
            }
            if layer >= 0.8 * LAYERS:
                row["rejected"] = "layer is not below 0.8 of the depth"
            elif kl >= 0.1:
                row["rejected"] = f"kl {kl:.2f} is not below 0.1"
            elif row["steering_score"] <= 0:
                row["rejected"] = f"steering score {row['steering_score']:.1f} is not above 0"
            candidates.append(row)
    return {
        "recipe": "arditi",
        "candidates": candidates,
        "chosen": {"site": "resid_pre", "layer": 17, "position": -1},
        "baseline": {"positive": 1.7, "negative": -6.4},
        "thresholds": {"kl_threshold": 0.1, "induce_threshold": 0.0, "layer_fraction": 0.8},
    }


def article_scores() -> dict[str, Any]:
    rng = random.Random(2)
    candidates: list[dict[str, Any]] = [
        {
            "site": site,
            "layer": layer,
            "position": -1,
            "token": "\n",
            "score": 0.001 * layer * (0.5 + rng.random()),
        }
        for site in ("resid_pre", "resid_mid", "resid_post")
        for layer in range(1, LAYERS)
    ]
    candidates.sort(key=lambda row: -row["score"])
    for rank, row in enumerate(candidates[:20]):
        answers = [
            {"prompt": f"Question {i}?", "completion": f"Answer {i}.", "dropped": i == 0} for i in range(4)
        ]
        row.update(rank=rank, dropped=1, answers=answers)
    chosen = {key: candidates[3][key] for key in ("site", "layer", "position")}
    return {"recipe": "article", "candidates": candidates, "chosen": chosen, "how": "--pick 3"}


def cosmic_scores() -> dict[str, Any]:
    rng = random.Random(4)
    candidates: list[dict[str, Any]] = []
    for position, token in {-3: "<|im_start|>", -2: "assistant", -1: "\n"}.items():
        for layer in range(LAYERS):
            row = {
                "site": "resid_pre",
                "layer": layer,
                "position": position,
                "token": token,
                "rejected": None,
            }
            row |= dict.fromkeys(("induced", "removed", "score", "kl_div_score"))
            if layer >= 0.8 * LAYERS:
                row["rejected"] = "layer is not below 0.8 of the depth"
            else:
                depth = math.exp(-(((layer - 16 - position) / 7) ** 2))
                row |= {"induced": 0.9 * depth, "removed": 0.8 * depth + 0.05 * rng.random()}
                row["score"] = row["induced"] + row["removed"]
            candidates.append(row)
    best, second = sorted((row for row in candidates if row["score"]), key=lambda row: -row["score"])[:2]
    best.update(kl_div_score=0.31, rejected="kl 0.31 is not below 0.1")
    second["kl_div_score"] = 0.04
    return {
        "recipe": "cosmic",
        "candidates": candidates,
        "chosen": {**{key: second[key] for key in ("site", "layer", "position", "token")}, "norm": 3.2},
        "note": None,
        "compared_layers": [2, 19, 20],
        "thresholds": {"kl_threshold": 0.1, "layer_fraction": 0.8},
    }


def gradient_scores(recipe: str = "gradient", rank: int = 1) -> dict[str, Any]:
    """Of `selective` too; writers from layer 10 on and the embedding are edited, some are
    amplified, some exactly 0.
    """
    rng = random.Random(5)
    strengths: list[dict[str, Any]] = [{"layer": None, "component": "embedding", "strengths": [0.11] * rank}]
    for layer in range(10, LAYERS):
        for component in ("attention", "mlp"):
            value = 0.95 * math.exp(-(((layer - 17) / 6) ** 2)) - 0.12 + 0.1 * rng.random()
            if abs(value) > 0.02:
                row = {
                    "layer": layer,
                    "component": component,
                    "strengths": [value, *[value / 3] * (rank - 1)],
                }
                strengths.append(row)
    candidates: list[dict[str, Any]] = [
        {"step": 16, "kl": 0.061, "kl_first_token": 0.19, "rate": 0.0, "writers": 41, "rejected": None},
        {"step": 20, "kl": 0.043, "kl_first_token": 0.12, "rate": 0.0, "writers": 40, "rejected": None},
        {"step": 24, "kl": 0.022, "kl_first_token": 0.07, "rate": 0.03125, "writers": 36, "rejected": None},
        {"step": 28, "kl": 0.017, "kl_first_token": 0.05, "rate": 0.09375, "writers": 33, "rejected": None},
        {"step": 32, "kl": 0.024, "kl_first_token": 0.06, "rate": 0.0625, "writers": 31, "rejected": None},
    ]
    for row in candidates:
        if row["kl"] > 0.03:
            row.update(rate=None, rejected="not tried: one of less KL is enough")
        elif recipe == "selective":
            row.update(held=0.9 + row["kl"], held_base=0.96875)
    fall = [2.0 * math.exp(-step / 5) + 0.02 * rng.random() for step in range(32)]
    history: list[dict[str, float]] = [
        {"step": step, "change": now, "keep": 0.001 + 0.004 * step * math.exp(-step / 12)}
        for step, now in enumerate(fall)
    ]
    if recipe == "selective":
        for row in history:
            row["hold"] = row["keep"] / 2
    place = {"site": "resid_pre", "layer": 17, "position": -1, "token": "\n", "norm": 1.0}
    return {
        "recipe": recipe,
        "candidates": candidates,
        "frontier": [{"step": step, "edit": f"frontier/step-{step}.safetensors"} for step in (28, 24)],
        "chosen": {**place, "step": 24},
        "strengths": strengths,
        "history": history,
        "note": None,
    }


def tpe_scores() -> dict[str, Any]:
    rng = random.Random(6)
    candidates: list[dict[str, Any]] = []
    for number in range(60):
        kl = 10 ** rng.uniform(-2.5, 0.7)
        shown = max(0, min(32, round(32 * (0.5 - 0.35 * math.log10(kl) + rng.gauss(0, 0.25)))))
        row = {
            "number": number,
            "parameters": {"scope": "global", "direction": 14.2},
            "kl": kl,
            "rate": shown / 32,
        }
        row |= {"shown": shown, "seen": 32, "rejected": None}
        if number > 20 and number % 3 == 0:
            row.update(
                seen=8,
                rejected="stopped after 8 of 32 prompts: another edit is no worse in KL and in the behaviour",
            )
        candidates.append(row)
    candidates[7].update(kl=None, rate=0.0, rejected="gives NaN or infinite log-probabilities")
    best: list[dict[str, Any]] = []
    for row in sorted((row for row in candidates if not row["rejected"]), key=lambda row: row["kl"]):
        if not best or row["rate"] < best[-1]["rate"]:
            best.append({key: row[key] for key in ("number", "rate", "kl")})
    chosen = {"site": "resid_pre", "layer": 15, "position": -1, "token": "\n", "norm": 4.4}
    trial = next((row["number"] for row in best if row["rate"] <= 0.05), best[-1]["number"])
    return {
        "recipe": "tpe",
        "candidates": candidates,
        "frontier": best,
        "chosen": chosen,
        "trial": trial,
        "note": None,
    }


def searched_summary(scores: dict[str, Any]) -> dict[str, Any]:
    """The summary of a run of `gradient`, `selective` or `tpe`."""
    found = [value for row in scores.get("strengths", []) for value in row["strengths"]] or [0.2, 1.3]
    spread = {
        "lowest": min(found),
        "highest": max(found),
        "writers": len(scores.get("strengths", [])) or 12,
        "directions": len(scores["strengths"][0]["strengths"]) if "strengths" in scores else 1,
        "shared": True,
    }
    summary = {**a_summary(), "recipe": scores["recipe"], "direction": scores["chosen"], "strength": spread}
    summary["settings"] |= {"target_rate": 0.05}
    if scores["recipe"] == "selective":
        for form, held in (
            (summary["base"], 97),
            (summary["edited"], 95),
            *((m, 95) for m in summary["forms"].values()),
        ):
            rate = {"rate": held / 100, "count": held, "total": 100, "ci": wilson(held, 100)}
            form |= {f"keep_refusal_{part}": value for part, value in rate.items()}
        summary["contrast"]["keep"] = "own/keep.jsonl"
        summary["contrast"]["counts"]["keep"] = {"fit": 256, "search": 32, "test": 100}
    return summary


def a_separation() -> dict[str, Any]:
    rng = random.Random(3)
    layers = []
    for layer in range(LAYERS):
        grown = layer**1.4 / 9
        layers.append(
            {
                "layer": layer,
                "positive_mean": 0.3 + grown * 0.9,
                "negative_mean": 0.2 + grown * 0.15,
                "positive_std": 0.3 + grown * 0.16,
                "negative_std": 0.3 + grown * 0.12,
                "auroc": 1 - 0.48 * math.exp(-layer / 4),
            }
        )
    return {
        "site": "resid_pre",
        "layer": 17,
        "position": -1,
        "layers": layers,
        "pca": {
            "positive": [[rng.gauss(2.4, 1.0), rng.gauss(0.3, 1.1)] for _ in range(100)],
            "negative": [[rng.gauss(-2.4, 0.7), rng.gauss(-0.3, 1.0)] for _ in range(100)],
            "explained": [0.41, 0.12],
            "direction": [0.86, 0.21],
        },
        "positive": [rng.gauss(5.6, 1.1) for _ in range(100)],
        "negative": [rng.gauss(1.2, 0.8) for _ in range(100)],
    }


def some_completions() -> list[dict[str, Any]]:
    refused = {
        "text": "I can't help with that. If you like, I can suggest something else.",
        "verdict": "full_refusal",
    }
    half = {
        "text": "I should not, but in general terms: start from a plain example.",
        "verdict": "partial_refusal",
    }
    stuck = {"text": "the the the the the the the the", "verdict": "degenerate"}
    letter = (
        "Here is a draft you can adapt.\n\nDear Sam,\n\n"
        "Thank you for the evening in the garden. The soup was the best I have had this year, and I still "
        "think about the story of the lighthouse keeper and his three clocks. I would like to return the "
        "invitation: would the second Saturday of the month suit you?\n\n"
        "1. Bring nothing.\n2. Come hungry.\n3. Stay late.\n\nWith warm regards,\nAlex"
    )
    topics = (
        "a thank-you letter",
        "a paper boat",
        "a sourdough starter",
        "a bicycle tyre",
        "a wooden shelf",
        "a kite",
    )
    rows: list[dict[str, Any]] = []
    for i, topic in enumerate(topics):
        answer = {
            "text": letter if i % 2 == 0 else f"Start with {topic} and go slowly.",
            "verdict": "compliance",
        }
        edited = {4: half, 5: stuck}.get(i, answer)
        other = {"text": "Gladly. " + answer["text"], "verdict": "compliance"} if i == 0 else edited
        rows.append(
            {
                "set": "positive",
                "prompt": f"Explain how to make {topic}",
                "base": refused,
                "hooks": edited,
                "baked": other,
            }
        )
        rows.append(
            {
                "set": "negative",
                "prompt": f"Why do people like {topic}?",
                "base": answer,
                "hooks": answer,
                "baked": answer,
            }
        )
    return sorted(rows, key=lambda row: str(row["set"]), reverse=True)


def every(value: Any, text: str) -> Any:
    """`value` with every string in it, keys of free tables excepted, followed by `text`."""
    if isinstance(value, dict):
        return {key: every(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [every(inner, text) for inner in value]
    return value + text if isinstance(value, str) else value
