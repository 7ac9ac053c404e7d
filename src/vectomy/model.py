"""Live chat models: load one, render prompts with its template, run it in batches, answer greedily.

The only module that knows transformers. Everything offline works offline: a folder is never looked up elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from jinja2 import TemplateError
from torch import Tensor, nn

from vectomy.architecture import Architecture, resolve
from vectomy.checkpoint import Checkpoint
from vectomy.errors import ActivationError, CheckpointError, ModelError, VectomyError
from vectomy.progress import Progress, silent
from vectomy.prompts import Prompt
from vectomy.types import TokenIds

__all__ = ["Batch", "ChatModel", "convert_gguf", "check_known", "fetch", "is_local", "load_model"]

# What of a Hub repository is a model: safetensors and what goes with them, no other weights.
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.md"]
# The same weights again in a maker's own layout.
OTHER_WEIGHTS = ["consolidated*", "original/*"]
SENTINELS = ("Hello", "What is 2 + 2?", "List\nthree things.", "x")


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, padded on the left; `rows` are their places in the caller's list."""

    rows: list[int]
    input_ids: TokenIds
    attention_mask: TokenIds


@dataclass(frozen=True)
class ChatModel:
    """A causal language model with its tokenizer and template, on one device, in evaluation mode."""

    name: str
    checkpoint: Checkpoint
    architecture: Architecture
    model: Any
    tokenizer: Any
    thinking: bool = False

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    # Prompts to tokens

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model's chat template writes it, up to where the answer begins."""
        return _render(self.tokenizer, prompt, self.thinking)

    def tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids per prompt. The template has written the special tokens, so none are added."""
        if not prompts:
            return []
        encoded = self.tokenizer([self.render(prompt) for prompt in prompts], add_special_tokens=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def post_instruction(self) -> list[int]:
        """The tokens of the template behind the instruction, the same for every prompt; the last is position -1.

        Found from the template itself: the longest common ending of prompts that end differently.

        Raises:
            ModelError: the template puts nothing behind the instruction.
        """
        encoded = self.tokens([Prompt(text) for text in SENTINELS])
        ending: list[int] = []
        for column in zip(*(reversed(ids) for ids in encoded), strict=False):
            if len(set(column)) > 1:
                break
            ending.append(column[0])
        if not ending:
            raise ModelError(f"the chat template of {self.name} puts no token behind the instruction")
        return ending[::-1]

    def batches(self, tokens: Sequence[Sequence[int]], budget: int, growth: int = 0) -> Iterator[Batch]:
        """Batches of at most `budget` tokens, padding and `growth` a row included, longest first: memory peaks at once."""
        order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
        while order:
            width = len(tokens[order[0]])
            count = max(1, budget // max(1, width + growth))
            rows, order = order[:count], order[count:]
            yield self._padded(rows, [tokens[row] for row in rows], width)

    def _padded(self, rows: list[int], tokens: list[Sequence[int]], width: int) -> Batch:
        ids = torch.full((len(rows), width), self.pad_token, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(tokens):
            ids[place, width - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[place, width - len(row) :] = 1
        return Batch(rows, ids.to(self.device), mask.to(self.device))

    @property
    def pad_token(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0

    # Forward passes

    def hidden(self, batch: Batch) -> Float[Tensor, "batch seq d_model"]:
        """The last hidden states, behind the final norm: what the head reads. Computes no logits."""
        positions = (batch.attention_mask.cumsum(-1) - 1).clamp_min(0)
        output = self.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions, use_cache=False
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def log_probs(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Log-probabilities of the next token from last hidden states, in float32."""
        head: nn.Module = self.model.get_output_embeddings()
        logits: Tensor = head(hidden)
        return logits.float().log_softmax(-1)

    @torch.inference_mode()
    def next_token_log_probs(self, tokens: Sequence[Sequence[int]], budget: int) -> Float[Tensor, "prompt vocab"]:
        """Log-probabilities of the first answer token for each prompt, float32 on the CPU."""
        out = torch.empty(len(tokens), self.architecture.vocab)
        for batch in self.batches(tokens, budget):
            out[batch.rows] = self.log_probs(self.hidden(batch)[:, -1]).cpu()
        if not bool(out.isfinite().all()):
            raise ActivationError(
                f"{self.name} gives NaN or infinite log-probabilities; the weights are damaged, or the dtype is too narrow for this "
                "model (try --dtype float32 or bfloat16)"
            )
        return out

    # Answers

    @torch.inference_mode()
    def answer(
        self,
        tokens: Sequence[Sequence[int]],
        max_new_tokens: int,
        budget: int,
        progress: Progress = silent,
        what: str = "answering",
    ) -> list[list[int]]:
        """Greedy answers as token ids, each with its end-of-turn token if it came to one."""
        from transformers import GenerationConfig

        ends = _end_tokens(self)
        greedy = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends or None, pad_token_id=self.pad_token
        )
        answers: list[list[int]] = [[] for _ in tokens]
        with progress(what, len(tokens), "prompts") as advance:
            for batch in self.batches(tokens, budget, growth=max_new_tokens):
                out = self.model.generate(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, generation_config=greedy
                )
                for row, ids in zip(batch.rows, out[:, batch.input_ids.shape[1] :].tolist(), strict=True):
                    end = next((at for at, token in enumerate(ids) if token in ends), None)
                    answers[row] = ids if end is None else ids[: end + 1]
                advance(len(batch.rows))
        return answers

    def text(self, answer: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()


def _end_tokens(chat: ChatModel) -> list[int]:
    ends: Any = chat.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends, chat.tokenizer.eos_token_id]
    return sorted({int(token) for token in listed if token is not None})


def _render(tokenizer: Any, prompt: Prompt, thinking: bool) -> str:
    user = {"role": "user", "content": prompt.text}
    try:
        if prompt.system is None:
            text = _apply_template(tokenizer, [user], thinking)
        else:
            text = _render_with_system(tokenizer, user, prompt.system, thinking)
    except Exception as error:  # noqa: BLE001 (a template raises whatever its author wrote)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} does not take a prompt ({type(error).__name__}: {reason}); mend chat_template.jinja"
        ) from None
    if not thinking and text.rstrip().endswith("<think>"):
        # The template opens a thinking block whatever it is told: close it, so that the answer itself comes next.
        text = text.rstrip() + "\n\n</think>\n\n"
    return text


def _render_with_system(tokenizer: Any, user: dict[str, str], system: str, thinking: bool) -> str:
    """With the system role where the template has one. A template without one raises (Gemma) or leaves the system prompt
    out without a word; there it opens the user's turn, as Gemma's model card does it."""
    try:
        text = _apply_template(tokenizer, [{"role": "system", "content": system}, user], thinking)
    except TemplateError:
        text = ""
    if system.strip() in text:
        return text
    joined = {"role": "user", "content": f"{system}\n\n{user['content']}"}
    return _apply_template(tokenizer, [joined], thinking)


def _apply_template(tokenizer: Any, messages: list[dict[str, str]], thinking: bool) -> str:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, enable_thinking=thinking)
    return str(text)


# Loading


def is_local(model: str) -> bool:
    """Whether `model` means a folder: it is one, or is not written as OWNER/NAME."""
    return Path(model).expanduser().exists() or model.count("/") != 1 or model.startswith((".", "/", "~"))


def check_known(model: str) -> None:
    """Look at a Hub model's config.json alone, before prompts and weights are fetched.

    Raises:
        CheckpointError: the Hub does not give it.
        ArchitectureError: its model type is not known, or it is quantised.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        config = json.loads(Path(hf_hub_download(model, "config.json")).read_text(encoding="utf-8"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _not_given(model, error) from None
    resolve(config)


def _not_given(model: str, error: Exception) -> CheckpointError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CheckpointError(f"'{model}' is no folder here, and the Hub does not give it: {reason[:200]}")


def fetch(model: str) -> Path:
    """The local folder of a model: itself, or a download from the Hub of its safetensors and sidecars.

    Raises:
        CheckpointError: it is neither a folder nor something the Hub gives.
    """
    if is_local(model):
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=WANTED_FILES, ignore_patterns=OTHER_WEIGHTS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise _not_given(model, error) from None


def load_model(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    thinking: bool = False,
    trust_remote_code: bool = False,
    name: str | None = None,
) -> ChatModel:
    """Load a checked folder for inference.

    `device` is auto (CUDA, spread over all cards; else MPS; else CPU), cpu, cuda, cuda:N or mps; `dtype` auto is the
    checkpoint's own.

    Raises:
        CheckpointError, ArchitectureError: the folder is not whole, or the model is not known.
        ModelError: transformers does not load it, or it has no chat template.
    """
    checkpoint = Checkpoint.open(path)
    architecture = resolve(checkpoint.config)
    architecture.check_covered(checkpoint.tensors)
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    label = name or str(path)
    target = _device(device)
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.path, trust_remote_code=trust_remote_code, local_files_only=True
            )
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint.path,
                dtype="auto" if dtype == "auto" else getattr(torch, dtype),
                device_map=target,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            )
        except VectomyError:
            raise
        except Exception as error:
            raise ModelError(
                f"transformers does not load {label}: {type(error).__name__}: {str(error)[:400]}"
            ) from error
    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError(f"{label} has no chat template, so it is no chat model; add chat_template.jinja to its folder")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError(
            f"{label} does not fit on the device '{device}' and was put off to memory or disk, which hooks cannot follow; use --device cpu or a larger device"
        )
    # Greedy means greedy: what the folder says of sampling, penalties and lengths goes, its ends of turn stay.
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)
    return ChatModel(label, checkpoint, architecture, model.eval().requires_grad_(False), tokenizer, thinking)


def _device(device: str) -> str:
    if device == "auto":
        return "auto" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = device.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(kind, False):
        usable = ", ".join(name for name, yes in there.items() if yes)
        raise ModelError(f"the device '{device}' is not here; usable: auto, {usable}")
    return device


def convert_gguf(file: Path, out: Path) -> None:
    """Write a GGUF model as a bfloat16 Hugging Face folder, its weights dequantised.

    transformers keeps a GGUF model marked as quantised, which cannot be saved; the mark goes with the packing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise ModelError("reading a GGUF file takes the package gguf: pip install 'vectomy[gguf]'")
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = file.stem
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and warnings of transformers: ours say what matters."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
