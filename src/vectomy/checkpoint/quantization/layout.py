"""Which tensors of a checkpoint hold one logical weight, and which tensors are only parts of
another.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from vectomy.checkpoint.index import Checkpoint
from vectomy.checkpoint.quantization.integer_groups import (
    INTEGER_LAYOUTS,
    IntegerLayout,
    count_inputs,
    parts_of,
)
from vectomy.checkpoint.quantization.scheme import MX_BLOCK, REMEDY, Scheme, check_supported
from vectomy.checkpoint.reader import TORCH_DTYPES
from vectomy.checkpoint.safetensors_header import TensorEntry
from vectomy.core.errors import CheckpointError

__all__ = ["Encoding", "PackedWeight", "companions", "count_written_bytes", "integer_weights", "locate"]

Encoding = Literal["plain", "fp8-tensor", "fp8-channel", "fp8-block", "mxfp4", IntegerLayout]

FP8 = ("F8_E4M3", "F8_E5M2")
EXPONENTS = ("F8_E8M0", "U8")
# Stored bits of a number's fraction, by the stored dtype; packed bytes say nothing of theirs.
FRACTION_BITS = {"F64": 52, "F32": 23, "F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2, "mxfp4": 1}
SCALES = (*TORCH_DTYPES, *EXPONENTS)
# By method, a tensor beside X.weight that gives it away (X.weight itself is packed, or has another
# name).
SIGNS = (
    ("weight.absmax", "bitsandbytes"),
    ("weight.quant_map", "bitsandbytes"),
    ("SCB", "bitsandbytes"),
    ("qweight", "GPTQ or AWQ"),
    ("weight_scale_2", "NVFP4"),
    ("weight_global_scale", "NVFP4"),
    ("weight_packed", "compressed-tensors (packed)"),
    ("bitmask", "compressed-tensors (sparse)"),
    ("weight_zero_point", "asymmetric quantisation"),
    ("weight_g_idx", "activation ordering"),
    ("pre_quant_scale", "ModelOpt AWQ"),
    ("weight._data", "quanto"),
    ("W_q", "HQQ"),
    ("codebooks", "AQLM"),
)
# Scales of activations and of the key/value cache: they calibrate kernels and are no factor of the
# weight.
ACTIVATION = re.compile(
    r"(.+)\.(?:input_scale|activation_scale|output_scale|qscale_act)|(.+)_activation_scale"
)
CACHE = re.compile(r"(.+?)(?:\.([qkv])_proj)?\.([qkv])_scale")


@dataclass(frozen=True)
class PackedWeight:
    """One logical weight as it is stored.

    The last two axes of `shape` are (output, input), as in y = W x, for every module of
    transformers that is a linear layer; axes before them count experts. MXFP4 is the one that
    transformers transposes after it has decoded (`convert_moe_packed_tensors` gives [experts,
    input, output]); here it stays as stored, [experts, output, input]. An embedding is (vocabulary,
    d_model).
    """

    name: str
    """Logical name, e.g. "model.layers.0.mlp.down_proj.weight" or
    "model.layers.0.mlp.experts.down_proj".
    """
    parts: tuple[str, ...]
    """Names of its tensors: the values first, then the scales."""
    encoding: Encoding
    shape: tuple[int, ...]
    """Of the logical weight."""
    block: tuple[int, int] = (1, 1)
    """Rows and columns of a matrix that share a scale; the last ones may be cut off."""

    @property
    def is_transposed(self) -> bool:
        """transformers transposes the last two axes after it has decoded the weight."""
        return self.encoding == "mxfp4"

    @property
    def is_written_plain(self) -> bool:
        """An edited checkpoint holds it as a plain tensor: it is stored as integers in groups, and
        those could not take the edit.
        """
        return self.encoding in INTEGER_LAYOUTS

    @property
    def written_from(self) -> str:
        """The tensor whose dtype a plain copy of it has: its scales, or itself."""
        if not self.is_written_plain:
            return self.parts[0]
        return parts_of(self.name.removesuffix(".weight"), self.encoding).scales

    def stream_axis(self, axis: int) -> int:
        """Which axis of the decoded weight is the stream's, when it is `axis` of the live parameter
        (or of the tensor as stored, if it is not quantised). Not negative.
        """
        depth = len(self.shape)
        return depth - 2 if self.is_transposed else axis % depth

    def fraction_bits(self, checkpoint: Checkpoint) -> int:
        """Bits behind the leading one of a stored value; integers count as float64, which holds
        them exactly.
        """
        stored = self.encoding if self.is_transposed else checkpoint.tensors[self.written_from].dtype
        return FRACTION_BITS.get(stored, FRACTION_BITS["F64"])

    @property
    def grid(self) -> tuple[int, int]:
        """How many scales a matrix has, down and across."""
        return -(-self.shape[-2] // self.block[0]), -(-self.shape[-1] // self.block[1])

    def experts(self, count: int) -> PackedWeight:
        """The same for `count` consecutive experts of it, whose parts are the same slices of axis
        0.
        """
        return replace(self, shape=(count, *self.shape[1:]))


def scale_names(name: str) -> tuple[str, ...]:
    """What releases call the scales of a weight; all of them multiply, those called inverse too.

    `scale` is DeepSeek-V4's and `qscale_weight` Mistral's name.
    """
    names = (f"{name}_scale_inv", f"{name}_scale")
    module = name.removesuffix(".weight")
    return names if module == name else (*names, f"{module}.scale", f"{module}.qscale_weight")


def locate(checkpoint: Checkpoint, name: str) -> PackedWeight:
    """Where and how the logical weight `name` is stored; reads config.json and headers, no weights.

    Raises:
        CheckpointError: no such weight, an encoding that cannot be edited, or scales that do not
            fit the values.
        ArchitectureError: config.json names a method that cannot be edited.
    """
    scheme = check_supported(checkpoint.config)
    tensors, entry = checkpoint.tensors, checkpoint.tensors.get(name)
    if entry is None and (f"{name}_blocks" in tensors or f"{name}_scales" in tensors):
        return _mxfp4(checkpoint, name)
    module = name.removesuffix(".weight")
    if scheme.integers and entry is None and parts_of(module, scheme.integers).values in tensors:
        return _integer_groups(checkpoint, name, scheme)
    for sign, method in SIGNS:
        if f"{module}.{sign}" in tensors and (
            entry is not None or sign in ("qweight", "weight_packed", "W_q")
        ):
            raise CheckpointError(
                f"weight '{name}' is stored with method {method} (tensor '{module}.{sign}' of "
                f"{checkpoint.path}), which cannot be edited; {REMEDY}"
            )
    if entry is None:
        raise CheckpointError(f"weight '{name}' is not in {checkpoint.path}; save the model again")
    scales = [tensors[scale] for scale in scale_names(name) if scale in tensors]
    if entry.dtype in TORCH_DTYPES:
        # Every loader would multiply, or choke; either way the stored values are not the weight's.
        if scales:
            raise CheckpointError(
                f"tensor '{name}' is stored as {entry.dtype} but has scales ('{scales[0].name}'), as only "
                f"quantised weights do; {REMEDY}"
            )
        return PackedWeight(name, (name,), "plain", entry.shape)
    if entry.dtype not in FP8:
        if not scheme.method:
            raise CheckpointError(
                f"tensor '{name}' of {checkpoint.path} is stored as {entry.dtype}, and config.json names no "
                "method of quantisation that says what its numbers mean; use the model's bfloat16 release"
            )
        raise CheckpointError(
            f"tensor '{name}' is stored as {entry.dtype} with method '{scheme.method}', which cannot be "
            f"edited; {REMEDY}"
        )
    if len(scales) != 1:
        names = ", ".join(f"'{scale.name}'" for scale in scales) or "none"
        raise CheckpointError(
            f"tensor '{name}' is stored as {entry.dtype} and needs one tensor of scales; {checkpoint.path} "
            f"has {names}; {REMEDY}"
        )
    return _fp8(entry, scales[0], scheme)


def _fp8(entry: TensorEntry, scale: TensorEntry, scheme: Scheme) -> PackedWeight:
    wrong = CheckpointError(
        f"tensor '{entry.name}' of shape {list(entry.shape)} has scales '{scale.name}' of {scale.dtype} "
        f"{list(scale.shape)}, which is neither one per tensor, nor one per output row, nor one per block of "
        f"{list(scheme.block)}; download it again, or {REMEDY}"
    )
    if len(entry.shape) not in (2, 3) or 0 in entry.shape or scale.dtype not in SCALES:
        raise wrong
    # fbgemm's experts are stored transposed, with scales that are not.
    if len(entry.shape) == 3 and scheme.method == "fbgemm_fp8":
        raise CheckpointError(
            f"tensor '{entry.name}' holds experts stored with method 'fbgemm_fp8', which cannot be edited; "
            f"{REMEDY}"
        )
    rows, columns = entry.shape[-2:]
    lead, grid = entry.shape[:-2], scale.shape
    # ModelOpt's block scales keep the reduced axes.
    if not lead and len(grid) == 4 and grid[1] == grid[3] == 1:
        grid = (grid[0], grid[2])
    if math.prod(grid) == math.prod(lead) and grid[: len(lead)] == lead:
        return PackedWeight(entry.name, (entry.name, scale.name), "fp8-tensor", entry.shape, (rows, columns))
    if grid in ((*lead, rows, 1), (rows,) if not lead else None):
        return PackedWeight(entry.name, (entry.name, scale.name), "fp8-channel", entry.shape, (1, columns))
    blocks = [scheme.block, *([MX_BLOCK] if scale.dtype in EXPONENTS else [])]
    # transformers gives a fused gate and up projection a scale each, however small they are.
    if lead and rows % 2 == 0 and rows <= scheme.block[0]:
        blocks.append((rows // 2, scheme.block[1] if grid[-1] > 1 else columns))
    for block in blocks:
        if grid == (*lead, -(-rows // block[0]), -(-columns // block[1])):
            clipped = (min(block[0], rows), min(block[1], columns))
            return PackedWeight(entry.name, (entry.name, scale.name), "fp8-block", entry.shape, clipped)
    raise wrong


def _mxfp4(checkpoint: Checkpoint, name: str) -> PackedWeight:
    values, scales = (checkpoint.tensors.get(f"{name}_{part}") for part in ("blocks", "scales"))
    if values is None or scales is None:
        raise CheckpointError(
            f"weight '{name}' of {checkpoint.path} has only one of '{name}_blocks' and '{name}_scales'; both "
            "are needed: download the model again or save it again"
        )
    shape = values.shape
    if (
        len(shape) not in (3, 4)
        or 0 in shape
        or shape[-1] != MX_BLOCK[1] // 2
        or shape[:-1] != scales.shape
        or values.dtype != "U8"
        or scales.dtype not in EXPONENTS
    ):
        raise CheckpointError(
            f"MXFP4 weight '{name}' has blocks of {values.dtype} {list(shape)} and scales of {scales.dtype} "
            f"{list(scales.shape)}; bytes [..., rows, groups, 16] and [..., rows, groups] are needed; "
            "download it again"
        )
    logical = (*shape[:-2], shape[-2] * MX_BLOCK[1])
    return PackedWeight(name, (values.name, scales.name), "mxfp4", logical, MX_BLOCK)


def _integer_groups(checkpoint: Checkpoint, name: str, scheme: Scheme) -> PackedWeight:
    layout, module, tensors = scheme.integers, name.removesuffix(".weight"), checkpoint.tensors
    assert layout is not None
    parts = parts_of(module, layout)
    inputs = count_inputs(layout, scheme.bits, tensors, module)
    if inputs is None:
        needed = [parts.values, parts.scales, *([] if layout == "pack-quantized" else [parts.zeros])]
        shapes = ", ".join(
            f"'{part}' {f'{entry.dtype} {list(entry.shape)}' if (entry := tensors.get(part)) else 'missing'}"
            for part in needed
        )
        raise CheckpointError(
            f"weight '{name}' of {checkpoint.path} is stored as {layout}, and its tensors do not fit that "
            f"layout: {shapes}; download it again, or {REMEDY}"
        )
    stored = tuple(part for part in parts.names() if part in tensors)
    scales = tensors[parts.scales].shape
    outputs = scales[0] if layout == "pack-quantized" else scales[1]
    return PackedWeight(name, stored, layout, (outputs, inputs))


def integer_weights(checkpoint: Checkpoint) -> dict[str, PackedWeight]:
    """Weights that are stored as integers in groups (GPTQ, AWQ, llm-compressor), by their logical
    name.

    Raises:
        CheckpointError: tensors that do not fit the layout.
        ArchitectureError: config.json names a method that cannot be edited.
    """
    layout = check_supported(checkpoint.config).integers
    if layout is None:
        return {}
    sign = parts_of("", layout).values
    names = [f"{n.removesuffix(sign)}.weight" for n in checkpoint.tensors if n.endswith(sign)]
    return {name: locate(checkpoint, name) for name in names}


def count_written_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the shards of an edited copy: as they are, but for integers in groups."""
    size = checkpoint.bytes
    for packed in integer_weights(checkpoint).values():
        entries = [checkpoint.tensors[part] for part in packed.parts]
        scales = checkpoint.tensors[packed.written_from]
        width = (scales.end - scales.start) // math.prod(scales.shape)
        size += width * math.prod(packed.shape) - sum(entry.end - entry.start for entry in entries)
    return size


def companions(checkpoint: Checkpoint) -> dict[str, str]:
    """Tensors that are only parts of a logical weight, or calibrate its kernel, by the logical name
    each belongs to.

    A tensor whose weight is missing or in no known encoding is not listed. Static scales of
    activations stay as they are in an edit: they describe a layer's input, which an edit upstream
    moves little.
    """
    tensors = checkpoint.tensors
    integers = integer_weights(checkpoint)
    owners = {part: name for name, packed in integers.items() for part in packed.parts}

    def is_fp8(name: str) -> bool:
        return name in tensors and tensors[name].dtype in FP8

    for name, entry in tensors.items():
        if entry.dtype in FP8:
            owners |= {scale: name for scale in scale_names(name) if scale in tensors}
        elif name.endswith("_blocks") and f"{name.removesuffix('_blocks')}_scales" in tensors:
            logical = name.removesuffix("_blocks")
            owners |= {name: logical, f"{logical}_scales": logical}
        elif (match := ACTIVATION.fullmatch(name)) is not None:
            owner = f"{match[1]}.weight" if match[1] else match[2]
            if is_fp8(owner):
                owners[name] = owner
        elif (match := CACHE.fullmatch(name)) is not None and match[2] in (None, match[3]):
            owner = f"{match[1]}.{match[3]}_proj.weight"
            if owner in tensors:
                owners[name] = owner
    return owners
