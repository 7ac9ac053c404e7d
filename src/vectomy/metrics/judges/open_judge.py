"""Opens a judge by its name on the command line: in `JUDGES`, openai:URL[#MODEL] or hf:ID."""

from __future__ import annotations

from vectomy.core.chat_endpoint import split_endpoint
from vectomy.core.errors import UsageError
from vectomy.core.suggestions import suggest
from vectomy.metrics.judges.endpoint_judge import EndpointJudge
from vectomy.metrics.judges.named import JUDGES
from vectomy.metrics.judges.verdict import Judge

__all__ = ["is_slow", "open_judge"]


def is_slow(spec: str) -> bool:
    """Whether a judge asks a model, so that each of its verdicts is worth storing."""
    return spec not in JUDGES


def open_judge(spec: str) -> Judge:
    """Open a judge. A server is contacted at the first verdict; a classifier is loaded now.

    Raises:
        UsageError: there is no judge of that name.
        JudgeError: the classifier is not known.
        CheckpointError: the classifier is neither local nor on the Hub.
    """
    if spec in JUDGES:
        return JUDGES[spec]()
    if endpoint := split_endpoint(spec):
        return EndpointJudge(*endpoint)
    kind, _, rest = spec.partition(":")
    if kind == "hf" and rest:
        # A model's libraries take seconds to load, and no other judge needs them.
        from vectomy.metrics.judges.classifier_judge import ClassifierJudge

        return ClassifierJudge.open(rest)
    raise UsageError(
        f"there is no judge '{spec}'{suggest(spec, JUDGES)}; choose from {', '.join(JUDGES)}, "
        "openai:URL[#MODEL] and hf:ID"
    )
