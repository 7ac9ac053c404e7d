"""Judges say of a completion whether it shows the behaviour. keywords.py is the only one so far.

A judge has a name, a version and `verdict(prompt, completion)`; to add one, write its file and list it in `JUDGES`.
"""

from vectomy.judges.degeneration import degenerate
from vectomy.judges.keywords import KeywordJudge
from vectomy.judges.verdict import REFUSALS, Judge, Verdict

__all__ = ["JUDGES", "REFUSALS", "Judge", "KeywordJudge", "Verdict", "degenerate"]

JUDGES: dict[str, type[Judge]] = {"keywords": KeywordJudge}
