"""A run of a random model of 1.5B shape on disk in less memory than its weights take.

    python benchmarks/larger_than_memory.py [--max-memory 1.5GB] [--steps 8] [--prompts 4]
    [--layers 24] [--folder DIR] [--json FILE]

The model is a Llama of width 2048 with 24 layers (1.5B numbers, 2.9 GiB in bfloat16), random, with
the tokenizer and template of the demo model; it lies in a temporary folder below `--folder`, which
has to be on a real disk (files in /dev/shm are memory), and is deleted at the end. A random model
refuses nothing, so every prompt counts as one that shows the behaviour.

The run is a process of its own. Peaks are resident memory as the kernel counts it (VmHWM): code,
heap and pages of mapped files. Weights are read with pread into the heap, so what the kernel keeps
of the files besides, its page cache, is not the process' memory and not in these numbers. Settings
of malloc are dropped: those that `make` exports keep freed memory in the process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vectomy.core.byte_count import parse_bytes, write_bytes
from vectomy.models.demo import model_folder

WIDTH, MLP, HEADS, KV_HEADS, VOCAB = 2048, 8192, 32, 8, 49152
HEAD_DIM = WIDTH // HEADS
SIDECARS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
RUN = """
import json, sys
from vectomy.workflows.run import run
options = json.loads(sys.argv[3])
run(sys.argv[1], sys.argv[2], log=lambda line: print(line, flush=True), **options)
print("peak", open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def layer(index: int) -> dict[str, tuple[int, ...]]:
    names: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
        "self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
        "input_layernorm": (WIDTH,),
        "post_attention_layernorm": (WIDTH,),
    }
    return {f"model.layers.{index}.{name}.weight": shape for name, shape in names.items()}


def build(folder: Path, layers: int) -> int:
    """Write the model, a shard a layer. Returns the bytes of its weights."""
    generator = torch.Generator().manual_seed(0)
    outside = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    shards = [outside, *(layer(index) for index in range(layers))]
    weights, total = {}, 0
    for number, shapes in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            name: torch.ones(shape, dtype=torch.bfloat16)
            if len(shape) == 1
            else (torch.randn(shape, generator=generator) * 0.02).bfloat16()
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / file, {"format": "pt"})
        weights |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weights}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    demo = model_folder("demo")
    for name in SIDECARS:
        if (demo / name).is_file():
            (folder / name).write_bytes((demo / name).read_bytes())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def run_job(model: Path, out: Path, options: dict[str, Any]) -> tuple[float, int, list[str]]:
    """Seconds, the peak of the process in bytes, and what it said."""
    began = time.perf_counter()
    job = subprocess.run(
        [sys.executable, "-c", RUN, str(model), str(out), json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")},
    )
    seconds = time.perf_counter() - began
    if job.returncode:
        raise SystemExit(job.stdout[-2000:] + job.stderr[-4000:])
    lines = job.stdout.splitlines()
    return seconds, int(lines[-1].split()[1]) << 10, lines[:-1]


def print_table(result: dict[str, Any], size: int) -> None:
    print(
        f"weights {write_bytes(size)}, cap {result['max_memory']}, peak {write_bytes(result['peak_bytes'])}"
    )
    print("| stage | seconds | peak |\n|---|---|---|")
    for name, stage in result["stages"].items():
        print(f"| {name} | {stage['seconds']:.0f} | {write_bytes(stage['peak_memory_bytes'])} |")
    print(f"| all | {result['seconds']:.0f} | {write_bytes(result['peak_bytes'])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--max-memory", default="1.5GB")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model, out = Path(folder) / "model", Path(folder) / "run"
        model.mkdir()
        size = build(model, given.layers)
        options = {
            "positive": "bundled:refused",
            "negative": "bundled:harmless",
            "behaviour": "opening",
            "force": True,
            "device": "cpu",
            "recipe": "gradient",
            "steps": given.steps,
            "max_memory": given.max_memory,
            "n_fit": given.prompts,
            "n_search": 2,
            "n_test": 2,
        }
        seconds, peak, said = run_job(model, out, options)
        summary = json.loads((out / "summary.json").read_text())
        result = {
            "weights_bytes": size,
            "max_memory": given.max_memory,
            "peak_bytes": peak,
            "seconds": seconds,
            "stages": summary["costs"],
            "settings": options,
            "said": [line for line in said if "block by block" in line],
            "edited": summary["edited"],
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
    print_table(result, size)
    print("within the cap" if peak <= parse_bytes(given.max_memory) else "ABOVE THE CAP")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
