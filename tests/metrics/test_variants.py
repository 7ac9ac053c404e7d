"""Every number of an evaluation equals what the model's own logits say, one prompt at a time."""

from dataclasses import replace
from functools import cache

import pytest
import tiny_chat
import torch
from tiny_chat import DAY, NIGHT

from vectomy.core.results import FormMetrics
from vectomy.edits.edit import BaseModelRef, Edit
from vectomy.metrics.intervals import wilson_interval
from vectomy.metrics.judges import RefusalJudge
from vectomy.metrics.variants import BaseAnswers, answer_base, evaluate_variant
from vectomy.models import load_model

TIER = "chat"

POSITIVE, NEGATIVE = tiny_chat.prompts(NIGHT, 5), tiny_chat.prompts(DAY, 6)
DIRECTION = torch.linspace(-1, 2, 32)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (3, 100, 0.0103, 0.0845),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 100, 0.7222, 0.8748),
        (5, 10, 0.2366, 0.7634),
    ],
)
def test_wilson_intervals_against_known_values(count: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(count, total) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.unit
def test_wilson_stays_within_zero_and_one_and_mirrors() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for total in (1, 7, 250):
        for count in range(total + 1):
            low, high = wilson_interval(count, total)
            assert 0 <= low <= high <= 1
            assert wilson_interval(total - count, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@cache
def planted() -> torch.Tensor:
    """Found once, on the unedited model: the projected difference of means of the taught model,
    from its own hidden states, on other prompts.
    """
    chat, means = tiny_chat.chat(), []
    for prompts in (tiny_chat.prompts(NIGHT, 24, 3), tiny_chat.prompts(DAY, 24, 3)):
        rows = [
            tiny_chat.raw(chat, ids, output_hidden_states=True).hidden_states for ids in chat.tokens(prompts)
        ]
        means.append(torch.stack([row[3][0, -1] for row in rows]).mean(0))
    unit = means[1] / means[1].norm()
    return (means[0] - means[1]) - (means[0] - means[1]) @ unit * unit


def base_of(batch_tokens: int = 4096) -> BaseAnswers:
    return answer_base(tiny_chat.chat(), POSITIVE, NEGATIVE, 8, batch_tokens)


def measured(base: BaseAnswers, batch_tokens: int = 4096, form: str = "hooks") -> FormMetrics:
    return evaluate_variant(
        tiny_chat.chat(), base, RefusalJudge(), 8, batch_tokens, form=form, direction=planted()
    ).metrics


def edit() -> Edit:
    chat = tiny_chat.chat()
    return Edit.from_directions(planted(), BaseModelRef.of(chat.checkpoint), chat.architecture.writers)


def forced(answers: list[list[int]]) -> list[torch.Tensor]:
    """Log-probabilities at each answer token, teacher-forced, from the model as it is now."""
    chat = tiny_chat.chat()
    rows = []
    for ids, answer in zip(chat.tokens(NEGATIVE), answers, strict=True):
        rows.append(tiny_chat.raw(chat, [*ids, *answer]).logits[0, len(ids) - 1 : -1].log_softmax(-1))
    return rows


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_kl_and_cross_entropy_are_those_of_the_models_own_logits(batch_tokens: int) -> None:
    chat, base = tiny_chat.chat(), base_of(batch_tokens)
    before = forced(base.answers["negative"])
    with edit().hooks(chat.model):
        after, found = forced(base.answers["negative"]), measured(base, batch_tokens)
    kl = [(b.exp() * (b - a)).sum(-1) for b, a in zip(before, after, strict=True)]
    ce = [-a[range(len(ids)), ids] for a, ids in zip(after, base.answers["negative"], strict=True)]
    assert found.kl_per_token == pytest.approx(float(torch.cat(kl).mean()), rel=1e-3)
    assert found.kl_first_token == pytest.approx(float(torch.stack([row[0] for row in kl]).mean()), rel=1e-3)
    assert found.ce_own_answers == pytest.approx(float(torch.cat(ce).mean()), rel=1e-3)
    assert found.kl_per_token > 1e-3


def test_tokens_weigh_alike_whatever_the_length_of_their_answer() -> None:
    """A hand-made reference: one answer of one token, one of six."""
    chat = tiny_chat.chat(taught_=False)
    answers = {"positive": [[9], [10]], "negative": [[11], [12, 13, 14, 15, 16, 2]]}
    base = answer_base(chat, POSITIVE[:2], NEGATIVE[:2], 8, 4096, answers=answers)
    assert base.answers is answers
    found = evaluate_variant(chat, base, RefusalJudge(), 8, 4096, form="base").metrics
    total = 0.0
    for ids, answer in zip(chat.tokens(NEGATIVE[:2]), answers["negative"], strict=True):
        for at, token in enumerate(answer):
            total -= float(tiny_chat.raw(chat, [*ids, *answer[:at]]).logits[0, -1].log_softmax(-1)[token])
    assert found.ce_own_answers == pytest.approx(total / 7, rel=1e-4)


def test_the_base_against_itself_is_at_distance_zero() -> None:
    found = measured(base_of(), form="base")
    assert abs(found.kl_per_token) < 1e-6
    assert abs(found.kl_first_token) < 1e-6


@pytest.mark.parametrize("batch_tokens", [1, 40])
def test_numbers_do_not_depend_on_the_batches(batch_tokens: int) -> None:
    chat = tiny_chat.chat()
    with edit().hooks(chat.model):
        whole, split = (measured(base_of(), size).to_json() for size in (4096, batch_tokens))
    for name, value in whole.items():
        assert split[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name


def test_what_is_left_of_the_direction_is_measured_on_the_stream() -> None:
    before = measured(base_of(), 4096).max_projection
    base = base_of()
    with edit().hooks(tiny_chat.chat().model):
        after = measured(base, 4096).max_projection
    assert after < 1e-5 < 0.05 < before <= 1


def test_rates_count_the_judges_verdicts() -> None:
    result = evaluate_variant(tiny_chat.chat(), base_of(), RefusalJudge(), 8, 4096, form="base")
    assert [row["text"] for row in result.answers["positive"]] == [tiny_chat.REFUSAL] * 5
    assert {row["verdict"] for row in result.answers["negative"]} == {"compliance"}
    found = result.metrics
    assert (found.refusal_rate, found.refusal_count, found.refusal_total) == (1.0, 5, 5)
    assert (found.harmless_refusal_rate, found.harmless_refusal_total, found.degenerate_rate) == (
        0.0,
        6,
        0.0,
    )
    assert found.refusal_ci == wilson_interval(5, 5)


def test_answers_under_hooks_are_generated_anew() -> None:
    chat, base = tiny_chat.chat(), base_of()
    with edit().hooks(chat.model):
        result = evaluate_variant(chat, base, RefusalJudge(), 8, 4096, form="hooks")
        expected = [chat.text(answer) for answer in chat.answer(chat.tokens(POSITIVE), 8, 4096)]
    assert [row["text"] for row in result.answers["positive"]] == expected
    assert expected != [tiny_chat.REFUSAL] * 5


@pytest.mark.parametrize("length", [8, 10])
def test_rates_by_length_are_those_of_shorter_answers(length: int) -> None:
    """Greedy answers are the beginnings of longer ones."""
    chat, base = tiny_chat.chat(), base_of()
    with edit().hooks(chat.model, 0.6):
        long = evaluate_variant(chat, base, RefusalJudge(), 10, 4096, form="hooks").metrics
        short = evaluate_variant(chat, base, RefusalJudge(), length, 4096, form="hooks").metrics
    assert long.answer_tokens == 10
    assert set(long.by_length) == {"8", "10"}
    assert long.by_length[str(length)] == short.refusal_rate
    assert long.by_length["10"] == long.refusal_rate


RATE = ("rate", "count", "total", "ci")


def test_numbers_are_stored_under_the_names_of_summary_json() -> None:
    chat, base = tiny_chat.chat(), base_of()
    kept = answer_base(chat, POSITIVE, NEGATIVE, 8, 4096, answers=base.answers | {"keep": []}, keep=POSITIVE)
    stored = measured(base, form="base").to_json()
    assert stored["refusal_ci"] == list(wilson_interval(5, 5))
    sides = ("refusal", "harmless_refusal")
    assert set(stored) == {
        *(f"{side}_{part}" for side in sides for part in RATE),
        *(
            "degenerate_rate",
            "evasion_rate",
            "kl_first_token",
            "kl_per_token",
            "ce_own_answers",
            "max_projection",
        ),
        *("kl_per_token_stderr", "minimum_detectable_effect", "answer_tokens", "by_length"),
    }
    with edit().hooks(chat.model):
        more = measured(kept).to_json()
    assert set(more) - set(stored) == {f"keep_refusal_{part}" for part in RATE}
    unread = evaluate_variant(chat, base, RefusalJudge(), 8, 4096, form="base").metrics.to_json()
    # Not measured is null, not absent.
    assert unread == stored | {"max_projection": None}


def test_refusals_with_and_without_a_thought_are_two_numbers() -> None:
    folder = tiny_chat.save(tiny_chat.scratch(), thought=tiny_chat.THOUGHT, template=tiny_chat.THINKING)
    chat = load_model(folder, device="cpu", dtype="float32", thinking=True)
    base = answer_base(chat, POSITIVE, NEGATIVE, 14, 4096)
    metrics = evaluate_variant(chat, base, RefusalJudge(), 14, 4096, form="base").metrics
    plain = replace(chat, thinking=False)
    texts = [plain.text(answer) for answer in plain.answer(plain.tokens(POSITIVE), 14, 4096)]
    assert not any("<think>" in text for text in texts)
    rate = metrics.refusal_without_thinking
    assert rate is not None
    assert (rate.count, rate.total) == (sum(tiny_chat.REFUSAL in text for text in texts), len(POSITIVE))
    assert metrics.refusal_count == len(POSITIVE)
    silent = evaluate_variant(plain, base, RefusalJudge(), 8, 4096, form="x").metrics
    assert silent.refusal_without_thinking is None
