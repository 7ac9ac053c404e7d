"""Scores of labels a chunk at a time are those of all labels at once; so are their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tiny_chat
import torch
from torch import Tensor

from vectomy.models.label_scores import (
    chunk_labels,
    count_chunk_labels,
    kl_divergence,
    map_labels,
    score_kl,
    score_labels,
)

TIER = "chat"
LABELS = 11


def random_states(seed: int) -> Tensor:
    width = tiny_chat.chat().architecture.d_model
    return torch.randn(LABELS, width, generator=torch.Generator().manual_seed(seed))


def labels() -> Tensor:
    vocab = tiny_chat.chat().architecture.vocab
    return torch.randint(vocab, (LABELS,), generator=torch.Generator().manual_seed(2))


def score(kind: str, hidden: Tensor, most: int | None) -> Tensor:
    chat = tiny_chat.chat()
    if kind == "labels":
        return score_labels(chat, hidden, labels(), most)
    return score_kl(chat, random_states(1), hidden, most)


def score_whole(kind: str, hidden: Tensor) -> Tensor:
    """From the distributions of all labels, by the definition."""
    chat = tiny_chat.chat()
    edited = chat.model.get_output_embeddings()(hidden).float().log_softmax(-1)
    if kind == "labels":
        return edited[torch.arange(LABELS), labels()]
    base = chat.model.get_output_embeddings()(random_states(1)).float().log_softmax(-1)
    return (base.exp() * (base - edited)).sum(-1)


def of_leaf(work: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The scores, and the gradient of a loss that weighs each label differently and is not linear
    in the scores.
    """
    hidden = random_states(0).requires_grad_()
    scores = work(hidden)
    (scores * torch.linspace(-1, 2, LABELS)).sum().exp().backward()
    assert hidden.grad is not None
    return scores.detach(), hidden.grad


@pytest.mark.parametrize("kind", ["labels", "kl"])
@pytest.mark.parametrize("most", [1, 4, LABELS, 100, None])
def test_chunks_give_the_scores_and_gradients_of_the_whole(kind: str, most: int | None) -> None:
    scores, gradient = of_leaf(lambda hidden: score(kind, hidden, most))
    expected, of_whole = of_leaf(lambda hidden: score_whole(kind, hidden))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, of_whole, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(score(kind, random_states(0), most), expected, rtol=1e-5, atol=1e-6)


def test_no_more_distributions_than_a_chunk_are_computed_at_once() -> None:
    counts: list[int] = []

    def count(part: Tensor, rows: slice) -> Tensor:
        counts.append(len(part))
        assert rows.stop - rows.start == len(part)
        return part.sum(-1)

    hidden = random_states(0).requires_grad_()
    map_labels(tiny_chat.chat(), hidden, count, 4).sum().backward()
    assert counts == [4, 4, 3]
    assert hidden.grad is not None
    assert bool((hidden.grad == 1).all())


@pytest.mark.parametrize("vocab", [32, 49_152, 152_064, 256_000, 10**9])
def test_a_chunk_of_distributions_takes_at_most_64_mebibytes(vocab: int) -> None:
    size = count_chunk_labels(vocab)
    assert 1 <= size <= 256
    assert size == 1 or 4 * size * vocab <= 64 << 20
    parts = list(chunk_labels(1000, vocab))
    assert [index for rows in parts for index in range(1000)[rows]] == list(range(1000))
    assert max(rows.stop - rows.start for rows in parts) == size


def test_no_labels_have_no_scores() -> None:
    empty = random_states(0)[:0]
    assert score_labels(tiny_chat.chat(), empty, labels()[:0]).shape == (0,)


def test_kl_of_a_token_that_the_base_excludes_is_finite() -> None:
    base = torch.tensor([[0.0, -torch.inf]])
    assert float(kl_divergence(base, torch.tensor([[-0.5, -0.9]]))) == pytest.approx(0.5)
