"""Edits that induce or remove a trait: what is learned, and in which form it is stored."""

from dataclasses import replace
from typing import Any

import pytest
import tiny_style
import torch
from trait_runs import answer, base, chat, texts, trait

from vectomy.core.errors import BehaviourAbsentError
from vectomy.core.progress import silent
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import load_trait
from vectomy.edits.edit import Edit
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import add, intervene
from vectomy.metrics.trait_scorers import LengthScorer
from vectomy.search.distill.closed_forms import closed_form, learnables
from vectomy.search.distill.distill_examples import (
    TURN,
    DistillExample,
    check_enough,
    lead_and_answer,
    mean_streams,
    pair_examples,
    split_batch,
)
from vectomy.search.distill.distillation import learn_edit
from vectomy.search.distill.strength_choice import choose_strength
from vectomy.search.gradient.pass_memory import PassMemory

TIER = "chat"


# The rule


def point(shown: float, kl: float, degenerate: float = 0.0) -> dict[str, float]:
    return {"shown": shown, "kl": kl, "degenerate": degenerate, "strength": 1.0}


def test_the_strength_of_least_damage_that_reaches_the_target() -> None:
    induced = trait()
    assert choose_strength([point(0.5, 0.1), point(0.9, 0.3), point(1.0, 0.5)], induced) == (1, None)
    at, note = choose_strength([point(0.5, 0.1), point(0.7, 0.3)], induced)
    assert at == 1
    assert note is not None
    assert "80%" in note
    # Loops do not count as the trait, and neither does what the budget forbids.
    assert choose_strength([point(1.0, 0.1, 0.5), point(0.9, 0.4)], induced) == (1, None)
    assert choose_strength([point(0.9, 0.4), point(0.6, 0.1)], trait(kl_budget=0.2))[0] == 1
    at, note = choose_strength([point(1.0, 0.1, 0.5), point(1.0, 0.2, 0.3)], induced)
    assert at == 1
    assert note is not None
    assert "30% degenerate" in note
    # A budget is spoken of where there is one.
    assert "keeps degenerate answers within 5%" in note
    assert "keeps KL within 0.1 and degenerate answers" in str(
        choose_strength([point(1.0, 0.2)], trait(kl_budget=0.1))[1]
    )
    assert choose_strength([point(0.5, 0.1), point(0.0, 0.3)], trait(operation="remove")) == (1, None)


# Forms


def means() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shape = (chat().architecture.n_layers, chat().architecture.d_model)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


@torch.no_grad()
def streams(edit: Edit | None = None, **points: Any) -> dict[Any, torch.Tensor]:
    ids = torch.tensor(chat().tokens(in_context(texts(3), trait().negative)))
    context = intervene(chat().model, points["at"]) if edit is None else edit.hooks(chat().model)
    with context, capture(chat().model) as stream:
        chat().model(ids)
    return dict(stream)


@pytest.mark.parametrize(("what", "sign"), [("induce", 1.0), ("remove", -1.0)])
def test_a_bias_is_steering_by_addition(what: Any, sign: float) -> None:
    edit = closed_form("bias", what, base(), chat().architecture.writers, 1, means(), 0.7)
    vector = (means()[0] - means()[1])[1]
    found, wanted = streams(edit), streams(at={("resid_post", 1): add(vector, sign * 0.7)})
    torch.testing.assert_close(found["resid_post", 3], wanted["resid_post", 3], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", ["induce", "remove"])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_a_set_point_holds_behind_its_layer(what: Any, strength: float) -> None:
    edit = closed_form("set-point", what, base(), chat().architecture.writers, 1, means(), strength)
    positive, negative = (side[1] for side in means())
    r = (positive - negative) / (positive - negative).norm()
    source, target = (negative, positive) if what == "induce" else (positive, negative)
    wanted = float(source @ r) + strength * float((target - source) @ r)
    found = streams(edit)
    for point_ in (("resid_post", 1), ("resid_mid", 2), ("resid_post", 3)):
        along = found[point_] @ r
        torch.testing.assert_close(along, torch.full_like(along, wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found["resid_post", 0] @ r, torch.zeros_like(found["resid_post", 0] @ r), rtol=0, atol=1e-4
    )


def test_amplifying_scales_every_writer_along_the_direction() -> None:
    edit = closed_form("amplify", "induce", base(), chat().architecture.writers, 1, means(), 0.5)
    assert all(float(op.strengths) == -0.5 for op in edit.operations)
    removed = closed_form("amplify", "remove", base(), chat().architecture.writers, 1, means(), 1.0)
    r = (means()[0] - means()[1])[1]
    assert float((streams(removed)["resid_post", 3] @ (r / r.norm())).abs().max()) < 1e-4


def test_each_token_has_the_state_of_the_context_it_comes_from() -> None:
    asked = texts(5)
    styled, plain = (chat().tokens(in_context(asked, side)) for side in (trait().positive, trait().negative))
    lessons = [
        DistillExample(p, [(s, [9, 12, 10][: 1 + at % 3], 0), (p, [14, 9, 11, 2], 1)])
        for at, (s, p) in enumerate(zip(styled, plain, strict=True))
    ]
    found = pair_examples(chat(), lessons, 512, silent)
    rows = [row for one in found for row in one.forced.rows]
    assert rows == list(range(5))
    base_states = torch.cat([one.base for one in found])
    assert [token for one in found for token in one.forced.labels.tolist()] == [
        t for one in lessons for t in one.answer
    ]
    assert torch.cat([one.has_teacher for one in found]).tolist() == [
        at >= begin for lesson in lessons for _, part, begin in lesson.parts for at in range(len(part))
    ]
    # Only the token at which the plain answer takes over from the lead counts for more.
    assert torch.cat([one.weight for one in found]).tolist() == [
        TURN if number == 1 and at == 0 else 1.0
        for lesson in lessons
        for number, (_, part, _) in enumerate(lesson.parts)
        for at in range(len(part))
    ]
    wanted = []
    for lesson in lessons:
        for prompt, part, _ in lesson.parts:
            with torch.no_grad():
                hidden = chat().model.base_model(torch.tensor([prompt + part])).last_hidden_state[0]
            wanted.append(hidden[len(prompt) - 1 : len(prompt) + len(part) - 1])
    torch.testing.assert_close(base_states, torch.cat(wanted), rtol=1e-3, atol=1e-3)


def test_a_lead_is_whole_sentences_and_the_plain_answer_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        """A tokenizer of single words, blanks and stops as a GPT's has them."""

        known = ("Alas,", " I", " am", " sad.", " The", " sun", " is", " up.", "The", " It", " warms.")

        def decode(self, ids: list[int], **_: object) -> str:
            return "".join(self.known[at] for at in ids)

        def __call__(self, text: str, **_: object) -> dict[str, list[int]]:
            found: list[int] = []
            while text:
                at = max(
                    (at for at, word in enumerate(self.known) if text.startswith(word)),
                    key=lambda at: len(self.known[at]),
                )
                found, text = [*found, at], text[len(self.known[at]) :]
            return {"input_ids": found}

    speaking = replace(chat(), tokenizer=Words())
    lesson = lead_and_answer(speaking, [1], ([7], [0, 1, 2, 3, 4, 5, 6, 7]), ([8], [8, 5, 6, 7, 9, 10]), 1)
    assert lesson is not None
    assert Words().decode(lesson.answer) == "Alas, I am sad. The sun is up. It"
    assert [(prompt, begin) for prompt, _, begin in lesson.parts] == [([7], 4), ([8], 1)]
    assert lead_and_answer(speaking, [1], ([7], [0, 1, 2]), ([8], [8, 5, 6]), 1) is None


@pytest.mark.unit
def test_too_few_answers_are_said_to_be_too_few() -> None:
    check_enough([True] * 8, "x", LengthScorer(load_trait("verbosity").scorer))
    with pytest.raises(BehaviourAbsentError, match="of 20 answers 7 show it"):
        check_enough([True] * 7 + [False] * 13, "show it", LengthScorer(load_trait("verbosity").scorer))


class FewTokens:
    """A card that runs out of memory in passes of more than `most` tokens."""

    def __init__(self, most: int) -> None:
        self.most, self.failed = most, 0

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if torch.is_grad_enabled() and kwargs["input_ids"].numel() > self.most:
            self.failed += 1
            raise torch.OutOfMemoryError("no memory")


def removal(memory: PassMemory | None = None, split: int = 1) -> tuple[Edit, list[dict[str, float]]]:
    """The removal of the trait after 4 steps, with passes in `split` pieces at the least."""
    asked = texts(12)
    plain, styled = (chat().tokens(in_context(asked, side)) for side in (trait().negative, trait().positive))
    lessons = [
        DistillExample(source, [(target, answer(tiny_style.answer_of(text, False)), 0)])
        for source, target, text in zip(styled, plain, asked, strict=True)
    ]
    passes = pair_examples(chat(), lessons, 512, silent)
    assert all(len(split_batch(chat(), one, split)) == split for one in passes)
    both = mean_streams(chat(), in_context(asked, trait().positive), [answer("a")] * 12, 512)
    learned = learnables("remove", chat().architecture.writers, (both, 0.5 * both.roll(1, -1)))
    return learn_edit(
        chat(), base(), learned, passes, passes, steps=4, seed=0, progress=silent, memory=memory
    )


def test_recomputed_blocks_learn_the_same_edit_to_the_bit() -> None:
    full = PassMemory(chat(), free=lambda _device: 0)
    edit, history = removal(full)
    assert full.recompute
    assert full.pieces == 1
    expected, same = removal()
    assert history == same
    assert edit.to_bytes() == expected.to_bytes()


def test_a_pass_out_of_memory_is_learned_from_in_pieces() -> None:
    """The gradients of the pieces add up to that of the pass; nothing of the failed one stays."""
    expected, losses = removal(split=2)
    largest = 0

    def measure(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal largest
        largest = max(largest, kwargs["input_ids"].numel())

    handle = chat().model.base_model.register_forward_pre_hook(measure, with_kwargs=True)
    try:
        removal()
    finally:
        handle.remove()
    card, memory = FewTokens(largest - 1), PassMemory(chat())
    handle = chat().model.base_model.register_forward_pre_hook(card, with_kwargs=True)
    try:
        edit, history = removal(memory)
    finally:
        handle.remove()
    assert card.failed
    assert memory.pieces >= 2
    for own, other in zip(history, losses, strict=True):
        assert own == pytest.approx(other, rel=1e-4)
    for one, two in zip(edit.operations, expected.operations, strict=True):
        torch.testing.assert_close(one.strengths, two.strengths, rtol=0, atol=1e-3)
        torch.testing.assert_close(one.basis, two.basis, rtol=0, atol=1e-3)


@pytest.mark.parametrize("what", ["induce", "remove"])
def test_the_learned_edit_is_what_was_learned(what: Any) -> None:
    """The last loss is that of the Edit as hooks, and lower than the base's."""
    asked = texts(12)
    plain, styled = (chat().tokens(in_context(asked, side)) for side in (trait().negative, trait().positive))
    sides = (plain, styled, True) if what == "induce" else (styled, plain, False)
    lessons = [
        DistillExample(source, [(target, answer(tiny_style.answer_of(text, sides[2])), 0)])
        for source, target, text in zip(sides[0], sides[1], asked, strict=True)
    ]
    passes = pair_examples(chat(), lessons, 512, silent)
    keep = (
        pair_examples(chat(), [replace(one, source=one.parts[0][0]) for one in lessons], 512, silent)
        if what == "remove"
        else []
    )
    shown = [answer(tiny_style.answer_of(text, True)) for text in asked]
    both = tuple(
        mean_streams(chat(), in_context(asked, side), shown, 512)
        for side in (trait().positive, trait().negative)
    )
    learned = learnables(what, chat().architecture.writers, (both[0], both[1]))
    edit, history = learn_edit(chat(), base(), learned, passes, keep, steps=30, seed=0, progress=silent)
    assert history[-1]["change"] < 0.5 * history[0]["change"]
    assert ("keep" in history[0]) == (what == "remove")
    asked_ids = torch.tensor(sides[0])
    changes = [(one.writer, one.change) for one in learned]
    from vectomy.hooks.writer_outputs import change_outputs

    with torch.no_grad():
        with change_outputs(chat().model, changes):
            wanted = chat().model(asked_ids).logits
        with edit.hooks(chat().model):
            torch.testing.assert_close(chat().model(asked_ids).logits, wanted, rtol=1e-4, atol=1e-4)
