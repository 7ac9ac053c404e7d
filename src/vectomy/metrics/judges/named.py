"""The judges that need only this package, by name. A new one is a module, a line here, and its name
in `core.choices.JUDGE_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vectomy.metrics.judges.refusal_judge import RefusalJudge
from vectomy.metrics.judges.string_judges import STRING_RULES, StringJudge
from vectomy.metrics.judges.verdict import Judge

__all__ = ["DEFAULT_JUDGE", "JUDGES"]

DEFAULT_JUDGE = "refusal"
JUDGES: dict[str, Callable[[], Judge]] = {
    "refusal": RefusalJudge,
    **{name: partial(StringJudge, name) for name in STRING_RULES},
}
