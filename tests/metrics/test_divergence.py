"""Divergence of two models against their own logits."""

import pytest
import tiny_chat
from tiny_chat import DAY

from vectomy.metrics.divergence import answer_hidden, divergence

TIER = "chat"


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
