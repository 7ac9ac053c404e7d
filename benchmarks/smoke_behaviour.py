"""The sections of gpu_smoke.py that ask whether a card is right, on a model of known behaviour."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
import tiny_chat
from smoke_rows import Figures, Smoke

from vectomy import evaluate_models, load_model, run
from vectomy.core.progress import silent
from vectomy.edits.operation import BaseModelRef
from vectomy.search.distill.closed_forms import learnables
from vectomy.search.distill.distill_examples import DistillExample, mean_streams, pair_examples
from vectomy.search.distill.distillation import learn_edit


def behaviour(smoke: Smoke, recipe: str) -> Figures:
    """A recipe on the card in bfloat16 and on the CPU in float32: the same refusals."""
    rates = {}
    for device, dtype in ((smoke.device, "bfloat16"), ("cpu", "float32")):
        out = smoke.folder / f"{recipe}-{device}-{dtype}"
        more = {"steps": 24} if recipe == "gradient" else {}
        run(
            str(tiny_chat.folder()),
            out,
            **tiny_chat.sources(),
            device=device,
            dtype=dtype,
            recipe=recipe,
            answer_tokens=8,
            n_search=12,
            n_test=12,
            force=True,
            **more,
        )
        results = json.loads((out / "evaluation.json").read_text())
        rates[f"{device} {dtype}"] = {name: model["refusal_rate"] for name, model in results.items()}
    card, cpu = rates.values()
    assert recipe == "article" or abs(card["baked"] - cpu["baked"]) <= 0.25, rates
    assert abs(card["hooks"] - card["baked"]) <= 0.1, rates
    return {"refusals": rates}


def traits(smoke: Smoke) -> None:
    """An Edit learned on the card, a trait added and a trait removed."""
    chat = load_model(tiny_chat.folder(), device=smoke.device, dtype="float32")
    day, night = tiny_chat.prompts(tiny_chat.DAY, 12), tiny_chat.prompts(tiny_chat.NIGHT, 12)
    day_ids, night_ids = chat.tokens(day), chat.tokens(night)
    day_answers, night_answers = chat.answer(day_ids, 6, 4096), chat.answer(night_ids, 6, 4096)
    means = (mean_streams(chat, day, day_answers, 4096), mean_streams(chat, night, night_answers, 4096))
    examples = [
        DistillExample(source, [(prompt, answer, 0)])
        for source, prompt, answer in zip(day_ids, night_ids, night_answers, strict=True)
    ]
    change = pair_examples(chat, examples, 4096, silent)
    base = BaseModelRef.of(chat.checkpoint, "tiny")
    for what in ("induce", "remove"):
        parameters = learnables(what, list(chat.architecture.writers), means)
        learn_edit(chat, base, parameters, change, [], steps=2, seed=0, progress=silent)


def evaluate(smoke: Smoke) -> Figures:
    """The base, an Edit at two strengths and the baked checkpoint, in one evaluation."""
    folder = smoke.folder / f"gradient-{smoke.device}-bfloat16"
    sources = tiny_chat.sources()
    result = evaluate_models(
        [str(tiny_chat.folder()), f"{folder}@0.5,1", str(folder / "checkpoint")],
        smoke.folder / "evaluated",
        prompts=("p=" + sources["positive"], "n=" + sources["negative"]),
        answer_tokens=8,
        limit=12,
        device=smoke.device,
        dtype="bfloat16",
        tool_calls=False,
    )
    return {name: row["sets"]["p"]["refusal"]["rate"] for name, row in result["results"].items()}
