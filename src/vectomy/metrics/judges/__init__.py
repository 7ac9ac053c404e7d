"""Judges: whether a completion refuses. refusal_judge.py is the default and works offline; the
others are baselines, or ask a model.

A judge has a name, a version, a note, its agreement with people, `verdict(prompt, completion)` and
`judged(prompts, completions)`. To add one, write its module and list it in named.py, or in
open_judge.py if it takes an address.
"""

from vectomy.metrics.judges.agreement import measured_errors
from vectomy.metrics.judges.degeneration import degenerate, what_is_wrong
from vectomy.metrics.judges.named import DEFAULT_JUDGE, JUDGES
from vectomy.metrics.judges.open_judge import is_slow, open_judge
from vectomy.metrics.judges.refusal_judge import RefusalJudge
from vectomy.metrics.judges.string_judges import StringJudge
from vectomy.metrics.judges.verdict import (
    JUDGED_VERDICTS,
    REFUSALS,
    Agreement,
    Judge,
    JudgeErrors,
    Judgement,
    Verdict,
    describe,
    find_refusals,
    refuses,
)

__all__ = [
    "DEFAULT_JUDGE",
    "JUDGED_VERDICTS",
    "JUDGES",
    "REFUSALS",
    "Agreement",
    "Judge",
    "JudgeErrors",
    "Judgement",
    "RefusalJudge",
    "StringJudge",
    "Verdict",
    "degenerate",
    "describe",
    "find_refusals",
    "is_slow",
    "measured_errors",
    "open_judge",
    "refuses",
    "what_is_wrong",
]
