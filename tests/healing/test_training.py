"""Training: losses that can be worked out by hand, a run that was killed, and two processes."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import tiny_chat
import torch
from healed import curve, damaged, job, log_probs, pairs, preferences, quick, trained
from interrupted import interrupting
from tiny import load, random_model
from torch.nn import functional

from vectomy.core.errors import ArtifactError, ModelError
from vectomy.healing.job import Job, find_last_checkpoint
from vectomy.healing.launching import launch
from vectomy.healing.objectives import build_arguments, build_trainer
from vectomy.healing.pairs import Pair, encode_pairs, find_end_of_turn
from vectomy.healing.training import train

TIER = "chat"

A, B, C, D = 10, 11, 12, 13
PAIR = Pair((3, 4), (A, B), (C, D))


def certain(probabilities: dict[int, float]) -> Any:
    """A model that gives every token these probabilities, whatever came before it: the stream is
    all ones, and the head's rows sum to the logarithms.
    """
    model = random_model("llama", vocab_size=len(tiny_chat.VOCABULARY))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                value.zero_()
            elif value.ndim == 1 or "embed" in name:
                value.fill_(1.0)
        model.lm_head.weight.fill_(-30.0 / value.shape[-1])
        for token, chance in probabilities.items():
            model.lm_head.weight[token] = math.log(chance) / model.config.hidden_size
    return model


def first_loss(tmp_path: Path, policy: Any, reference: Any, **more: Any) -> float:
    """The loss of the one pair, before anything is learned of it."""
    config = quick(method="full", max_steps=1, micro_batch=1, learning_rate=1e-9, **more)
    arguments = build_arguments(config, str(tmp_path), {"use_cpu": True, "bf16": False, "disable_tqdm": True})
    trainer = build_trainer(config, policy, reference, tiny_chat.tokenizer(), [PAIR], arguments, None, [])
    trainer.train()
    return float(trainer.state.log_history[0]["loss"])


POLICY = {A: 0.5, B: 0.25, C: 0.125, D: 0.125}
REFERENCE = {A: 0.25, B: 0.25, C: 0.25, D: 0.25}


def test_the_dpo_loss_is_what_a_hand_computes_on_two_tokens(tmp_path: Path) -> None:
    # log pi(ab) = log 1/8, log pi(cd) = log 1/64; under the reference both are log 1/16: the margin
    # is log 2 + log 4 = log 8, and -log sigma(0.5 log 8) = log(1 + 8^-0.5).
    found = first_loss(tmp_path, certain(POLICY), certain(REFERENCE), beta=0.5)
    assert found == pytest.approx(math.log(1 + 8**-0.5), rel=1e-5)


def test_the_ipo_loss_is_what_a_hand_computes_on_two_tokens(tmp_path: Path) -> None:
    # Means per token: (log 2)/2 + (log 4)/2, against 1 / (2 tau).
    found = first_loss(tmp_path, certain(POLICY), certain(REFERENCE), objective="ipo", beta=0.5)
    assert found == pytest.approx((1.5 * math.log(2) - 1) ** 2, abs=1e-6)


def test_the_sft_loss_is_the_cross_entropy_of_the_answer_alone(tmp_path: Path) -> None:
    found = first_loss(tmp_path, certain(POLICY), None, objective="sft")
    assert found == pytest.approx(1.5 * math.log(2), rel=1e-5)


def test_the_orpo_loss_is_what_a_hand_computes_on_two_tokens(tmp_path: Path) -> None:
    # Mean probabilities per token are (1/8)^(1/2) and 1/8; the cross-entropy is of all tokens but
    # the first, the prompt's second (probability e^-30) among them: TRL's, as in the authors' code.
    p, q = 8**-0.5, 0.125
    ratio = math.log(p / (1 - p)) - math.log(q / (1 - q))
    nll = (30 + 3 * math.log(2)) / 3
    found = first_loss(tmp_path, certain(POLICY), None, objective="orpo", beta=0.5)
    assert found == pytest.approx(nll + 0.5 * math.log(1 + math.exp(-ratio)), rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_policy_equal_to_its_reference_gives_log_2(tmp_path: Path, method: str) -> None:
    trained(tmp_path, method=method, max_steps=1)
    assert curve(tmp_path)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_the_first_sft_loss_is_that_of_the_damaged_models_own_logits(tmp_path: Path) -> None:
    rows = pairs(2)
    made = job(tmp_path, quick(objective="sft", max_steps=1), rows)
    train(made)
    oracle = torch.cat([log_probs(load(damaged()), pair.prompt, pair.chosen) for pair in rows])
    assert curve(tmp_path)[0] == pytest.approx(float(-oracle.mean()), rel=1e-4)


def test_the_positions_of_answers_alone_give_the_loss_and_the_gradient_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path / "answers", max_steps=3)
    monkeypatch.setattr("vectomy.healing.training.score_answers_only", nullcontext)
    trained(tmp_path / "everything", max_steps=3)
    assert curve(tmp_path / "answers") == pytest.approx(curve(tmp_path / "everything"), rel=1e-5)


def test_pairs_are_what_the_model_reads_and_writes() -> None:
    chat = tiny_chat.chat()
    row = preferences(1)[0]
    (pair,), _ = encode_pairs(chat, [row], 32)
    assert list(pair.prompt) == chat.tokens([row.prompt])[0]
    # The model was taught this answer: it says it with its end of turn, token by token.
    assert chat.answer([list(pair.prompt)], 16, 4096)[0] == list(pair.chosen)
    assert find_end_of_turn(chat) == "<|end|>"


def test_a_resumed_run_is_the_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same curve and the same bytes, dropout included: the generators go on where they were."""
    whole = trained(tmp_path / "whole", epochs=2.0, dropout=0.1)
    cut = job(tmp_path / "cut", quick(epochs=2.0, dropout=0.1))
    with pytest.raises(KeyboardInterrupt):
        train(cut, interrupting(5))
    assert not (cut.folder / "losses.json").exists()
    assert find_last_checkpoint(cut.folder / "checkpoints").name == "checkpoint-4"
    # A kill while the next one was written leaves a part of it.
    (cut.folder / "checkpoints" / "checkpoint-6").mkdir()
    (cut.folder / "checkpoints" / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"cut off")
    train(cut)
    assert curve(cut.folder) == curve(whole.folder)
    # Every number of every row, the count of tokens too, which TRL keeps in memory alone.
    histories = [
        json.loads((folder / "losses.json").read_text())["history"] for folder in (cut.folder, whole.folder)
    ]
    assert histories[0] == histories[1]
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (cut.folder, whole.folder)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(curve(cut.folder)) == 12


def test_checkpoints_of_another_training_are_not_gone_on_from(tmp_path: Path) -> None:
    trained(tmp_path, max_steps=2)
    again = job(tmp_path, quick(max_steps=2, learning_rate=1e-3))
    with pytest.raises(ArtifactError, match="other inputs"):
        train(again)
    again.drop_other_checkpoints()
    train(again)
    assert (
        next(row["learning_rate"] for row in json.loads((tmp_path / "losses.json").read_text())["history"])
        == 1e-3
    )


def test_two_processes_give_the_losses_of_one(tmp_path: Path) -> None:
    """Gloo, by `accelerate launch`: batches of one in two processes equal one batch of two."""
    trained(tmp_path / "one", micro_batch=2)
    job(tmp_path / "two", quick(micro_batch=1))
    launch(tmp_path / "two", "cpu", 2)
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert len(one) == 6
    assert two == pytest.approx(one, rel=1e-4)
    # And not those of one process that saw half of the rows.
    assert one[1] < one[0] - 0.05


def test_out_of_memory_names_the_setting_to_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: "
            "you tried to allocate 9 bytes"
        )

    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", short)
    remedies = {
        (4, True, "lora", 64): "--micro-batch 2 --accumulation 2",
        (1, False, "lora", 64): "--gradient-checkpointing",
        (1, True, "full", 64): "--method lora",
        (1, True, "lora", 2048): "--max-length 1024",
        (1, True, "lora", 64): "--rank 2",
    }
    for number, ((batch, checkpointing, method, length), said) in enumerate(remedies.items()):
        config = quick(
            micro_batch=batch, gradient_checkpointing=checkpointing, method=method, max_length=length
        )
        with pytest.raises(ModelError, match="out of memory") as caught:
            train(job(tmp_path / str(number), config))
        assert said in str(caught.value)


def test_another_error_of_training_is_not_taken_for_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    def broken(self: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Trainer, "train", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        train(job(tmp_path, quick()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card: what is refused here works there")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "qlora"}, "--method lora"),
        ({"optimizer": "paged_adamw_8bit"}, "--optimizer adamw_torch"),
        ({"attention": "flash_attention_2"}, "--attention sdpa"),
        ({"device": "cuda"}, "usable: auto, cpu"),
    ],
)
def test_what_takes_a_card_is_refused_by_name_without_one(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError) as caught:
        train(job(tmp_path, quick(**asked)))
    assert said in str(caught.value)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--learning-rate"):
        train(job(tmp_path, quick(objective="sft", learning_rate=1e30, epochs=2.0)))


def test_gradients_come_through_checkpointed_blocks_as_without(tmp_path: Path) -> None:
    for name, checkpointing in (("kept", False), ("again", True)):
        trained(tmp_path / name, gradient_checkpointing=checkpointing, max_steps=3)
    assert curve(tmp_path / "again") == pytest.approx(curve(tmp_path / "kept"), rel=1e-4)


def test_a_job_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    made = job(tmp_path, quick())
    (tmp_path / "pairs.jsonl").write_text('{"prompt": [1]}\n', encoding="utf-8")
    with pytest.raises(ArtifactError, match="no pairs to train on"):
        train(Job(made.folder))


def test_accumulated_batches_are_one_large_one(tmp_path: Path) -> None:
    trained(tmp_path / "large", micro_batch=4, accumulation=1, max_steps=3)
    trained(tmp_path / "small", micro_batch=1, accumulation=4, max_steps=3)
    assert curve(tmp_path / "small") == pytest.approx(curve(tmp_path / "large"), rel=1e-4)
    assert functional.relu(torch.tensor(curve(tmp_path / "large")[0] - curve(tmp_path / "large")[2])) > 0
