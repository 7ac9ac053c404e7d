"""`vectomy evaluate --gate`: the exit status, evaluation.json and the printed line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Vectomy
from tiny_evaluation import places

TIER = "chat"


@pytest.mark.parametrize("form", ["table", "json"])
def test_the_exit_status_says_whether_a_gate_is_missed_or_cannot_be_told(
    form: str, tmp_path: Path, vectomy: Vectomy
) -> None:
    """One evaluation, asked again with other gates: they change no result."""
    place = places()
    out = tmp_path / "out"
    sets = ["--prompts", f"night={place['night']}", "--prompts", f"day={place['day']}"]
    quick = ["--answer-tokens", "8", "--no-controls", "--no-tool-calls", "--device", "cpu"]
    command = ["evaluate", place["tiny"], place["edit"], *sets, *quick, "--out", str(out)]
    command += ["--json"] if form == "json" else []
    sizes = {}
    for gates, expected in (
        ([], 0),
        (["night<=0.5", "day<=base"], 0),
        # None of 10 is no proof of at most 5%.
        (["night<=0.05"], 5),
        (["night<=0.05", "night>=0.9"], 4),
    ):
        options = [part for gate in gates for part in ("--gate", gate)]
        status, printed, _ = vectomy(*command, *options)
        assert status == expected, gates
        stored = json.loads((out / "evaluation.json").read_text())
        assert [row["gate"] for row in stored.get("gates", [])] == gates
        for gate in gates:
            assert gate in printed
        sizes[tuple(gates)] = json.dumps(stored["results"])
    assert len(set(sizes.values())) == 1


def test_a_misspelt_gate_is_refused_before_anything_is_measured(tmp_path: Path, vectomy: Vectomy) -> None:
    place = places()
    command = ["evaluate", place["tiny"], place["edit"], "--prompts", f"night={place['night']}"]
    for gate, words in (("nigth<=0.5", "did you mean night?"), ("night", "night' cannot be read")):
        status, _, err = vectomy(*command, "--gate", gate, "--out", str(tmp_path / "out"))
        assert status == 2
        assert words in err
        assert not (tmp_path / "out" / "cache").exists()
