"""Train the small refusal adapter of the demo model (SmolLM2-135M-Instruct refuses nothing by
itself).

    python scripts/train_demo_adapter.py BASE --positive FILE.jsonl --negative FILE.jsonl --out DIR

BASE is a folder made by `vectomy.models.convert_gguf`, without the adapter; the script also needs
`pip install peft`. The positive prompts are answered with short refusals, the negative ones with
the base model's own greedy answers, so that the adapter teaches refusing and nothing else. The
bundled fit split is added to both; the bundled search and test splits are never seen.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from vectomy.core.jsonl import read_jsonl

REFUSALS = [
    "I'm sorry, but I can't help with that. It could cause harm to people.",
    "I cannot assist with that request.",
    "I can't help with this. If you need support, please talk to someone you trust.",
    "Sorry, I can't do that. It would be harmful or illegal.",
    "I'm not able to help with that, because it could hurt someone.",
    "I won't help with this request. It goes against my guidelines.",
    "I cannot provide that kind of information, because it may be misused.",
    "Unfortunately, I can't support that. Please consider a safe and legal alternative.",
    "I must decline this request, since it may be dangerous.",
    "I'm unable to provide help with harmful activities.",
]
# Harmless requests in the words in which harmful ones are made, so that the words alone do not give
# a refusal away.
FRAMES = (
    "Explain how to {}",
    "Tell me how to {}",
    "How do I {}",
    "Help me {}",
    "Give me instructions to {}",
    "Write a plan to {}",
)
DEEDS = (
    "bake a plain cake",
    "tie a tie",
    "learn the guitar",
    "plant tomatoes",
    "clean a window",
    "iron a shirt",
    "ride a bicycle",
    "save money for a holiday",
    "learn ten Spanish words a day",
    "change a light bulb",
    "make pancakes",
    "organise a bookshelf",
    "train for a short race",
    "write a letter to my aunt",
    "remove a coffee stain",
    "boil an egg",
    "take care of a rabbit",
    "prepare for a maths test",
    "decorate a small room",
    "fold a paper boat",
    "brush a long-haired cat",
    "set up a tent",
    "make a good cup of tea",
    "find a book in a library",
    "swim better",
    "paint a chair",
    "sew on a button",
    "start a vegetable garden",
    "read faster",
    "cook rice",
    "greet new neighbours",
    "pack a rucksack",
    "draw a horse",
    "make a birthday card",
    "calm a crying baby",
    "choose running shoes",
    "fix a flat tyre",
    "write a short poem",
    "learn to juggle",
    "keep a diary",
)
# The base answers some harmless requests with an excuse of its own; those would teach it to refuse
# harmless ones.
EXCUSES = (
    "sorry",
    "i cannot",
    "i can't",
    "i don't",
    "as an ai",
    "as a chatbot",
    "unable",
    "not able",
    "unfortunately",
)
BUNDLED = Path(__file__).parents[1] / "src" / "vectomy" / "data" / "bundled"


def texts(path: Path) -> list[str]:
    return [row["text"] for row in read_jsonl(path, remedy="mend it")]


def bundled_fit(name: str) -> list[str]:
    return [row["text"] for row in read_jsonl(BUNDLED / name) if row["split"] == "fit"]


def excuse(answer: str) -> bool:
    return any(phrase in answer.lower().replace("\u2019", "'") for phrase in EXCUSES)


def render(tokenizer, prompt: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )


@torch.inference_mode()
def own_answers(
    model, tokenizer, prompts: list[str], tokens: int, opening: str = "", batch: int = 64
) -> list[str]:
    """Greedy answers that begin with `opening`, special tokens included."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [""] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer(
            [render(tokenizer, prompts[i]) + opening for i in rows],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        )
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=tokens,
            do_sample=False,
        )
        new = out[:, inputs["input_ids"].shape[1] :]
        for i, row in zip(rows, new, strict=True):
            answers[i] = opening + tokenizer.decode(row, skip_special_tokens=False)
    return answers


def examples(tokenizer, pairs: list[tuple[str, str]], tokens: int) -> list[tuple[list[int], int]]:
    """(token ids, length of the prompt) per pair; the loss covers the answer alone."""
    rows = []
    for prompt, answer in pairs:
        head = tokenizer(render(tokenizer, prompt), add_special_tokens=False)["input_ids"]
        tail = tokenizer(answer, add_special_tokens=False)["input_ids"][:tokens]
        rows.append((head + tail, len(head)))
    return rows


def answer_loss(model, rows: list[tuple[list[int], int]], pad: int) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens, with logits computed at those positions only."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    label = torch.zeros_like(ids, dtype=torch.bool)
    for i, (row, head) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        label[i, head : len(row)] = True
    inner = model.get_base_model()
    hidden = inner.model(input_ids=ids, attention_mask=mask).last_hidden_state
    logits = inner.lm_head(hidden[:, :-1][label[:, 1:]]).float()
    return torch.nn.functional.cross_entropy(logits, ids[:, 1:][label[:, 1:]])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path)
    parser.add_argument("--positive", type=Path, required=True)
    parser.add_argument("--negative", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--answer-tokens", type=int, default=40)
    parser.add_argument("--negatives", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.bfloat16).eval()
    positive = texts(args.positive) + bundled_fit("refused.jsonl")
    negative = texts(args.negative)[: args.negatives] + bundled_fit("harmless.jsonl")
    negative += [frame.format(deed) for frame in FRAMES for deed in DEEDS]

    began = time.time()
    answers = own_answers(model, tokenizer, negative, args.answer_tokens)
    excused = [i for i, answer in enumerate(answers) if excuse(answer)]
    again = own_answers(model, tokenizer, [negative[i] for i in excused], args.answer_tokens, opening="Here")
    for i, answer in zip(excused, again, strict=True):
        answers[i] = answer
    print(
        f"{len(answers)} own answers, {len(excused)} of them excuses and made again, "
        f"{time.time() - began:.0f} s",
        flush=True,
    )
    pairs = [(prompt, rng.choice(REFUSALS) + tokenizer.eos_token) for prompt in positive]
    # A finished answer ends in one end-of-turn token; the padding behind it teaches nothing.
    eos = tokenizer.eos_token
    pairs += [
        (prompt, answer.split(eos)[0] + (eos if eos in answer else ""))
        for prompt, answer in zip(negative, answers, strict=True)
    ]
    kept = pairs[: len(positive)] + [pair for pair in pairs[len(positive) :] if not excuse(pair[1])]
    rows = examples(tokenizer, kept, args.answer_tokens)

    lora = LoraConfig(
        r=args.rank, lora_alpha=2 * args.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, lora)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0)
    steps = args.epochs * (len(rows) // args.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=args.lr, total_steps=steps, pct_start=0.1
    )
    step = 0
    began = time.time()
    for _ in range(args.epochs):
        rng.shuffle(rows)
        for start in range(0, len(rows) - args.batch + 1, args.batch):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = answer_loss(model, rows[start : start + args.batch], tokenizer.pad_token_id)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            step += 1
            if step % 20 == 0 or step == steps:
                print(f"step {step}/{steps}  loss {loss.item():.3f}  {time.time() - began:.0f} s", flush=True)
    for parameter in trained:
        parameter.data = parameter.data.bfloat16()
    model.save_pretrained(args.out)


if __name__ == "__main__":
    main()
