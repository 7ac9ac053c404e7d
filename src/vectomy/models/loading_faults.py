"""Why transformers does not load a folder, and what to do: from the files, before its own words."""

from __future__ import annotations

import json
from pathlib import Path

from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.quoted_error import quote_error
from vectomy.core.repo_name import explain_gated, split_revision
from vectomy.core.suggestions import suggest, suggest_path
from vectomy.core.text_file import read_text
from vectomy.core.write_errors import NO_RIGHT

__all__ = ["explain_absent_model", "explain_loading"]

# What transformers reads beside the weights; config.json is read before (checkpoint/index.py).
READ_AS_JSON = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "generation_config.json", "adapter_config.json", "processor_config.json"),
)
CLIP = 300


def explain_loading(label: str, folder: Path | None, error: BaseException) -> str:
    """One sentence for an error of transformers or PEFT.

    Args:
        folder: what was loaded, where the error may come from its files.
    """
    if isinstance(error, PermissionError):
        return f"{error.filename or label} cannot be read: {NO_RIGHT}"
    if is_out_of_memory(error):
        return (
            f"memory ran out while {label} was loaded ({quote_error(error, CLIP)}); use --load-in 4bit, "
            "--dtype bfloat16 if it is loaded in float32, another --device, or a larger machine"
        )
    reason = None if folder is None else _explain_files(folder, error)
    if reason is not None:
        return reason
    if "dispatched on the CPU or the disk" in str(error):
        return (
            f"{label} does not fit on the card with its weights quantised, and quantised layers cannot be "
            "moved away from it; use --load-in 4bit, more cards, or --device cpu"
        )
    text = quote_error(error, CLIP) if str(error).strip() else "no message"
    return (
        f"transformers cannot load {label}: {type(error).__name__}: {text}; compare the folder with its "
        "release, or update transformers"
    )


def _explain_files(folder: Path, error: BaseException) -> str | None:
    for name in READ_AS_JSON:
        try:
            json.loads(read_text(folder / name))
        except PermissionError:
            return f"{folder / name} cannot be read: {NO_RIGHT}"
        except (ValueError, RecursionError) as fault:
            return f"{folder / name} does not parse as JSON ({quote_error(fault, CLIP)}); download it again"
        except OSError:
            continue
    text = str(error)
    if "custom code" in text or "trust_remote_code" in text:
        return (
            f"{folder} is loaded by Python code of its own, which is not run unasked; read the code, and "
            "give --trust-remote-code"
        )
    if "does not recognize this architecture" in text:
        return _explain_type(folder)
    if "sentencepiece" in text:
        return (
            f"the tokenizer of {folder} needs a package: pip install sentencepiece tiktoken; or add its "
            "tokenizer.json"
        )
    return None


def _explain_type(folder: Path) -> str:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    try:
        name = str(json.loads(read_text(folder / "config.json")).get("model_type"))
    except (OSError, ValueError, AttributeError):
        name = "?"
    return (
        f"{folder / 'config.json'} says model_type {name!r:.80}, which transformers "
        f"{transformers.__version__} does not know{suggest(name[:80], CONFIG_MAPPING_NAMES)}; correct it, or "
        "update transformers: pip install --upgrade transformers"
    )


def explain_absent_model(model: str, error: Exception) -> str:
    """One sentence for a name that is neither a local folder nor given out by the Hub."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, revision = split_revision(model)
    start = f"'{model}' is not a local folder{suggest_path(model)}"
    if isinstance(error, GatedRepoError):
        return explain_gated(name)
    if isinstance(error, RevisionNotFoundError):
        return (
            f"the model '{name}' on the Hub has no branch, tag or commit '{revision}'; see its files for "
            f"those that it has: https://huggingface.co/{name}/commits/main"
        )
    if isinstance(error, HFValidationError):
        return f"{start}, and no name of a model on the Hub (OWNER/NAME)"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"{start}, and the Hub has no model of that name, or hides it from this token; correct the "
            "name, or log in with `hf auth login`"
        )
    reason = quote_error(error, CLIP)
    if "config.json" in reason and "404" in reason:
        return f"{start}, and the repository on the Hub holds no model (no config.json); give another"
    return (
        f"{start}, and the Hub does not serve it; check the name, the network and HF_HUB_OFFLINE ({reason})"
    )
