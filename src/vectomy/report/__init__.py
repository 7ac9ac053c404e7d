"""What readers get: one self-contained HTML page of a run, of an evaluation or of a healing, and
the model card of an edited checkpoint.

All are pure functions of the JSON that the other stages wrote. Prompts, completions and tokens are
untrusted text: every value is escaped unless this package made it.
"""

from vectomy.report.pages.evaluation_page import render_evaluation
from vectomy.report.pages.healing_page import healing_rows, render_healing, render_healing_card
from vectomy.report.pages.model_card import render_card, without_places
from vectomy.report.pages.run_page import render_page
from vectomy.report.tables.behaviour_effect import (
    claim_effect,
    compare_rates,
    describe_change,
    effect_of,
    safety_text,
)
from vectomy.report.tables.evaluation_headline import write_evaluation_headline
from vectomy.report.tables.headline import Headline, write_headline
from vectomy.report.tables.statement import describe_results

__all__ = [
    "Headline",
    "claim_effect",
    "compare_rates",
    "describe_change",
    "describe_results",
    "effect_of",
    "healing_rows",
    "render_card",
    "render_evaluation",
    "render_healing",
    "render_healing_card",
    "render_page",
    "safety_text",
    "without_places",
    "write_evaluation_headline",
    "write_headline",
]
