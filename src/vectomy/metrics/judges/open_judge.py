"""A judge by what a person writes: `refusal`, `keywords`, `heretic`, `arditi`, `xstest`,
`openai:URL[#MODEL]` or `hf:ID`.
"""

from __future__ import annotations

from vectomy.core.errors import UsageError
from vectomy.metrics.judges.endpoint_judge import EndpointJudge
from vectomy.metrics.judges.named import JUDGES
from vectomy.metrics.judges.verdict import Judge

__all__ = ["is_slow", "open_judge"]


def is_slow(spec: str) -> bool:
    """Whether a judge asks a model, so that what it has said is worth keeping row by row."""
    return spec not in JUDGES


def open_judge(spec: str) -> Judge:
    """Make a judge; servers and models are reached when it first judges, or loaded now.

    Raises:
        UsageError: no judge is called that.
        JudgeError, CheckpointError: a classifier that is not known, or not to be had.
    """
    if spec in JUDGES:
        return JUDGES[spec]()
    kind, _, rest = spec.partition(":")
    if kind == "openai" and rest:
        url, _, model = rest.partition("#")
        return EndpointJudge(url, model or None)
    if kind == "hf" and rest:
        # A model's libraries take seconds to load, and no other judge needs them.
        from vectomy.metrics.judges.classifier_judge import ClassifierJudge

        return ClassifierJudge.open(rest)
    raise UsageError(
        f"no judge is called '{spec}'; there are {', '.join(JUDGES)}, openai:URL[#MODEL] and hf:ID"
    )
