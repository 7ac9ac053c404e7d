"""Finds, fetches and loads models. A local folder is never looked up online."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from weakref import finalize

import torch

from vectomy.architecture import FAMILIES, REFUSED, Architecture, check_covered, resolve
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.checkpoint.gguf import GgufFile, is_gguf
from vectomy.checkpoint.quantization import check_supported
from vectomy.core.absent_path import is_local
from vectomy.core.config import LoadIn, Runtime, validate_config
from vectomy.core.errors import CheckpointError, ModelError, VectomyError
from vectomy.core.file_lock import wait_for_lock
from vectomy.core.file_moves import move_into_place
from vectomy.core.packages import describe_missing
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import cache_folder, sha256_file
from vectomy.core.suggestions import suggest_path
from vectomy.core.text_file import LARGEST_TEXT, check_regular, read_text
from vectomy.core.threads import use_threads
from vectomy.core.write_errors import name_write_errors
from vectomy.models.chat import ChatModel
from vectomy.models.chat_template import read_template
from vectomy.models.device_choice import choose_device, place_weights
from vectomy.models.from_pretrained import read_decoded, read_end_tokens, read_stored_weights
from vectomy.models.layerwise import LayerwiseModel
from vectomy.models.live_quantisation import (
    keep_exact,
    make_quantisation,
    missing_quantiser,
    reads_decoded,
)
from vectomy.models.loading_faults import explain_absent_model, explain_loading
from vectomy.models.precision import cast_plain, working_dtype
from vectomy.models.quiet import quiet
from vectomy.models.weights import Weights, check_class, read_model_config, skeleton

__all__ = [
    "check_known",
    "convert_gguf",
    "fetch",
    "load_layerwise",
    "load_model",
    "load_without_weights",
    "loading",
    "with_adapter",
]

# The files of a Hub repository that make up a model: safetensors and sidecars, no other weights.
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.py", "*.md"]
# Duplicates of the weights in the maker's own layout.
OTHER_WEIGHTS = ["consolidated*", "original/*"]
# Raised whenever GGUF files are dequantised in another way.
GGUF_RECIPE = 1
# Files that are read besides the weights, and the most bytes that each may have.
TEXT_FILES = {
    "chat_template.jinja": 1 << 20,
    "tokenizer.json": 1 << 29,
    "tokenizer_config.json": LARGEST_TEXT,
    "special_tokens_map.json": LARGEST_TEXT,
    "added_tokens.json": LARGEST_TEXT,
    "vocab.json": LARGEST_TEXT,
    "generation_config.json": LARGEST_TEXT,
}


def check_known(model: str) -> None:
    """Check a Hub model's config.json before prompts and weights are fetched.

    Raises:
        CheckpointError: the Hub does not serve it.
        ArchitectureError: its model type is refused, or its quantisation is not supported.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        name, revision = split_revision(model)
        config = json.loads(read_text(Path(hf_hub_download(name, "config.json", revision=revision))))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(explain_absent_model(model, error)) from None
    check_supported(config)
    if config.get("model_type") in FAMILIES | REFUSED:
        # Any other type may be probed once it is downloaded.
        resolve(config)


def fetch(model: str, revision: str | None = None) -> Path:
    """The local folder of a model: the folder itself, a dequantised GGUF file, or a download of its
    safetensors and sidecars from the Hub.

    Args:
        model: a folder, a GGUF file, OWNER/NAME or OWNER/NAME@REVISION.
        revision: a branch, tag or commit, where the name has none; the newest commit unless given.

    Raises:
        CheckpointError: it is neither a local folder nor a model on the Hub.
    """
    if is_gguf(model):
        return load_dequantized(Path(model).expanduser())
    if is_local(model):
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, own = split_revision(model)
    try:
        return Path(
            snapshot_download(
                name, revision=own or revision, allow_patterns=WANTED_FILES, ignore_patterns=OTHER_WEIGHTS
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise CheckpointError(explain_absent_model(model, error)) from None


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def load_model(
    path: str | Path,
    *,
    runtime: Runtime | None = None,
    device: str | None = None,
    dtype: Dtype | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool | None = None,
    load_in: LoadIn | None = None,
    name: str | None = None,
    tokenizer: bool = True,
    template: bool = True,
) -> ChatModel:
    """Load a model folder for inference.

    Args:
        path: a model folder, or `demo` or `demo-base`; the Hub is not asked for others.
        runtime: device, dtype, threads, thinking, trust_remote_code and load_in in one value; the
            arguments override it.
        device: `auto` means CUDA, spread over all cards, else MPS, else CPU; otherwise cpu, cuda,
            cuda:N or mps.
        dtype: `auto` is the checkpoint's own, or float32 if the processor cannot compute in it.
        thinking: let a model with a thinking block think before it answers.
        trust_remote_code: run Python code that the folder contains.
        load_in: quantise the weights with bitsandbytes, to 4 or 8 bits.
        name: the name in messages; the path unless given.
        tokenizer: False for a folder without a tokenizer; the model then runs only token ids.
        template: False for a model without a chat template.

    Returns:
        The model (`.model`, of transformers) with its tokenizer and template, in evaluation mode.

    Raises:
        CheckpointError: the folder is incomplete.
        ArchitectureError: the model type is not known.
        ModelError: transformers cannot load it, or it has no chat template; `load_in` without
            bitsandbytes.
    """
    given = {"device": device, "dtype": dtype, "thinking": thinking, "load_in": load_in}
    chosen = _override(runtime, trust_remote_code=trust_remote_code, **given)
    if lack := missing_quantiser(chosen.load_in):
        raise ModelError(lack)
    checkpoint, architecture = _open_checked(path)
    from transformers import GenerationConfig

    label = name or str(path)
    use_threads(chosen.threads)
    target = choose_device(chosen.device)
    with loading(label, checkpoint.path):
        text_tokenizer = _load_tokenizer(checkpoint, chosen.trust_remote_code) if tokenizer else None
        config = read_model_config(checkpoint, chosen.trust_remote_code)
        # Packed weights need little room, so that what they are unpacked to has it.
        wanted = working_dtype(chosen.dtype, config, checkpoint, target, whole=chosen.load_in is None)
        options = make_quantisation(chosen.load_in, checkpoint, architecture, config, wanted)
        # For weights that fit no card and are stored in another layout (experts); others are read
        # from the checkpoint.
        aside = (
            TemporaryDirectory(prefix="vectomy-", ignore_cleanup_errors=True) if target == "auto" else None
        )
        decoded = reads_decoded(checkpoint, chosen.load_in)
        model, info = (read_decoded if decoded else read_stored_weights)(
            checkpoint,
            config,
            output_loading_info=True,
            dtype=wanted or "auto",
            **place_weights(target, chosen.tensor_parallel),
            offload_folder=None if aside is None else aside.name,
            **options,
            trust_remote_code=chosen.trust_remote_code,
            local_files_only=True,
        )
    if aside is not None:
        finalize(model, aside.cleanup)
    keep_exact(model)
    if wanted is not None and check_supported(checkpoint.config).method and not decoded:
        cast_plain(model, wanted)
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the checkpoint lacks '{missing[0]}', which a {architecture.model_type} model has, and "
            f"{len(missing) - 1} more; transformers would fill them with random numbers: save the model again"
        )
    if tokenizer and template:
        with loading(label):
            _check_template(text_tokenizer, label)
    # Decoding is greedy: only the end-of-turn tokens of the folder's generation config are kept,
    # not its sampling, penalties and lengths.
    ends = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends)
    settings = (chosen.thinking, None, chosen.thought_tokens)
    model = model.eval().requires_grad_(False)
    chat = ChatModel(label, checkpoint, architecture, model, text_tokenizer, *settings)
    if tokenizer:
        with loading(label):
            _prepare_for_generate(chat)
    return chat


def _prepare_for_generate(chat: ChatModel) -> None:
    """Other callers of `generate`, such as the lm-evaluation-harness, end an answer where this
    project does, and pad with a token that the embedding has.
    """
    chat.model.generation_config.eos_token_id = list(chat.end_tokens) or None
    pad, eos = chat.tokenizer.pad_token_id, chat.tokenizer.eos_token_id
    if pad is not None and pad >= chat.rows and chat.pad_token == eos:
        chat.tokenizer.pad_token = chat.tokenizer.eos_token


def load_without_weights(
    path: str | Path, *, runtime: Runtime | None = None, name: str | None = None
) -> ChatModel:
    """Open a model folder for what needs no weights: its template, its tokens and their limits.

    Raises:
        CheckpointError, ArchitectureError, ModelError: as `load_model`.
    """
    checkpoint, architecture = _open_checked(path)
    label = name or str(path)
    chosen = runtime or Runtime()
    with loading(label, checkpoint.path):
        model = skeleton(checkpoint, "float32", chosen.trust_remote_code)
        check_class(model, checkpoint)
        tokenizer = _load_tokenizer(checkpoint, chosen.trust_remote_code)
    with loading(label):
        _check_template(tokenizer, label)
    return ChatModel(label, checkpoint, architecture, model, tokenizer, chosen.thinking)


def load_layerwise(
    path: str | Path,
    *,
    runtime: Runtime | None = None,
    device: str | None = None,
    dtype: Dtype | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool | None = None,
    name: str | None = None,
    tokenizer: bool = True,
    passes: bool = False,
) -> ChatModel:
    """Open a model folder of any size for `ChatModel.iter_layers`, which reads it block by block
    (layerwise.py).

    Args: as `load_model`; `device` auto is one card, if there is one. With `tokenizer` False the
        folder needs neither a tokenizer nor a chat template. With `passes` the model also answers
        and runs backward passes with recomputed blocks; each pass reads all blocks.

    Raises:
        CheckpointError: the folder is incomplete.
        ArchitectureError: the model type is not known.
        ModelError: transformers does not know it, its weights are packed, or it has no chat
            template.
    """
    checkpoint, architecture = _open_checked(path)
    label = name or str(path)
    chosen = _override(
        runtime, device=device, dtype=dtype, thinking=thinking, trust_remote_code=trust_remote_code
    )
    use_threads(chosen.threads)
    target = choose_device(chosen.device)
    if target == "auto":
        target = "cuda:0"
    with loading(label, checkpoint.path):
        text_tokenizer = _load_tokenizer(checkpoint, chosen.trust_remote_code) if tokenizer else None
        model = skeleton(checkpoint, chosen.dtype, chosen.trust_remote_code, target)
        check_class(model, checkpoint)
        weights = Weights(model, checkpoint, torch.device(target))
    if tokenizer:
        with loading(label):
            _check_template(text_tokenizer, label)
    blocks = [architecture.block(layer) for layer in range(architecture.n_layers)]
    stream = LayerwiseModel(model, weights, blocks, architecture.d_model)
    settings = (chosen.thinking, stream, chosen.thought_tokens)
    chat = ChatModel(label, checkpoint, architecture, model, text_tokenizer, *settings)
    if passes:
        with loading(label, checkpoint.path):
            stream.allow_passes()
            model.generation_config = read_end_tokens(checkpoint, model)
            if tokenizer:
                _prepare_for_generate(chat)
    return chat


def _override(runtime: Runtime | None, **given: str | bool | None) -> Runtime:
    """`runtime`, with every setting that is not None replaced."""
    changed = {name: value for name, value in given.items() if value is not None}
    return validate_config(Runtime, {**(runtime or Runtime()).model_dump(), **changed})


def with_adapter(chat: ChatModel, folder: str | Path) -> ChatModel:
    """The model with a PEFT adapter. This changes `chat` in place: load the model again to use it
    without the adapter.

    Raises:
        ModelError: peft is not installed, or cannot load the adapter.
    """
    if missing := describe_missing("loading an adapter", "peft"):
        raise ModelError(missing)
    from peft import PeftModel

    with loading(f"the adapter {folder}", Path(folder)):
        adapted = PeftModel.from_pretrained(chat.model, str(folder))
    # The inner model: its modules keep their names, its linear layers are now those of PEFT.
    return replace(chat, model=adapted.base_model.model.eval(), name=f"{chat.name} with an adapter")


def _open_checked(path: str | Path) -> tuple[Checkpoint, Architecture]:
    from vectomy.models.demo import is_demo, model_folder

    if is_demo(str(path)):
        path = model_folder(str(path))
    elif not is_local(str(path)):
        raise CheckpointError(
            f"there is no model folder {path} here{suggest_path(path)}, and the Hub is not asked; load the "
            "model with transformers and give it to vectomy.wrap(model, tokenizer), or give the folder of "
            f'a download (huggingface_hub.snapshot_download("{path}"))'
        )
    checkpoint = Checkpoint.open(path)
    architecture = architecture_in(checkpoint)
    check_covered(architecture)
    return checkpoint, architecture


@contextmanager
def loading(label: str, folder: Path | None = None) -> Iterator[None]:
    """Turn errors of transformers into a ModelError; `folder` is what it loads."""
    try:
        with quiet():
            yield
    except (VectomyError, KeyboardInterrupt, SystemExit):
        raise
    # The library of tokenizers panics over damaged files, which is no Exception.
    except BaseException as error:
        raise ModelError(explain_loading(label, folder, error)) from error


def _load_tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    files = checkpoint.path.iterdir()
    if not any(re.match(r"tokenizer|vocab|.*\.(model|tiktoken)$|tekken", file.name) for file in files):
        raise ModelError(
            f"{checkpoint.path} has no tokenizer (tokenizer.json or another of its files); copy it from the "
            "model that these weights were made from"
        )
    _check_text_files(checkpoint.path)
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.path, trust_remote_code=trust_remote_code, local_files_only=True
    )
    read_template(tokenizer, checkpoint.path)
    return tokenizer


def _check_text_files(folder: Path) -> None:
    """Raises ModelError for a file that transformers would read for ever (a pipe, a device), or
    that is larger than any of its kind: a template is copied many times.
    """
    for name, limit in TEXT_FILES.items():
        file = folder / name
        if os.path.lexists(file):
            try:
                check_regular(file, limit)
            except OSError as error:
                raise ModelError(
                    f"{file} cannot be read ({error.strerror}); download it again, or move it away"
                ) from None


def _check_template(tokenizer: Any, label: str) -> None:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError(
            f"{label} has no chat template, so it is not a chat model; add chat_template.jinja to its folder"
        )


def load_dequantized(file: Path) -> Path:
    """The folder of bfloat16 weights made from a GGUF file; cached by the hash of the file.

    Raises:
        CheckpointError: the file does not exist, or is not a GGUF file.
        ModelError: transformers cannot read it.
    """
    GgufFile.open(file)
    folder = cache_folder() / f"gguf-{sha256_file(file)[:16]}-{GGUF_RECIPE}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            beside = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(beside, ignore_errors=True)
            with name_write_errors(folder), loading(str(file)):
                convert_gguf(file, beside)
            move_into_place(beside, folder)
    return folder


def convert_gguf(file: Path, out: Path) -> None:
    """Write a GGUF model as a bfloat16 Hugging Face folder, its weights dequantised.

    transformers marks a loaded GGUF model as quantised and then refuses to save it, so the mark is
    removed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if missing := describe_missing("reading a GGUF file", "gguf"):
        raise ModelError(missing)
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.config._name_or_path = file.stem
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
