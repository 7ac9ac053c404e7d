"""The names that a user chooses from on the command line. Loads no torch: `--help` is quick.

Each name has one implementation, in a table of the room that does the work;
tests/core/test_choices.py compares the two.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

__all__ = ["ENGINE_NAMES", "JUDGE_NAMES", "Estimator", "ExportFormat", "JudgeName", "Quantization", "Recipe"]

Recipe = Literal["article", "arditi", "cosmic", "distill", "gradient", "selective", "tpe"]
"""`RECIPES` in search/recipes.py; `distill` is chosen by `--trait`."""

Estimator = Literal[
    "difference_of_means",
    "projected",
    "masked",
    "standardised",
    "winsorised_mean",
    "pca_of_differences",
    "logistic_probe",
]
"""`ESTIMATORS` in search/estimators.py."""

ExportFormat = Literal["checkpoint", "lora", "gguf", "gguf-lora", "control-vector"]
"""`EXPORTS` in edits/export/export_formats.py."""

Quantization = Literal[
    *("f16", "bf16", "f32", "q8_0", "q6_k", "q5_k_m", "q4_k_m"),
    *("q5_1", "q5_0", "q4_1", "q4_0"),
]
"""`QUANTS` in edits/export/gguf_convert.py."""

ENGINE_NAMES = ("own", "vllm")
"""Engines of `vectomy evaluate` beside a server (workflows/evaluate/answering.py)."""

JUDGE_NAMES = ("refusal", "heretic", "arditi", "xstest")
"""`JUDGES` in metrics/judges/named.py."""

JudgeName = Annotated[
    str,
    Field(description=f"Judge: {', '.join(JUDGE_NAMES)}, openai:URL[#MODEL], or hf:ID of a classifier."),
]
"""A name, or what opens a judge that is not built in (metrics/judges/open_judge.py)."""
