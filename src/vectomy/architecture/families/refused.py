"""Model types that are known and cannot be edited exactly, with the reason."""

from __future__ import annotations

__all__ = ["REFUSED"]

_ON_STREAM = "a norm or gate stands on the stream itself, so taking a direction out of what is written does not take it out of the stream"
_FIXED = "it adds a fixed position encoding that no weight holds"

REFUSED: dict[str, str] = {
    "rwkv": "its channel mixing multiplies what it writes by a gate as wide as the stream",
    "minimax": _ON_STREAM,
    "doge": _ON_STREAM,
    "openai-gpt": _ON_STREAM,
    "xlnet": _ON_STREAM,
    "git": _ON_STREAM,
    "zaya": "learned scales as wide as the stream stand on the stream itself",
    "xglm": _FIXED,
    "ctrl": _FIXED,
    "longcat_flash": "its identity experts write their normed input back to the stream, which no weight holds",
    "gemma3n": "it keeps four streams and mixes them between blocks (AltUp)",
    "gemma3n_text": "it keeps four streams and mixes them between blocks (AltUp)",
    "deepseek_v4": "it keeps several streams and mixes them in every block (hyper-connections)",
    "hy_v4": "it keeps several streams and mixes them in every block",
    "qwen4_exp": "it keeps several streams and mixes them in every block (hyper-connections)",
    "qwen4_exp_text": "it keeps several streams and mixes them in every block (hyper-connections)",
    "ernie4_5_vl_moe": "its blocks hold experts for images beside those for text, and text never reaches them",
    "cpmant": "it puts vectors of its own in front of the text, so that places in its stream are not those of the tokens",
    "hrm_text": "it runs the same blocks several times over streams of its own",
    "inkling_text": "a convolution stands between its writers and the stream",
    "inkling2_text": _ON_STREAM,
    "mllama": "its cross-attention layers are gated by what images say, and are skipped without one",
}
"""By `model_type` of config.json."""
