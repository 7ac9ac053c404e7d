"""The judges that need only this package, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vectomy.metrics.judges.refusal_judge import RefusalJudge
from vectomy.metrics.judges.string_judges import StringJudge
from vectomy.metrics.judges.verdict import Judge

__all__ = ["DEFAULT_JUDGE", "JUDGES"]

DEFAULT_JUDGE = "refusal"
JUDGES: dict[str, Callable[[], Judge]] = {
    "refusal": RefusalJudge,
    **{name: partial(StringJudge, name) for name in ("heretic", "arditi", "xstest")},
}
