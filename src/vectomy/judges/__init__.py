"""Judges say of a completion whether it refuses. refusal.py is the default, offline; the others are there to compare with or to ask a model.

A judge has a name, a version, a note, its agreement with people, `verdict(prompt, completion)` and `judged(prompts, completions)`; to
add one, write its file and list it in named.py, or in opened.py where it takes an address.
"""

from vectomy.judges.baselines import StringJudge
from vectomy.judges.degeneration import degenerate, what_is_wrong
from vectomy.judges.keywords import KeywordJudge
from vectomy.judges.named import DEFAULT_JUDGE, JUDGES
from vectomy.judges.opened import is_slow, open_judge
from vectomy.judges.refusal import RefusalJudge
from vectomy.judges.verdict import REFUSALS, Agreement, Judge, Judgement, Verdict, describe

__all__ = [
    "DEFAULT_JUDGE",
    "JUDGES",
    "REFUSALS",
    "Agreement",
    "Judge",
    "Judgement",
    "KeywordJudge",
    "RefusalJudge",
    "StringJudge",
    "Verdict",
    "degenerate",
    "describe",
    "is_slow",
    "open_judge",
    "what_is_wrong",
]
