"""Time a bake against `cp -r` of the same checkpoint, in the same run, alternating; medians of
`--repeats`.

    python benchmarks/bake_speed.py [--gigabytes 14] [--repeats 3] [--with-transformers] [--folder
    DIR] [--json FILE]

The checkpoint has the shapes of a 7B Llama (width 4096, MLP 11008, vocabulary 32000) in bfloat16
shards of at most 5 GB, filled with random numbers of a fixed seed: no real model, and none is
needed, for the time does not depend on the values. `--gigabytes` changes the number of layers. It
lies in a temporary folder below `--folder` and is deleted at the end. The edit removes one
direction from every writer, the embedding included.

Every job is a process of its own. Before each, all that was written is forced to disk and dropped
from the page cache, the source too (`--warm` leaves the source there). `seconds` ends when the
process does; a bake has by then forced its output to disk and cp has not, so `durable` adds the
time of a sync afterwards. Memory is the largest VmHWM less its file-backed part (RssFile): pages
that are only cached copies of files do not count.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vectomy.edits.edit import Edit

WIDTH, MLP, VOCAB, HEADS = 4096, 11008, 32000, 32
SHARD = 5_000_000_000

BAKE = """
import sys
from vectomy.edits.export import bake
from vectomy.edits.edit import Edit
bake(Edit.load(sys.argv[1]), sys.argv[2], sys.argv[3])
"""
LINKED = """
import sys
from vectomy.edits.export import bake
from vectomy.edits.edit import Edit
bake(Edit.load(sys.argv[1]).only(layers=[0]), sys.argv[2], sys.argv[3], link_untouched=True)
"""
TRANSFORMERS = """
import sys, torch
from transformers import AutoModelForCausalLM
from vectomy import linalg
from vectomy.architecture import architecture_of
from vectomy.edits.edit import Edit
model = AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.bfloat16)
with torch.no_grad():
    for writer, operation in Edit.load(sys.argv[1]).writers(architecture_of(model)):
        weight = model.get_submodule(writer.module).weight
        basis, strengths = operation.basis.to(weight.dtype), operation.strengths.to(weight.dtype)
        edited = linalg.edit_rows if writer.component == "embedding" else linalg.edit_matrix
        weight.copy_(edited(weight, basis, strengths, operation.norm))
model.save_pretrained(sys.argv[3], max_shard_size="5GB")
"""


def layer(at: int) -> dict[str, tuple[int, int]]:
    names = {f"self_attn.{p}_proj": (WIDTH, WIDTH) for p in "qkvo"}
    names |= {"mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH), "mlp.down_proj": (WIDTH, MLP)}
    norms = {
        f"model.layers.{at}.{n}.weight": (WIDTH,) for n in ("input_layernorm", "post_attention_layernorm")
    }
    return {f"model.layers.{at}.{name}.weight": shape for name, shape in names.items()} | norms


def make_checkpoint(folder: Path, gigabytes: float) -> int:
    """Random weights in the shapes of a Llama; returns the bytes of its weights."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, WIDTH)}
    per_layer = {name: 2 * torch.Size(shape).numel() for name, shape in layer(0).items()}
    layers = max(1, round((gigabytes * 1e9 - 4 * VOCAB * WIDTH) / sum(per_layer.values())))
    for at in range(layers):
        shapes |= layer(at)
    shapes |= {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCAB, WIDTH)}
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes.items():
        if sum(2 * torch.Size(s).numel() for s in (*groups[-1].values(), shape)) > SHARD:
            groups.append({})
        groups[-1][name] = shape
    folder.mkdir(parents=True)
    generator, weight_map, total = torch.Generator().manual_seed(0), {}, 0
    for at, group in enumerate(groups, 1):
        name = f"model-{at:05d}-of-{len(groups):05d}.safetensors"
        tensors = {
            n: torch.empty(s, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
            for n, s in group.items()
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(group, name)
        total += sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return total


def size_of(folder: Path) -> int:
    total: int = json.loads((folder / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
    return total


def drop_cached(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def own_memory(pid: int) -> int:
    """Bytes of memory that are the process's own: neither file pages nor shared ones."""
    try:
        rows = dict(
            line.split(":", 1)
            for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        )
        return int(rows["RssAnon"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def timed(command: list[str]) -> dict[str, float]:
    """Run it; its time, the time until its output is on disk, its peak memory with and without file
    pages.
    """
    began = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, own_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with status {process.returncode}")
    ctypes.CDLL(None).sync()
    durable = time.monotonic() - began
    return {
        "seconds": seconds,
        "durable": durable,
        "anon_bytes": peak,
        "maxrss_bytes": usage.ru_maxrss * 1024,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def table(rows: dict[str, dict[str, float]], bytes_: int) -> str:
    lines = [
        (
            f"{'':14s}{'s':>8s}{'on disk s':>11s}{'GB/s':>7s}{'of cp':>7s}{'on disk':>9s}{'own MB':>9s}"
            f"{'max RSS MB':>12s}"
        )
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:14s}{row['seconds']:8.2f}{row['durable']:11.2f}{bytes_ / row['seconds'] / 1e9:7.2f}"
            f"{rows['cp -r']['seconds'] / row['seconds']:7.2f}"
            f"{rows['cp -r']['durable'] / row['durable']:9.2f}"
            f"{row['anon_bytes'] / 1e6:9.0f}{row['maxrss_bytes'] / 1e6:12.0f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=14)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", type=Path, help="where the temporary folder goes (the disk that is measured)"
    )
    parser.add_argument(
        "--source",
        type=Path,
        help="a checkpoint of this script's that is there already, or is to be kept there",
    )
    parser.add_argument(
        "--with-transformers", action="store_true", help="also load, edit and save with transformers"
    )
    parser.add_argument("--warm", action="store_true", help="leave the source in the page cache")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        source, edit, out = args.source or folder / "source", folder / "edit.safetensors", folder / "out"
        bytes_ = size_of(source) if source.exists() else make_checkpoint(source, args.gigabytes)
        Edit.ablation(source, torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))).save(edit)
        files = [str(edit), str(source), str(out)]
        jobs = {
            "cp -r": ["cp", "-r", str(source), str(out)],
            "bake": [sys.executable, "-c", BAKE, *files],
            "bake, linked": [sys.executable, "-c", LINKED, *files],
        }
        if args.with_transformers:
            jobs["transformers"] = [sys.executable, "-c", TRANSFORMERS, *files]
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
        for _ in range(args.repeats):
            for name, command in jobs.items():
                drop_cached(folder)
                drop_cached(source)
                if args.warm:
                    for file in source.iterdir():
                        subprocess.run(["cat", file], stdout=subprocess.DEVNULL, check=True)
                runs[name].append(timed(command))
                print(f"{name:14s}{runs[name][-1]['seconds']:8.2f} s", flush=True)
                shutil.rmtree(out)
    medians = {
        name: {key: statistics.median(run[key] for run in all_) for key in all_[0]}
        for name, all_ in runs.items()
    }
    print(
        f"\n{bytes_ / 1e9:.2f} GB, median of {args.repeats}, source {'warm' if args.warm else 'not cached'}"
    )
    print(table(medians, bytes_))
    found: dict[str, Any] = {
        "checkpoint": "random bfloat16 in the shapes of Llama 7B, fewer layers where smaller",
        "bytes": bytes_,
        "repeats": args.repeats,
        "warm": args.warm,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "median": medians,
        "runs": runs,
    }
    args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
