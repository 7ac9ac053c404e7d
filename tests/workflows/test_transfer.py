"""A search on quantised weights says what it ran on, and is measured in full precision too."""

import importlib.util
from pathlib import Path

import pytest
import tiny_chat
import tiny_style
from finished_run import finished_run
from trait_runs import trait

from vectomy.checkpoint import Checkpoint
from vectomy.core.jsonl import read_jsonl
from vectomy.core.results import FormMetrics
from vectomy.core.run_folder import read_json
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import make_trait_run
from vectomy.workflows.transfer import explain_transfer

TIER = "chat"
SHORT = {"device": "cpu", "answer_tokens": 8, "recipe": "gradient", "steps": 12}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the package bitsandbytes is not installed"
)


def metrics(count: int, kl: float) -> FormMetrics:
    return FormMetrics.from_json({"refusal_count": count, "refusal_total": 10, "kl_per_token": kl})


def test_the_note_says_what_was_measured_on_which_weights() -> None:
    base, forms = metrics(10, 0.0), {"hooks": metrics(1, 0.01), "baked": metrics(2, 0.02)}
    assert explain_transfer(None, base, forms) is None
    only = explain_transfer("4bit", base, forms) or ""
    assert "searched on weights in 4bit; base, hooks and baked were measured in it" in only
    assert "nothing in full precision" in only
    forms |= {"base_full": metrics(9, 0.0), "baked_full": metrics(3, 0.03)}
    both = explain_transfer("4bit", base, forms) or ""
    assert "(10/10 -> 2/10, KL 0.0200 nats a token)" in both
    assert "base_full and baked_full are the weights as they are stored (9/10 -> 3/10, KL 0.0300" in both
    # An induced trait changes the other side.
    induced = FormMetrics.from_json({"harmless_refusal_count": 7, "harmless_refusal_total": 8})
    plain = FormMetrics.from_json({"harmless_refusal_count": 0, "harmless_refusal_total": 8})
    assert "(0/8 -> 7/8)" in (
        explain_transfer(
            "4bit", plain, {"hooks": induced, "base_full": plain, "baked_full": induced}, "harmless_refusal"
        )
        or ""
    )
    # Nothing is written for what was not measured.
    assert "KL" not in (explain_transfer("8bit", base, {"hooks": FormMetrics()}) or "")


@needs_bitsandbytes
def test_a_run_in_8_bits_bakes_and_measures_in_full_precision(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = run(str(tiny_chat.folder()), out, **tiny_chat.sources(), **SHORT, load_in="8bit")
    plain = read_json(finished_run(**SHORT) / "summary.json")
    assert (summary["searched_on"], plain["searched_on"]) == ("8bit", "float32")
    assert summary["settings"]["load_in"] == "8bit"
    assert "load_in" not in plain["settings"]
    forms = summary["forms"]
    assert set(forms) == {"hooks", "baked", "base_full", "baked_full"}
    assert set(plain["forms"]) == {"hooks", "baked"}
    # In full precision the base is the base of a run that quantises nothing.
    full = {key: value for key, value in forms["base_full"].items() if key != "max_projection"}
    assert full == {key: value for key, value in plain["base"].items() if key != "max_projection"}
    assert summary["base"]["ce_own_answers"] != plain["base"]["ce_own_answers"]
    assert forms["base_full"]["refusal_rate"] == 1.0
    # Of ten. The dial takes the least strength that meets the target on the search prompts, here
    # 0.7, and one of these ten comes back; at strength 1 none did.
    assert max(forms[form]["refusal_rate"] for form in ("hooks", "baked", "baked_full")) <= 0.2
    assert 0 < forms["baked_full"]["kl_per_token"] < 0.05
    assert any("searched on weights in 8bit" in note for note in summary["notes"])
    rows = read_jsonl(out / "completions.jsonl")
    assert all({"base_full", "baked_full"} <= set(row) for row in rows)
    assert "base_full" in (out / "report.html").read_text(encoding="utf-8")
    baked, base = (Checkpoint.open(path) for path in (out / "checkpoint", tiny_chat.folder()))
    stored = {name: (entry.dtype, entry.shape) for name, entry in baked.tensors.items()}
    assert {name: stored[name] for name in base.tensors} == {
        name: (entry.dtype, entry.shape) for name, entry in base.tensors.items()
    }


@needs_bitsandbytes
def test_a_trait_that_was_learned_in_8_bits_is_induced_in_full_precision(tmp_path: Path) -> None:
    """It adds vectors as biases of layers that are packed while they are learned."""
    quick = {"n_fit": 48, "n_search": 12, "n_test": 24, "answer_tokens": 8, "device": "cpu", "steps": 60}
    config = make_trait_run(
        str(tiny_style.folder()), trait(operation="induce"), {**quick, "bake": True, "load_in": "8bit"}
    )
    summary = run(config, tmp_path / "run")
    shown = {form: metrics["harmless_refusal_count"] for form, metrics in summary["forms"].items()}
    assert (summary["searched_on"], summary["base"]["harmless_refusal_count"]) == ("8bit", 0)
    assert shown["base_full"] == 0
    assert min(shown["hooks"], shown["baked"], shown["baked_full"]) >= 12
    (note,) = [note for note in summary["notes"] if "searched on weights in 8bit" in note]
    assert f"0/24 -> {shown['baked']}/24" in note
    assert f"0/24 -> {shown['baked_full']}/24" in note
