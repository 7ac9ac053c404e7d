"""Bytes of a quantised weight, for estimates of models whose files are not here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["packed_width", "stays_packed"]

# Scales included: of blocks of 32 (MXFP4), 64 (bitsandbytes) and 128 weights.
WIDTHS = {"fp8": 1.0, "mxfp4": 4.25 / 8, "gptq": 4.5 / 8, "awq": 4.5 / 8, "bitsandbytes": 4.25 / 8}
# Ways whose weights lie packed in memory, too; others are decoded on loading.
PACKED = ("bitsandbytes",)


def packed_width(quantised: Any) -> float | None:
    """Bytes a weight under a `quantization_config`; None for a way that is not known."""
    return WIDTHS.get(_method(quantised))


def stays_packed(quantised: Any) -> bool:
    """Whether the weights lie packed in memory."""
    return _method(quantised) in PACKED


def _method(quantised: Any) -> str:
    given = quantised if isinstance(quantised, Mapping) else vars(quantised)
    method = given.get("quant_method") or ""
    return str(getattr(method, "value", method))
