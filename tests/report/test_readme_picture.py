"""The README's picture is of the run that its numbers are of, by the default recipe."""

import hashlib
import json
from pathlib import Path

from vectomy.core.run_config import make_config

TIER = "unit"

ROOT = Path(__file__).parents[2]
DATA = json.loads((ROOT / "docs" / "report.json").read_text(encoding="utf-8"))


def test_the_picture_is_of_that_run_and_the_run_of_the_default_recipe() -> None:
    picture = (ROOT / "docs" / "report.png").read_bytes()
    assert hashlib.sha256(picture).hexdigest() == DATA["picture_sha256"]
    default = make_config("demo", {})
    assert (DATA["model"], DATA["recipe"], DATA["seed"]) == ("demo", default.recipe, default.seed)
    assert DATA["settings"]["answer_tokens"] == default.answer_tokens
    assert DATA["judge"] == "refusal"
