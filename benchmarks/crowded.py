"""Processor and wall time of a small job alone and beside busy processes, with threads that spin
while they wait (`before`) and threads that soon sleep (`after`, what `vectomy` sets).

    python benchmarks/crowded.py [--rounds 3] [--busy 2] [--threads N] [--also NAME=VALUE ...]
    [--real-time] [--json FILE]

The job is that of a run in small: a random Llama of 4 layers and width 576 (SmolLM2-135M has 30)
reads 16 prompts of 40 tokens, answers each with 12, and makes one backward pass. Each setting is a
process of its own that stays, so that imports are not timed; rounds are made in turns. Medians.
`--real-time` (Linux, root) gives the job alone a priority that other programs do not reach, on a
machine that is not quiet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from vectomy.core.threads import WAITING, prepare_threads

WORKER = """
import json, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=576, intermediate_size=1536, num_hidden_layers=4, num_attention_heads=9,
    num_key_value_heads=3, vocab_size=8192,
)).eval().requires_grad_(False)
prompts = torch.randint(0, 8192, (16, 40))

def work():
    with torch.inference_mode():
        result = model(prompts, use_cache=True)
        for _ in range(12):
            token = result.logits[:, -1:].argmax(-1)
            result = model(token, past_key_values=result.past_key_values, use_cache=True)
    inputs = model.model.embed_tokens(prompts).detach().requires_grad_()
    model(inputs_embeds=inputs).logits.float().logsumexp(-1).mean().backward()

work()
print(torch.get_num_threads(), flush=True)
for _ in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - processor]), flush=True)
"""
BUSY = "while True: pass"


def start(setting: dict[str, str]) -> subprocess.Popen[str]:
    plain = {name: value for name, value in os.environ.items() if name not in WAITING}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER],
        env={**plain, **setting},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def ask(worker: subprocess.Popen[str]) -> tuple[float, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    wall, processor = json.loads(worker.stdout.readline())
    return wall, processor


def set_priority(workers: Iterable[subprocess.Popen[str]], real_time: bool) -> None:
    """Real-time priority for all threads of the workers, or the usual one."""
    policy = os.SCHED_FIFO if real_time else os.SCHED_OTHER
    for worker in workers:
        for task in Path(f"/proc/{worker.pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), policy, os.sched_param(int(real_time)))


def measure(workers: dict[str, subprocess.Popen[str]], rounds: int, busy: int) -> dict[str, dict[str, float]]:
    """Medians of wall and processor seconds by setting."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        times = {name: [] for name in workers}
        for _ in range(rounds):
            for name, worker in workers.items():
                times[name].append(ask(worker))
    finally:
        for other in others:
            other.kill()
            other.wait()
    return {
        name: dict(zip(("wall", "processor"), map(statistics.median, zip(*rows, strict=True)), strict=True))
        for name, rows in times.items()
    }


def settings(also: list[str]) -> dict[str, dict[str, str]]:
    """The variables of each setting; `after` is what prepare_threads sets."""
    for name in WAITING:
        os.environ.pop(name, None)
    before = dict(os.environ)
    prepare_threads()
    after = {name: value for name, value in os.environ.items() if before.get(name) != value}
    return {"before": {}, "after": after, **{item: dict([item.split("=")]) for item in also}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    count = {} if given.threads is None else {"OMP_NUM_THREADS": str(given.threads)}
    chosen = settings(given.also)
    workers = {name: start({**variables, **count}) for name, variables in chosen.items()}
    threads = {name: int(worker.stdout.readline()) for name, worker in workers.items() if worker.stdout}
    if given.real_time:
        set_priority(workers.values(), True)
    alone = measure(workers, given.rounds, 0)
    if given.real_time:
        set_priority(workers.values(), False)
    result = {
        "cores": os.cpu_count(),
        "busy": given.busy,
        "threads": threads,
        "variables": chosen,
        "alone": alone,
        "beside": measure(workers, given.rounds, given.busy),
    }
    for worker in workers.values():
        worker.communicate()
    print(f"{'setting':<28} {'alone':>16} {'beside ' + str(given.busy):>16}")
    print(f"{'':<28} {'wall':>8}{'proc.':>8} {'wall':>8}{'proc.':>8}")
    for name in workers:
        cells = [result[place][name][kind] for place in ("alone", "beside") for kind in ("wall", "processor")]
        print(f"{name:<28} {cells[0]:>8.2f}{cells[1]:>8.2f} {cells[2]:>8.2f}{cells[3]:>8.2f}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
