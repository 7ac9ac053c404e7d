"""The judges that need nothing beside the package, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vectomy.judges.baselines import StringJudge
from vectomy.judges.keywords import KeywordJudge
from vectomy.judges.refusal import RefusalJudge
from vectomy.judges.verdict import Judge

__all__ = ["DEFAULT_JUDGE", "JUDGES"]

DEFAULT_JUDGE = "refusal"
JUDGES: dict[str, Callable[[], Judge]] = {
    "refusal": RefusalJudge,
    "keywords": KeywordJudge,
    **{name: partial(StringJudge, name) for name in ("heretic", "arditi", "xstest")},
}
