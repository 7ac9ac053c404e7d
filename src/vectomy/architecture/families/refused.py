"""Model types that are known and cannot be edited exactly, with the reason."""

from __future__ import annotations

__all__ = ["REFUSED"]

_ON_STREAM = (
    "a norm or gate acts on the residual stream itself, so removing a direction from all writers does not "
    "remove it from the stream"
)
_FIXED = "it adds a fixed position encoding that no weight holds"

REFUSED: dict[str, str] = {
    "rwkv": "its channel mixing multiplies what it writes by a gate as wide as the stream",
    "minimax": _ON_STREAM,
    "doge": _ON_STREAM,
    "openai-gpt": _ON_STREAM,
    "xlnet": _ON_STREAM,
    "git": _ON_STREAM,
    "zaya": "learned scales act on the stream itself",
    "xglm": _FIXED,
    "ctrl": _FIXED,
    "longcat_flash": "its identity experts write their normalised input to the stream without a weight",
    "gemma3n": "it keeps four streams and mixes them between blocks (AltUp)",
    "gemma3n_text": "it keeps four streams and mixes them between blocks (AltUp)",
    "deepseek_v4": "it keeps several streams and mixes them in every block (hyper-connections)",
    "hy_v4": "it keeps several streams and mixes them in every block",
    "qwen4_exp": "it keeps several streams and mixes them in every block (hyper-connections)",
    "qwen4_exp_text": "it keeps several streams and mixes them in every block (hyper-connections)",
    "ernie4_5_vl_moe": "its blocks hold separate experts for images, which text never reaches",
    "cpmant": "it puts its own vectors before the text, so positions in its stream are not token positions",
    "hrm_text": "it runs the same blocks several times, over several streams",
    "inkling_text": "a convolution lies between its writers and the stream",
    "inkling2_text": _ON_STREAM,
    "mllama": "its cross-attention layers are gated by what images say, and are skipped without one",
}
"""By `model_type` of config.json."""
