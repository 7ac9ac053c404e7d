"""What a folder holds that is no model folder of transformers, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from vectomy.core.text_file import read_text

__all__ = ["RECORDS", "explain_file", "explain_folder", "is_lfs_pointer", "name_remedy", "was_written_here"]

# A folder beside the weights for what vectomy recorded of them (hub/provenance.py): no part of the
# model, and not true of a copy that is edited.
RECORDS = "vectomy"

LFS = b"version https://git-lfs.github.com/spec/"
ADAPTER, PIPELINE = "adapter_config.json", "model_index.json"
# Endings of weights in formats that are not read here, and what they are.
OTHER_FORMATS = {
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".tflite": "TensorFlow Lite",
    ".litertlm": "LiteRT",
    ".task": "MediaPipe",
    ".mlmodel": "Core ML",
    ".mlpackage": "Core ML",
    ".engine": "TensorRT",
    ".nemo": "NeMo",
    ".npz": "NumPy",
    ".distcp": "PyTorch's distributed checkpoint",
    ".xml": "OpenVINO",
}
# Folders of one rank's or one part's weights, as training writes them.
SHARDED = ("global_step*", "pytorch_model_fsdp*", "*.distcp", "zero_to_fp32.py", "mp_rank_*")


def was_written_here(folder: Path) -> bool:
    """Whether vectomy wrote this checkpoint: then it cannot be downloaded again."""
    return (folder / RECORDS).is_dir()


def name_remedy(folder: Path) -> str:
    """What to do about a model folder with a damaged or missing file."""
    if not was_written_here(folder):
        return "download it again"
    return "write it again: with the same `vectomy run`, or, once the folder is deleted, with `vectomy apply`"


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is what git leaves in its place without git-lfs."""
    try:
        if not path.is_file() or path.stat().st_size > 1024:
            return False
        with path.open("rb") as file:
            return file.read(len(LFS)) == LFS
    except OSError:
        return False


def explain_file(path: Path) -> str | None:
    """Why no model can be opened at a path that is no folder; None where nothing is there."""
    if path.is_symlink() and not path.exists():
        return f"{path} is a link to {path.readlink()}, which does not exist; download the model again"
    if not path.exists():
        return None
    if is_lfs_pointer(path):
        return _lfs(path)
    if path.suffix == ".safetensors":
        return (
            f"{path} is a single file; give the folder {path.parent}, which has to hold config.json as well"
        )
    return f"{path} is a file, not a folder; give a folder with config.json and *.safetensors"


def explain_folder(path: Path) -> str | None:
    """Why a folder is no model folder, by what lies in it; None for one that may be a model."""
    pointers = (name for name in _files(path) if is_lfs_pointer(path / name) and _is_needed(name))
    pointer = next(pointers, None)
    if pointer is not None:
        return _lfs(path / pointer)
    if (path / ADAPTER).is_file():
        return _explain_adapter(path)
    if (path / PIPELINE).is_file():
        return (
            f"{path} is a diffusers pipeline ({PIPELINE}), not a language model; its text encoder, if that "
            "is a decoder-only language model, lies in its own folder (text_encoder/)"
        )
    if (path / "config.json").exists() and any(path.glob("*.safetensors*")):
        return None
    return _explain_cache(path) or _explain_format(path) or _explain_inner(path)


def _files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))


def _is_needed(name: str) -> bool:
    return (
        name in ("config.json", "generation_config.json", "merges.txt", "vocab.json", "chat_template.jinja")
        or name.startswith("tokenizer")
        or name.endswith((".safetensors", ".safetensors.index.json", ".gguf", ".model"))
    )


def _lfs(path: Path) -> str:
    return (
        f"{path} is a git-LFS pointer, not the file itself: the repository was cloned without git-lfs. Run "
        f"'git lfs install && git lfs pull' in {path.parent}, or download it with 'hf download'"
    )


def _explain_adapter(path: Path) -> str:
    base = _read_key(path / ADAPTER, "base_model_name_or_path")
    if (path / "config.json").is_file() and any(path.glob("model*.safetensors*")):
        return (
            f"{path} holds a whole model and an adapter ({ADAPTER}, made for {base}), and transformers would "
            "load the adapter and its base instead of the model: move the adapter's files to a folder of "
            "their own"
        )
    return (
        f"{path} is a PEFT adapter (LoRA) of {base}, not a model: load both with peft, call "
        "model.merge_and_unload(), save that model and its tokenizer, and give the new folder"
    )


def _read_key(path: Path, key: str) -> str:
    try:
        value = json.loads(read_text(path))[key]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "an unnamed base"
    return f"{str(value)!r:.200}"


def _explain_cache(path: Path) -> str | None:
    """A folder of the Hub's cache, which holds snapshots of a model or several models."""
    snapshots = sorted(folder for folder in path.glob("snapshots/*") if folder.is_dir())
    if snapshots:
        main = path / "refs" / "main"
        newest = path / "snapshots" / (read_text(main, errors="replace").strip() if main.is_file() else "")
        chosen = newest if newest in snapshots else snapshots[-1]
        return f"{path} is the Hub cache's folder of a model; give its snapshot: {chosen}"
    models = sorted(folder.name for folder in path.glob("models--*"))
    if models:
        example = models[0].removeprefix("models--").replace("--", "/")
        return f"{path} is a Hub cache of {len(models)} models; give a model by its name, such as {example}"
    return None


def _explain_format(path: Path) -> str | None:
    names = _files(path)
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ggufs and not any(name.endswith(".safetensors") for name in names):
        texts = [name for name in ggufs if "mmproj" not in name]
        if not texts:
            return (
                f"{path} holds a projector alone ({_list(ggufs)}: the image or audio part of a multimodal "
                "model), which does not generate text; give the language model that it belongs to"
            )
        return (
            f"{path} holds GGUF files ({_list(ggufs)}) and no safetensors; give one of the files: "
            f"{path / texts[0]}"
        )
    if any(True for pattern in SHARDED for _ in path.glob(pattern)):
        return (
            f"{path} is a sharded training checkpoint (FSDP or DeepSpeed), not a model folder; gather its "
            "weights first: zero_to_fp32.py of DeepSpeed, 'accelerate merge-weights' for FSDP"
        )
    if "params.json" in names and "config.json" not in names:
        return (
            f"{path} is in the maker's own layout (params.json, "
            f"{_list(n for n in names if 'consolidated' in n)}); use the model's release for transformers, "
            "or convert it"
        )
    if any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt")) for name in names):
        return None
    other = next((name for name in names if Path(name).suffix in OTHER_FORMATS), None)
    if other is not None:
        return (
            f"{path} holds weights in the format {OTHER_FORMATS[Path(other).suffix]} only ({other}); use the "
            "model's safetensors release"
        )
    return None


def _explain_inner(path: Path) -> str | None:
    """The model lies one folder further in: a trainer's output, a clone in a clone."""
    if (path / "config.json").exists():
        return None
    inner = sorted(
        file.parent for file in path.glob("*/config.json") if any(file.parent.glob("*.safetensors"))
    )
    if not inner:
        return None
    newest = max(inner, key=lambda folder: (folder / "config.json").stat().st_mtime)
    return (
        f"{path} has no config.json; it holds model folders ({_list(f.name for f in inner)}): give {newest}"
    )


def _list(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
