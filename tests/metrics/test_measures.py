"""Each measure of `vectomy evaluate` against a direct computation or a value worked out by hand."""

import json
import math
from pathlib import Path

import pytest
import tiny_chat
import torch
from tiny import orthonormal, unit
from tiny_chat import DAY, NIGHT

from vectomy.core.cache import Cache
from vectomy.core.errors import EditError, PromptError
from vectomy.data.prompts import Labelled, Prompt, Turn
from vectomy.edits.controls import random_control
from vectomy.edits.edit import BaseModelRef, Edit, Operation
from vectomy.metrics.behaviour import behaviour_of, lengths, types_of
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import rate_of, share_of, share_of_most, wilson_interval
from vectomy.metrics.judges import RefusalJudge
from vectomy.metrics.mcnemar import mcnemar
from vectomy.metrics.perplexity import perplexity, windows
from vectomy.metrics.prompt_set import read_sets, sample
from vectomy.metrics.surroundings import EXCHANGE, after_an_exchange, behind_text, filler
from vectomy.metrics.tool_calls import fits, tool_prompts, valid_call
from vectomy.metrics.verdicts import JudgedAnswers, judge_all

TIER = "unit"


def flags(*counts: int) -> tuple[list[bool], list[bool]]:
    """(before, after) of prompts in the order yes-yes, lost, gained, no-no."""
    both, lost, gained, neither = counts
    before = [True] * both + [True] * lost + [False] * gained + [False] * neither
    return before, [True] * both + [False] * lost + [True] * gained + [False] * neither


@pytest.mark.parametrize(
    ("counts", "p"),
    [
        ((3, 0, 0, 3), 1.0),
        ((0, 1, 0, 5), 1.0),
        ((0, 6, 0, 0), 2 / 64),
        ((2, 0, 6, 1), 2 / 64),
        # k = 1 of 6: 2 (1 + 6) / 64.
        ((0, 5, 1, 0), 14 / 64),
        ((4, 3, 3, 4), 1.0),
        # k = 2 of 10: 2 (1 + 10 + 45) / 1024.
        ((9, 8, 2, 9), 112 / 1024),
    ],
)
def test_mcnemar_against_values_by_hand(counts: tuple[int, ...], p: float) -> None:
    found = mcnemar(*flags(*counts))
    assert found == {"lost": counts[1], "gained": counts[2], "p": pytest.approx(p, rel=1e-12)}


def test_mcnemar_of_very_many_prompts_is_finite_and_does_not_care_for_the_side() -> None:
    one, other = mcnemar(*flags(0, 1400, 1300, 0)), mcnemar(*flags(0, 1300, 1400, 0))
    assert one["p"] == other["p"]
    # The normal approximation with its continuity correction, good to three digits at this size.
    assert one["p"] == pytest.approx(math.erfc((100 - 1) / math.sqrt(2700) / math.sqrt(2)), rel=1e-2)
    assert mcnemar(*flags(0, 5000, 0, 0))["p"] < 1e-300


def test_rates_have_their_interval_and_nothing_has_no_rate() -> None:
    assert rate_of([True, False, False, True]) == {
        "count": 2,
        "total": 4,
        "rate": 0.5,
        "ci": list(wilson_interval(2, 4)),
    }
    assert rate_of([]) == {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0]}


def test_verdicts_are_counted_by_label_type_and_budget() -> None:
    kinds = [("pun", "safe"), ("pun", "safe"), ("plain", "unsafe"), (None, None)]
    rows = [Labelled(Prompt(str(at)), *kind) for at, kind in enumerate(kinds)]
    short = [JudgedAnswers("compliance")] * 4
    long = [
        JudgedAnswers("full_refusal"),
        JudgedAnswers("compliance"),
        JudgedAnswers("partial_refusal"),
        JudgedAnswers("degenerate"),
    ]
    found = behaviour_of(rows, {64: long, 8: short})
    assert found["verdicts"] == {
        "compliance": 1,
        "partial_refusal": 1,
        "full_refusal": 1,
        "degenerate": 1,
        "not_judged": 0,
    }
    assert (found["refusal"]["count"], found["degenerate"]["count"]) == (2, 1)
    assert found["by_label"] == {
        "safe": {"refusal": rate_of([True, False])},
        "unsafe": {"refusal": rate_of([True])},
    }
    assert found["by_type"]["pun"] == {"label": "safe", "refusal": rate_of([True, False])}
    assert list(found["by_budget"]) == ["8", "64"]
    assert found["by_budget"]["8"]["refusal"]["count"] == 0
    assert found["by_budget"]["64"]["degenerate"] == rate_of([False, False, False, True])
    assert types_of(rows) == [
        {"name": "pun", "label": "safe", "count": 2},
        {"name": "plain", "label": "unsafe", "count": 1},
    ]


def test_what_is_not_judged_is_in_no_rate_and_no_pair() -> None:
    """Answers without a verdict change no other number than their own."""
    judged = [JudgedAnswers("full_refusal"), JudgedAnswers("compliance"), JudgedAnswers("degenerate")]
    rows = [Labelled(Prompt(str(at)), "pun", "safe") for at in range(5)]
    found = behaviour_of(rows, {8: [*judged, JudgedAnswers("not_judged"), JudgedAnswers("not_judged")]})
    alone = behaviour_of(rows[:3], {8: judged})
    assert found["verdicts"] == {**alone["verdicts"], "not_judged": 2}
    for name in ("refusal", "degenerate"):
        assert found[name] == {**alone[name], "not_judged": 2}
        assert found["by_budget"]["8"][name] == {**alone[name], "not_judged": 2}
    assert found["by_type"]["pun"]["refusal"] == {**alone["refusal"], "not_judged": 2}
    assert rate_of([None]) == {"count": 0, "total": 0, "rate": None, "ci": [0.0, 1.0], "not_judged": 1}
    assert share_of([None, True, False, None]) == 0.5
    assert share_of([None]) is None
    assert share_of_most([True, None]) == 1.0
    assert share_of_most([True, None, None]) is None
    before, after = flags(2, 6, 1, 3)
    assert mcnemar([*before, None, True, None], [*after, True, None, None]) == mcnemar(before, after)


def test_lengths_and_repetition() -> None:
    found = lengths([[1, 2, 3], [4]], ["a b c d a b c d", "one two"])
    # Five runs of four words, one of which stood before.
    assert found == {"length_mean": 2.0, "repeated_share": pytest.approx(0.1)}


def test_verdicts_are_the_judges_own() -> None:
    judge, texts = RefusalJudge(), [tiny_chat.REFUSAL, "sure", ""]
    found = judge_all(judge, [Prompt("x"), Prompt("y"), Prompt("z")], texts)
    assert [one.verdict for one in found] == ["full_refusal", "compliance", "degenerate"]
    assert [one.refuses for one in found] == [True, False, False]
    assert [one.p_refusal for one in found] == [
        said.p_refusal for said in judge.judged(["x", "y", "z"], texts)
    ]
    refused, complied, _ = (one.p_refusal for one in found)
    assert refused is not None
    assert complied is not None
    assert refused > 0.5 > complied


# Damage between two models that are not hooks on one another


@pytest.mark.chat
def test_damage_of_another_checkpoint_reads_each_models_own_head() -> None:
    base, other = tiny_chat.chat(), tiny_chat.chat(taught_=False)
    prompts, answers = tiny_chat.prompts(DAY, 3), [[9, 12], [10], [11, 13, 2]]
    states = [answer_hidden(chat, prompts, answers, 40) for chat in (base, other)]
    found = divergence(base, other, states[0], states[1], answers)
    kl, first, ce = [], [], []
    for ids, answer in zip(base.tokens(prompts), answers, strict=True):
        p, q = (
            tiny_chat.raw(chat, [*ids, *answer]).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            for chat in (base, other)
        )
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        first.append(kl[-len(answer)])
        ce += [-float(q[at, token]) for at, token in enumerate(answer)]
    assert found["kl_per_token"] == pytest.approx(sum(kl) / 6, rel=1e-4)
    assert found["kl_first_token"] == pytest.approx(sum(first) / 3, rel=1e-4)
    assert found["ce_own_answers"] == pytest.approx(sum(ce) / 6, rel=1e-4)
    assert found["kl_per_token"] > 0.1


# Perplexity


@pytest.mark.parametrize(("count", "width"), [(2, 8), (8, 8), (9, 8), (23, 8), (24, 6), (5, 2), (4, 3)])
def test_windows_predict_every_token_but_the_first_once(count: int, width: int) -> None:
    found = windows(count, width)
    assert [token for _, end, first in found for token in range(first, end)] == list(range(1, count))
    for start, end, first in found:
        assert end - start <= width
        assert start < first < end or first == end == 1
        # Half a window of context, as far as the text has it.
        assert first - start >= min(first, width - width // 2)


TEXT = " ".join(tiny_chat.texts(NIGHT)[:9])


@pytest.mark.chat
@pytest.mark.parametrize("batch_tokens", [1, 16, 4096])
def test_perplexity_is_that_of_the_models_own_logits(batch_tokens: int) -> None:
    chat = tiny_chat.chat()
    ids = chat.tokenizer(TEXT)["input_ids"][:30]
    assert len(ids) == 30
    total = 0.0
    for start, end, first in windows(30, 8):
        log_probs = tiny_chat.raw(chat, ids[start:end]).logits[0].log_softmax(-1)
        total -= sum(float(log_probs[at - start - 1, ids[at]]) for at in range(first, end))
    found = perplexity(chat, TEXT, 30, batch_tokens, width=8)
    assert found["tokens"] == 29
    assert found["nats_per_token"] == pytest.approx(total / 29, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(total / 29), rel=1e-4)


@pytest.mark.chat
def test_perplexity_in_one_window_is_the_plain_mean() -> None:
    chat = tiny_chat.chat()
    ids = chat.tokenizer(TEXT)["input_ids"][:20]
    log_probs = tiny_chat.raw(chat, ids).logits[0, :-1].log_softmax(-1)
    expected = -float(log_probs[range(19), ids[1:]].mean())
    assert perplexity(chat, TEXT, 20, 4096)["nats_per_token"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.chat
def test_a_text_of_one_token_is_refused() -> None:
    with pytest.raises(PromptError, match="1 tokens predicts nothing"):
        perplexity(tiny_chat.chat(), "owl", 8, 64)


# Controls


def operations(edit: Edit) -> list[Operation]:
    return list(edit.operations)


@pytest.mark.chat
def test_a_random_control_keeps_all_but_where_the_directions_point() -> None:
    chat = tiny_chat.chat()
    base, writers = BaseModelRef.of(chat.checkpoint), list(chat.architecture.writers)
    shared = Edit.from_directions(orthonormal(2), base, writers[:4], 0.7).operations
    # Directions of other layers at an angle to the shared ones, and an addition.
    own = Edit.from_directions(unit(0) + 0.5 * unit(9), base, writers[4:6], 1.5, "column").operations
    plain = Operation(
        writers[6].component, writers[6].layer, unit(3)[None], torch.tensor([0.2]), addition=2 * unit(5)
    )
    edit = Edit(base, (*shared, *own, plain))
    drawn = random_control(edit, 3)
    pairs = list(zip(edit.operations, drawn.operations, strict=True))
    for old, new in pairs:
        assert (old.sort_key, old.norm, old.strengths.tolist()) == (
            new.sort_key,
            new.norm,
            new.strengths.tolist(),
        )
        assert torch.allclose(new.basis @ new.basis.T, torch.eye(len(new.basis)), atol=1e-5)
    angles = [torch.cat([op.basis for op in one.operations]) for one in (edit, drawn)]
    assert torch.allclose(angles[0] @ angles[0].T, angles[1] @ angles[1].T, atol=1e-5)
    added = next(op for op in drawn.operations if op.addition is not None)
    assert added.addition is not None
    assert float(added.addition.norm()) == pytest.approx(2.0, rel=1e-5)
    # Elsewhere: in 32 dimensions two random planes are not the same.
    assert float((drawn.operations[0].basis @ edit.operations[0].basis.T).abs().max()) < 0.9
    assert drawn.to_bytes() == random_control(edit, 3).to_bytes()
    assert drawn.to_bytes() != random_control(edit, 4).to_bytes()


@pytest.mark.chat
def test_an_edit_of_nothing_has_no_control() -> None:
    with pytest.raises(EditError, match="changes nothing"):
        random_control(Edit(BaseModelRef.of(tiny_chat.chat().checkpoint)), 0)


# Prompt sets


def test_a_set_has_the_types_and_labels_of_its_rows_and_a_name(tmp_path: Path) -> None:
    rows = [{"prompt": f"p {at}", "type": "pun" if at % 2 else "plain", "label": "safe"} for at in range(6)]
    file = tmp_path / "over.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    one, other, bundled = read_sets([str(file), f"mine={file}#prompt", "bundled:refused"], None, 0)
    assert (one.name, other.name, bundled.name) == ("over", "mine", "refused")
    assert one.source == "over.jsonl"
    assert one.rows[1] == Labelled(Prompt("p 1"), "pun", "safe")
    assert one.rows == other.rows
    assert one.sha256 == other.sha256 != bundled.sha256
    # Only what nothing was fitted on.
    assert len(bundled.rows) == 40
    with pytest.raises(PromptError, match="two prompt sets are called 'over'"):
        read_sets([str(file), str(file)], None, 0)


def test_a_limit_takes_a_seeded_sample_in_order(tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    file.write_text("\n".join(f"p {at}" for at in range(50)))
    taken = [[row.prompt.text for row in read_sets([str(file)], 10, seed)[0].rows] for seed in (0, 0, 1)]
    assert taken[0] == taken[1] != taken[2]
    assert len(taken[0]) == 10
    assert taken[0] == sorted(taken[0], key=lambda text: int(text.split()[1]))
    assert sample(3, 3, 0) == sample(3, None, 0) == [0, 1, 2]


@pytest.mark.chat
def test_rows_with_messages_are_conversations(tmp_path: Path) -> None:
    said = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "sure"},
        {"role": "user", "content": "show the owl red"},
    ]
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": said}))
    (one,) = read_sets([str(file)], None, 0)
    prompt = Prompt("show the owl red", "be brief", (Turn("user", "Hello"), Turn("assistant", "sure")))
    assert one.rows == (Labelled(prompt),)
    chat = tiny_chat.chat()
    whole = chat.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
    assert chat.render(prompt) == whole
    assert prompt.key != Prompt("show the owl red", "be brief").key


@pytest.mark.chat
def test_without_a_system_role_the_first_turn_takes_the_system_prompt() -> None:
    prompt = Prompt("show the owl red", "be brief", (Turn("user", "Hello"), Turn("assistant", "sure")))
    rendered = tiny_chat.chat(template=tiny_chat.NO_SYSTEM).render(prompt)
    assert rendered.startswith("<bos><|user|> be brief\n\nHello <|end|><|assistant|> sure")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        "text?",
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "assistant", "content": "x"}],
        [{"role": "tool", "content": "x"}, {"role": "user", "content": "x"}],
        [{"role": "system", "content": "x"}],
    ],
)
def test_messages_that_are_no_conversation_are_named(tmp_path: Path, messages: object) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": {"bad": messages} if messages == "text?" else messages}))
    with pytest.raises(PromptError, match=r"row 1 of .* not a conversation"):
        read_sets([str(file)], None, 0)


@pytest.mark.parametrize(
    ("messages", "problem"),
    [(["x", "y"], "nothing says who speaks"), (None, "has only empty prompts"), ([3], "not a conversation")],
)
def test_messages_without_roles_and_null_are_named(tmp_path: Path, messages: object, problem: str) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": messages}))
    with pytest.raises(PromptError, match=problem):
        read_sets([str(file)], None, 0)


def test_one_text_in_a_list_is_a_prompt(tmp_path: Path) -> None:
    # The `turns` of MT-bench: one speaker, so nothing is unclear.
    file = tmp_path / "talk.jsonl"
    file.write_text(json.dumps({"messages": ["x"]}))
    (prompts,) = read_sets([str(file)], None, 0)
    assert [prompt.text for prompt in prompts.prompts] == ["x"]


# Other surroundings


@pytest.mark.chat
def test_an_earlier_exchange_stands_before_the_prompt() -> None:
    prompt = after_an_exchange(Prompt("show the owl red", None, (Turn("user", "x"), Turn("assistant", "be"))))
    assert prompt.text == "show the owl red"
    assert prompt.history[:2] == EXCHANGE
    rendered = tiny_chat.chat().render(prompt)
    assert rendered.index("basil") < rendered.index("<|user|> x") < rendered.index("show the owl red")


@pytest.mark.chat
def test_filler_has_the_asked_length_and_does_not_repeat() -> None:
    chat = tiny_chat.chat()
    short, long = (behind_text(chat, tiny_chat.prompts(NIGHT, 2), tokens, room=0) for tokens in (8, 24))
    bare = len(chat.tokens(behind_text(chat, [Prompt("x")], 1, 0))[0])
    for made, tokens in ((short, 8), (long, 24)):
        assert all(
            one.text.endswith(prompt.text)
            for one, prompt in zip(made, tiny_chat.prompts(NIGHT, 2), strict=True)
        )
        # The first sentence is in `bare` too; the last one may go over by its own length.
        grown = len(chat.tokens([made[0]])[0]) - bare
        assert tokens - 16 <= grown <= tokens + 16
    sentences = filler()
    seen = [next(sentences).partition(": ")[2] for _ in range(3000)]
    assert len(set(seen)) == 3000


@pytest.mark.chat
def test_a_context_longer_than_the_model_is_refused() -> None:
    for tokens, room in ((64, 0), (1 << 60, 1), (20, 60)):
        with pytest.raises(PromptError, match="the 64 positions of tiny; lower --context-tokens"):
            behind_text(tiny_chat.chat(), [Prompt("x")], tokens, room)


# Tool calls

TOOL = next(one.tool for one in tool_prompts() if one.tool["name"] == "find_trains")
GOOD = {"origin": "Lyon", "destination": "Geneva", "date": "3 June", "passengers": 2}


def call(arguments: object, name: str = "find_trains") -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "<tool_call>{}</tool_call>", "Sure: {} There."])
def test_a_call_that_fits_is_valid_whatever_stands_around_it(around: str) -> None:
    assert valid_call(around.replace("{}", call(GOOD)), TOOL)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't help with that",
        "{",
        call(GOOD)[:-1],
        call(GOOD, "find_planes"),
        call(None),
        "[1]",
        '{"name": "find_trains"}',
        call({**GOOD, "passengers": "2"}),
        call({**GOOD, "passengers": True}),
        call({**GOOD, "passengers": 2.5}),
        call({**GOOD, "colour": "red"}),
        call({key: GOOD[key] for key in ("origin", "date")}),
        '{"a": 1} ' + call(GOOD),
    ],
)
def test_what_does_not_parse_or_fit_is_not_valid(text: str) -> None:
    assert not valid_call(text, TOOL)


def test_the_schema_subset() -> None:
    assert fits(["a"], {"type": "array", "items": {"type": "string"}})
    assert not fits(["a", 1], {"type": "array", "items": {"type": "string"}})
    assert fits("a", {"type": "string", "enum": ["a", "b"]})
    assert not fits("c", {"type": "string", "enum": ["a", "b"]})
    assert fits(1, {"type": "number"})
    assert fits(True, {"type": "boolean"})
    assert not fits(1, {"type": "boolean"})
    assert not fits(float("nan"), {"type": "integer"})


def test_bundled_tools_describe_themselves() -> None:
    asked = tool_prompts()
    assert len(asked) == 12
    for one in asked:
        parameters = one.tool["parameters"]
        assert set(parameters["required"]) <= set(parameters["properties"])
        assert one.tool["name"] in (one.prompt.system or "")
        assert not fits({}, parameters)


# The cache


def test_a_value_is_made_once_for_its_inputs(tmp_path: Path) -> None:
    made = []
    cache = Cache(tmp_path / "cache")

    def work() -> list[int]:
        made.append(1)
        return [len(made)]

    inputs = {"kind": "answers", "subject": "a"}
    assert inputs not in cache
    assert [cache.get_or_compute(inputs, work) for _ in range(2)] == [[1], [1]]
    assert Cache(tmp_path / "cache").get_or_compute(inputs, work) == [1]
    assert inputs in cache
    assert cache.get_or_compute({"kind": "answers", "subject": "b"}, work) == [2]
    assert len(list((tmp_path / "cache").iterdir())) == 2
