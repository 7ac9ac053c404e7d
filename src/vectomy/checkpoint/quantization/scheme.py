"""What config.json says about quantisation: a method that can be edited, or a refusal by name.

Sources: transformers' quantization_config
(https://huggingface.co/docs/transformers/main_classes/quantization), compressed-tensors'
config_groups (https://github.com/vllm-project/compressed-tensors), ModelOpt's quant_algo
(https://nvidia.github.io/Model-Optimizer/).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vectomy.checkpoint.quantization.integer_groups import IntegerLayout
from vectomy.core.errors import ArchitectureError
from vectomy.core.json_value import JsonObject, JsonValue

__all__ = ["OTHER_FILES", "REMEDY", "Scheme", "check_supported", "drop_quantization"]

REMEDY = (
    "use the model's bfloat16 release (--load-in 4bit runs it in as little memory), or load it with "
    "transformers, call model.dequantize(), save it and edit that copy"
)
# Where releases describe it: in config.json under the second, older name of compressed-tensors too,
# and in files beside it (AutoGPTQ, AutoAWQ).
CONFIG_KEYS = ("quantization_config", "compression_config")
OTHER_FILES = ("quantize_config.json", "quant_config.json")
# What transformers takes for an fp8 configuration that does not say (an explicit null means one
# scale a tensor).
BLOCK = (128, 128)
MX_BLOCK = (1, 32)
# Tuples: what a file holds in their place may have no hash.
MODELOPT_FP8 = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")
# Integers in groups: which keys name the layout, the widths, and what changes the meaning.
LAYOUT_KEYS = ("checkpoint_format", "format", "version")
INTEGER_LAYOUT_NAMES: dict[str, dict[str, IntegerLayout]] = {
    "gptq": {"gptq": "gptq", "gptq_v2": "gptq_v2"},
    "awq": {"gemm": "awq"},
}
INTEGER_BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}
OTHER_INTEGERS = ("is_marlin_format", "rotation")
STRATEGIES = ("tensor", "channel", "block")
# float-quantized is what stores F8 values; a group may name its own format.
FORMATS = (None, "float-quantized", "naive-quantized")


@dataclass(frozen=True)
class Scheme:
    """How the quantised weights of a model are stored; those it leaves alone are stored plainly
    beside them.
    """

    method: str
    """quant_method of config.json; empty for a model that is not quantised."""
    block: tuple[int, int] = BLOCK
    """Rows and columns of a weight that share a scale, where the scales are a grid."""
    integers: IntegerLayout | None = None
    """How weights of integers in groups are laid out."""
    bits: int = 0
    """Of such integers, where the tensors do not say it."""

    @property
    def packs_layers(self) -> bool:
        """Whether linear layers are stored quantised; MXFP4 packs experts alone."""
        return self.method not in ("", "mxfp4")


def check_supported(config: Mapping[str, JsonValue]) -> Scheme:
    """The scheme that a config.json describes.

    Raises:
        ArchitectureError: a method, or a form of it, that cannot be edited; it names both and the
            remedy.
    """
    quantization = next(_configs(config), None)
    if quantization is None:
        return Scheme("")
    if not isinstance(quantization, Mapping):
        raise ArchitectureError(f"quantization_config is {str(quantization)[:80]!r}, not an object; {REMEDY}")
    method = quantization.get("quant_method")
    if quantization.get("load_in_4bit") or quantization.get("load_in_8bit"):
        method = "bitsandbytes"
    if method == "fp8":
        return Scheme(method, _block(quantization.get("weight_block_size", BLOCK) or BLOCK))
    if method == "mxfp8":
        return Scheme(method, _block(quantization.get("weight_block_size") or MX_BLOCK))
    if method in ("mxfp4", "fbgemm_fp8"):
        return Scheme(method)
    if method in ("gptq", "awq"):
        return Scheme(method, integers=_integers(method, quantization))
    if method == "compressed-tensors":
        if bits := _packed_bits(quantization):
            return Scheme(method, integers="pack-quantized", bits=bits)
        return Scheme(method, _compressed_tensors(quantization))
    if method == "modelopt":
        return Scheme(method, _modelopt(quantization))
    if method is None and "group_size" in quantization and "bits" in quantization:
        method = "MLX"
    raise ArchitectureError(
        f"the model is quantised with method {method!r:.80} (quantization_config of config.json), whose "
        f"weights cannot be edited; {REMEDY}"
    )


def drop_quantization(config: Mapping[str, JsonValue]) -> JsonObject:
    """A copy of config.json without all that `check_supported` reads."""
    result = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    text = result.get("text_config")
    if isinstance(text, Mapping):
        result["text_config"] = {key: value for key, value in text.items() if key not in CONFIG_KEYS}
    return result


def _quote(value: Any) -> str:
    """A value of a file, printable and short enough for a message of one line."""
    text = str(value)
    return text if text.isprintable() and len(text) <= 80 else f"{text!r:.80}"


def _configs(config: Mapping[str, JsonValue]) -> Iterator[Any]:
    """At the top and in the language model's part."""
    for part in (config, config.get("text_config")):
        if isinstance(part, Mapping):
            yield from (part[key] for key in CONFIG_KEYS if part.get(key))


def _block(value: Any) -> tuple[int, int]:
    # vLLM and compressed-tensors also write "128x128".
    if isinstance(value, str):
        value = [int(size) if size.isdecimal() and len(size) < 10 else size for size in value.split("x")]
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in value)
    ):
        raise ArchitectureError(
            f"quantization_config gives a weight block of {value!r:.80}; two positive integers are needed"
        )
    return value[0], value[1]


def _integers(method: str, quantization: Mapping[str, JsonValue]) -> IntegerLayout:
    """The layout of GPTQ and AWQ weights, by the names of AutoGPTQ, AutoAWQ and GPTQModel."""
    named = next((quantization[key] for key in LAYOUT_KEYS if quantization.get(key)), None)
    layout = str(named or ("gptq" if method == "gptq" else "gemm")).lower()
    bits = quantization.get("bits", quantization.get("w_bit", 4))
    other = [key for key in OTHER_INTEGERS if quantization.get(key)]
    if quantization.get("backend") == "llm-awq":
        layout = "llm-awq"
    if quantization.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
        other.append("pack_dtype")
    known = INTEGER_LAYOUT_NAMES[method]
    if layout not in known or bits not in INTEGER_BITS[method] or other:
        raise ArchitectureError(
            f"the model is quantised with method '{method}', layout '{_quote(layout)}', {_quote(bits)} bits"
            f"{''.join(f', {key}' for key in other)}, which cannot be edited; {REMEDY}"
        )
    return known[layout]


def _packed_bits(quantization: Mapping[str, JsonValue]) -> int:
    """The bits of compressed-tensors' packed integers, where all groups are such; else 0."""
    groups = quantization.get("config_groups")
    if quantization.get("transform_config") or not isinstance(groups, Mapping) or not groups:
        return 0
    widths = set()
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if not isinstance(group, Mapping) or not isinstance(weights, Mapping):
            return 0
        packed = (group.get("format") or quantization.get("format")) == "pack-quantized"
        known = weights.get("type", "int") == "int" and weights.get("strategy") in ("group", "channel")
        if not packed or not known:
            return 0
        widths.add(weights.get("num_bits"))
    bits = widths.pop()
    return bits if isinstance(bits, int) and not widths and bits in INTEGER_BITS["gptq"] else 0


def _compressed_tensors(quantization: Mapping[str, JsonValue]) -> tuple[int, int]:
    method = "compressed-tensors"
    # Rotated weights live in another basis than the residual stream's directions.
    if quantization.get("transform_config"):
        raise ArchitectureError(
            f"the model is quantised with method '{method}' and a transform_config; {REMEDY}"
        )
    sparsity = quantization.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format", "dense") != "dense":
        raise ArchitectureError(
            f"the model is quantised with method '{method}' and stored as {sparsity['format']!r:.80}; "
            f"{REMEDY}"
        )
    groups = quantization.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ArchitectureError(
            f"the model is quantised with method '{method}', but quantization_config has no config_groups; "
            f"{REMEDY}"
        )
    block = BLOCK
    for name, group in groups.items():
        # A scheme by name ("FP8_DYNAMIC") with its targets holds no layout.
        group = group if isinstance(group, Mapping) else {}
        weights = group.get("weights")
        weights = weights if isinstance(weights, Mapping) else {}
        kind, bits, strategy = weights.get("type"), weights.get("num_bits"), weights.get("strategy")
        form = group.get("format") or quantization.get("format")
        supported = (
            kind == "float" and bits == 8 and strategy in STRATEGIES and weights.get("symmetric", True)
        )
        if not supported or weights.get("actorder") or form not in FORMATS:
            raise ArchitectureError(
                f"the model is quantised with method '{method}', and its group {name!r:.80} holds "
                f"{_quote(kind)} weights of {_quote(bits)} bits (strategy '{_quote(strategy)}', format "
                f"'{_quote(form)}'), which cannot be edited; {REMEDY}"
            )
        if strategy == "block":
            block = _block(weights.get("block_structure") or BLOCK)
    return block


def _modelopt(quantization: Mapping[str, JsonValue]) -> tuple[int, int]:
    algorithm = quantization.get("quant_algo")
    inner = quantization.get("quantization")
    if algorithm is None and isinstance(inner, Mapping):
        algorithm = inner.get("quant_algo")
    if algorithm not in MODELOPT_FP8:
        raise ArchitectureError(
            f"the model is quantised with method 'modelopt' and algorithm '{_quote(algorithm)}', whose "
            f"weights cannot be edited; {REMEDY}"
        )
    return BLOCK
