"""What a run leaves for readers: one self-contained HTML page, and the model card of the edited checkpoint.

Both are pure functions of the JSON that the other stages wrote. Prompts, completions and tokens are untrusted text:
every value is escaped unless this package made it.
"""

from vectomy.report.card import render_card
from vectomy.report.page import render_page

__all__ = ["render_card", "render_page"]
