"""Packed passes give what ordinary rows give, a pass that goes on at a layer what a whole one
gives, where the model allows.
"""

import random
from dataclasses import replace

import pytest
import tiny_chat
import torch
from tiny import random_model
from tiny_chat import DAY, NIGHT

from vectomy.hooks.capture import capture
from vectomy.models import Example, pack_examples, packs_exactly, resume_at, resumes_exactly
from vectomy.models.teacher_forcing import _agree

TIER = "chat"

PROMPTS = tiny_chat.prompts(NIGHT, 5) + tiny_chat.prompts(DAY, 4)


@pytest.fixture(scope="module", autouse=True)
def _taught() -> None:
    """Outside of inference mode, for it is taught by gradients."""
    tiny_chat.chat()


def examples(seed: int = 0) -> list[Example]:
    chat, chance = tiny_chat.chat(), random.Random(seed)

    def answer() -> list[int]:
        return [chance.randrange(chat.architecture.vocab) for _ in range(chance.randint(1, 7))]

    return [
        Example(row, ids, [answer() for _ in range(chance.randint(1, 3))])
        for row, ids in enumerate(chat.tokens(PROMPTS))
    ]


def alone(example: Example) -> list[torch.Tensor]:
    """The states that predict each answer's tokens, by a plain forward pass a text."""
    chat, found = tiny_chat.chat(), []
    for answer in example.answers:
        ids = torch.tensor([[*example.prompt, *answer]])
        states = chat.model.base_model(input_ids=ids).last_hidden_state[0]
        found.append(states[len(example.prompt) - 1 : -1])
    return found


@torch.inference_mode()
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("budget", "count"), [(10_000, None), (40, None), (10_000, 2), (1, None)])
def test_every_label_is_predicted_by_the_state_of_a_plain_pass(
    packed: bool, budget: int, count: int | None
) -> None:
    chat, given = tiny_chat.chat(), examples()
    passes = pack_examples(chat, given, budget, count, packed=packed)
    seen = []
    for one in passes:
        states = one.predicting(chat.hidden(one))
        for number, (row, which) in enumerate(zip(one.rows, one.which, strict=True)):
            own = one.answer == number
            example = given[row]
            assert one.labels[own].tolist() == list(example.answers[which])
            assert int(one.answer[one.first[number]]) == number
            torch.testing.assert_close(states[own], alone(example)[which], rtol=1e-4, atol=1e-5)
            seen.append((row, which))
        assert count is None or len(set(one.rows)) <= count
        assert one.tokens <= budget or len(set(one.rows)) == 1
    assert sorted(seen) == [
        (row, which) for row, example in enumerate(given) for which in range(len(example.answers))
    ]


def test_a_pack_holds_the_shared_beginning_once() -> None:
    chat, given = tiny_chat.chat(), examples()
    shared = 0
    while len({tuple(example.prompt[: shared + 1]) for example in given}) == 1:
        shared += 1
    (one,) = pack_examples(chat, given, 10_000)
    own = sum(len(e.prompt) - shared + sum(len(a) - 1 for a in e.answers) for e in given)
    assert shared > 0
    assert one.tokens == shared + own


def test_no_examples_are_no_passes() -> None:
    assert pack_examples(tiny_chat.chat(), [], 100) == []


def test_packing_is_found_exact_where_it_is_and_not_where_rows_would_mix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = tiny_chat.chat()
    assert packs_exactly(chat, examples())
    # A layer that carries a state along the row, as a recurrent one does.
    norm = chat.model.get_submodule(chat.architecture.block(1))
    handle = norm.register_forward_hook(lambda _m, _a, output: output + 0.1 * output.cumsum(1))
    try:
        assert not packs_exactly(chat, examples())
    finally:
        handle.remove()
    assert packs_exactly(chat, examples())


def test_a_long_prompt_shows_that_packs_leave_out_the_sliding_window() -> None:
    """Prompts that the window holds pack exactly; one that it does not is among the tried ones,
    wherever it stands.
    """
    window = 24
    model = random_model("mistral", sliding_window=window, vocab_size=len(tiny_chat.VOCABULARY))
    chat = replace(tiny_chat.chat(), model=model)
    chance = random.Random(0)
    short = [Example(row, [1, *(chance.randrange(9, 30) for _ in range(8))], [[4, 5, 6]]) for row in range(6)]
    long = Example(6, [1, *(chance.randrange(9, 30) for _ in range(2 * window))], [[4, 5, 6]])
    assert packs_exactly(chat, short)
    assert not packs_exactly(chat, [*short, long])
    assert not packs_exactly(chat, [*short[:3], long, *short[3:]])


def test_rounding_of_deep_models_is_no_mixing_of_rows() -> None:
    """Many blocks in bfloat16 round every state a little; a state that is another one is no
    rounding, even where it is one of hundreds.
    """
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(500, 64, generator=generator).to(torch.bfloat16)
    rounded = states + 0.04 * torch.randn(500, 64, generator=generator).to(torch.bfloat16)
    assert _agree(rounded, states)
    mixed = states.clone()
    mixed[7] = states[8]
    assert not _agree(mixed, states)
    assert not _agree(torch.full_like(states, torch.nan), states)


@torch.inference_mode()
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_pass_that_goes_on_at_a_layer_is_the_whole_pass(layer: int) -> None:
    chat = tiny_chat.chat()
    (one,) = pack_examples(chat, examples(), 10_000)
    assert resumes_exactly(chat, layer, one)
    with capture(chat.model, ["resid_pre"], layers=[layer]) as stream:
        whole = chat.hidden(one)
    given = stream["resid_pre", layer]
    ran = []
    blocks = [
        chat.model.get_submodule(f"{chat.architecture.block(at)}.mlp")
        for at in range(chat.architecture.n_layers)
    ]
    handles = [
        block.register_forward_hook(lambda _m, _a, _o, at=at: ran.append(at))
        for at, block in enumerate(blocks)
    ]
    with resume_at(chat, layer) as start:
        start.append(given)
        torch.testing.assert_close(chat.hidden(one), whole)
    for handle in handles:
        handle.remove()
    assert ran == list(range(layer, chat.architecture.n_layers))
    torch.testing.assert_close(chat.hidden(one), whole)


@torch.inference_mode()
def test_a_model_whose_upper_blocks_use_more_than_the_stream_is_not_resumed() -> None:
    chat = tiny_chat.chat()
    (one,) = pack_examples(chat, examples(), 10_000)
    below, above = (chat.model.get_submodule(chat.architecture.block(at)) for at in (0, 2))
    kept: list[torch.Tensor] = []
    handles = [
        below.register_forward_hook(lambda _m, args, output: kept.append(output * 0.5)),
        above.register_forward_hook(lambda _m, _a, output: output + kept[-1] * (len(kept) % 2)),
    ]
    try:
        assert not resumes_exactly(chat, 1, one)
    finally:
        for handle in handles:
            handle.remove()
    assert resumes_exactly(chat, 1, one)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_memory_that_runs_out_is_not_taken_for_a_model_that_cannot_pack(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, texts = tiny_chat.chat(), examples()
    first = pack_examples(chat, texts, 10_000)[0]
    calls = iter(range(100))

    def run_out(*args: object, **inputs: object) -> None:
        # The second block of the second pass: `resumes_exactly` runs a whole one before it resumes.
        if next(calls):
            raise error

    handle = chat.model.get_submodule(chat.architecture.block(1)).register_forward_pre_hook(run_out)
    try:
        for check in (lambda: packs_exactly(chat, texts), lambda: resumes_exactly(chat, 1, first)):
            calls = iter(range(100))
            with pytest.raises(RuntimeError, match="memory"):
                check()
    finally:
        handle.remove()


def test_blocks_are_themselves_again_after_an_error() -> None:
    chat = tiny_chat.chat()
    with pytest.raises(RuntimeError, match="stop"), resume_at(chat, 2):
        raise RuntimeError("stop")
    block = chat.model.get_submodule(chat.architecture.block(0))
    assert "forward" not in vars(block)


def test_resuming_puts_back_what_accelerate_had_in_the_place_of_forward() -> None:
    """accelerate's hooks replace `forward` on the instance; a plain pass needs them afterwards."""
    chat = tiny_chat.chat()
    block = chat.model.get_submodule(chat.architecture.block(0))
    hooked = block.forward
    block.forward = hooked
    try:
        with resume_at(chat, 1):
            assert block.__dict__["forward"] is not hooked
        assert block.__dict__["forward"] is hooked
    finally:
        del block.forward
