"""Feed damaged and malicious model folders and Edit files to everything that reads them, and count
how each case ends.

    python benchmarks/hostile.py [--cases 10000] [--seed 0] [--json benchmarks/hostile.json]

A case is one mutation (of an index, a safetensors header, an Edit file or a config.json) and goes
through Checkpoint.open, coverage, plan, Edit.load, Edit.ablation and bake. It may succeed, and then
its output has to open, or end in a VectomyError of one readable line. Anything else is a failure:
another exception, a hang, memory, a file written or changed outside of the output, an output that
is half written. A case is a function of the seed and its number alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "helpers"))

import torch
from safetensors.torch import load_file, save_file

from vectomy.architecture import check_covered
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.errors import VectomyError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.workflows import plan as planning

INDEX, WIDTH = "model.safetensors.index.json", 32
KINDS = ("index", "header", "edit", "config")
# Per case: seconds, and how much the process may grow.
SECONDS, GROWTH = 20, 300 << 20
LONGEST = 2000


def build_bases(path: Path) -> tuple[Path, ...]:
    """Small folders of different make, each with an Edit file beside it."""
    from tiny import build, unit

    def remade(
        name: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], method: object
    ) -> None:
        file = path / name / "in" / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
        config = json.loads((file.parent / "config.json").read_text())
        (file.parent / "config.json").write_text(json.dumps(config | {"quantization_config": method}))

    small = {"num_hidden_layers": 2}
    experts = {
        "num_experts": 3,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
    }
    build(path / "llama" / "in", "llama", sharded=True, **small)
    build(path / "gemma2" / "in", "gemma2", tied=True, **small)
    build(path / "moe" / "in", "qwen3_moe", sharded=True, **small, **experts)
    build(path / "fp8" / "in", "qwen3", **small)
    build(path / "mxfp4" / "in", "gpt_oss", **small, **experts | {"intermediate_size": 32})

    def fp8(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in state if "_proj." in name]:
            state[name], state[f"{name}_scale_inv"] = (
                state[name].to(torch.float8_e4m3fn),
                torch.full((1, 1), 0.7),
            )
        return state

    def mxfp4(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for name in [name for name in state if name.endswith("experts.down_proj")]:
            count, _, out = state.pop(name).shape
            state[f"{name}_blocks"] = torch.randint(0, 256, (count, out, 1, 16), dtype=torch.uint8)
            state[f"{name}_scales"] = torch.randint(118, 126, (count, out, 1), dtype=torch.uint8)
        return state

    remade("fp8", fp8, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    remade("mxfp4", mxfp4, {"quant_method": "mxfp4"})
    for base in sorted(path.iterdir()):
        edit = Edit.ablation(
            base / "in", torch.stack([unit(), unit(1)]), about={"found": ["by", "hand"]}, name=base.name
        )
        (edit * 0.5 + edit.only(components=["attention"])).save(base / "edit.safetensors")
    return tuple(sorted(path.iterdir()))


# Mutations

ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    5,
    97,
    3.5,
    1e308,
    -0.0,
    1e-320,
    10**18,
    -(10**18),
    2**31,
    2**63,
    2**64,
    10**40,
    math.nan,
    math.inf,
    -math.inf,
    "",
    " ",
    "x",
    "0",
    "../x",
    "../../x",
    "/x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "nul\0",
    "line\nbreak",
    "\ud800",
    "é\u202e",
    "n" * 300,
    "n" * 70_000,
    [],
    [[]],
    {},
    {"x": {}},
    [None],
    [0, 0],
    [-1, 128],
    [128, 128, 128],
    [2**70, 1],
    ["128", 1],
    "128x128",
    "1x" * 9,
    "0x0",
    "²x²",
    [1, 2, 3],
    {"quant_method": []},
    "@deep",
    "@digits",
    "@huge",
)
QUANTIZATION: tuple[Any, ...] = (
    "fp8",
    [],
    ["fp8"],
    7,
    {},
    {"quant_method": "fp8"},
    {"quant_method": "mxfp8"},
    {"quant_method": "mxfp4"},
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "fbgemm_fp8"},
    {"quant_method": "modelopt"},
    {"quant_method": "modelopt", "quant_algo": "FP8"},
    {"quant_method": "compressed-tensors"},
    {"quant_method": "compressed-tensors", "config_groups": {"a": "FP8_DYNAMIC"}},
    {
        "quant_method": "compressed-tensors",
        "config_groups": {"a": {"weights": {"type": "float", "num_bits": 8, "strategy": "block"}}},
    },
    {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "sparsity_config": {"format": "dense"},
        "config_groups": {
            "a": {"weights": {"type": "float", "num_bits": 8, "strategy": "tensor"}, "format": None}
        },
    },
    {"load_in_4bit": True},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8_PB_WO"}},
)


def dumps(value: Any) -> str:
    """JSON that holds what json.dumps cannot write: a key twice, nesting without end, numbers of
    any length.
    """
    text = json.dumps(value)
    for marker, raw in (
        ("@deep", "[" * 100_000 + "]" * 100_000),
        ("@digits", "9" * 6000),
        ("@huge", "1e400"),
    ):
        text = text.replace(f'"{marker}"', raw)
    while "@twice:" in text:
        text = text.replace("@twice:", "", 1)
    return text


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, inner in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(inner, (*path, key))


def at(value: Any, path: Iterable[Any]) -> Any:
    return functools.reduce(lambda inner, key: inner[key], path, value)


def fresh(value: Any) -> Any:
    """A copy in which nothing stands twice, so that one change of it is one change."""
    return json.loads(json.dumps(value))


def restructured(value: Any, rng: random.Random) -> Any:
    """One odd thing somewhere in a JSON value."""
    value = fresh(value)
    everywhere = list(places(value))
    # A depth first, so that the few outer keys are hit as often as the many inner ones.
    depth = rng.choice(sorted({len(path) for path in everywhere}))
    path = rng.choice([path for path in everywhere if len(path) == depth])
    if not path:
        return rng.choice(ODD)
    holder, key = at(value, path[:-1]), path[-1]
    old = holder[key]
    how = rng.choice(["odd", "odd", "odd", "drop", "rename", "twice", "swap", "wrap", "nudge"])
    if how == "drop":
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[str(rng.choice([odd for odd in ODD if isinstance(odd, str)]))] = holder.pop(key)
    elif how == "twice" and isinstance(holder, dict):
        holder[f"@twice:{key}"] = rng.choice([old, old, rng.choice(ODD)])
    elif how == "swap":
        other = rng.choice([path for path in everywhere if len(path) == depth])
        holder[key], at(value, other[:-1])[other[-1]] = at(value, other), old
    elif how == "wrap":
        holder[key] = rng.choice([[old], {"x": old}, str(old)])
    elif how == "nudge" and type(old) in (int, float):
        holder[key] = old + rng.choice([-1, 1, 0.5, 1000, -old, 2**62])
    else:
        holder[key] = rng.choice(ODD)
    return value


def jumbled(data: bytes, rng: random.Random) -> bytes:
    """Damage that knows nothing of the format; most of it where a file begins, as that is what is
    parsed.
    """
    data, reach = bytearray(data), min(len(data), 3000)
    how = rng.choice(
        ["flip", "flip", "flip", "cut", "empty", "insert", "zeros", "random", "repeat", "length"]
    )
    if how == "flip":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(rng.choice([reach, len(data)]))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(rng.choice([reach, len(data)])) :]
    elif how == "empty":
        data.clear()
    elif how == "insert":
        spot = rng.randrange(reach)
        data[spot:spot] = rng.choice(
            [b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 5000, b"\n", b"9" * 5000, b'"', rng.randbytes(9)]
        )
    elif how == "zeros":
        spot = rng.randrange(reach)
        data[spot : spot + 64] = bytes(len(data[spot : spot + 64]))
    elif how == "random":
        data[:] = rng.randbytes(rng.choice([1, 7, 8, 9, 100]))
    elif how == "repeat":
        data += bytes(data)
    else:
        data[:8] = struct.pack(
            "<Q", rng.choice([0, 1, 2, len(data), 10**8, 10**8 + 1, 2**31, 2**32, 2**63, 2**64 - 1])
        )
    return bytes(data)


def special(file: Path, rng: random.Random) -> None:
    """Something else than a file under the file's name."""
    file.unlink()
    how = rng.choice(["none", "folder", "dangling", "loop", "fifo", "zero", "sparse", "locked"])
    if how == "folder":
        file.mkdir()
    elif how == "fifo":
        os.mkfifo(file)
    elif how == "sparse":
        with file.open("wb") as sparse:
            sparse.truncate(200 << 20)
    elif how == "locked":
        file.touch(mode=0)
    elif how != "none":
        file.symlink_to({"dangling": "nowhere", "loop": file.name, "zero": "/dev/zero"}[how])


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def packed(header: Any, data: bytes) -> bytes:
    text = dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def lying_header(header: dict[str, Any], data: bytes, rng: random.Random) -> tuple[dict[str, Any], bytes]:
    """A header that parses and does not tell the truth, or tells an odd one."""
    tensors = [name for name in header if name != "__metadata__"]
    name = rng.choice(tensors)
    row, (start, end) = header[name], header[name]["data_offsets"]
    how = rng.choice(
        ["offsets", "shape", "dtype", "name", "add", "remove", "twice", "metadata", "same-size", "values"]
    )
    if how == "offsets":
        row["data_offsets"] = rng.choice(
            [
                [start + 1, end + 1],
                [end, start],
                [start - 1, end],
                [-8, end],
                [start, 10**18],
                [start],
                [start, end, end],
                [0, end - start],
                [str(start), end],
                [float(start), end],
                [start, end - 4],
                [2**64 + start, 2**64 + end],
            ]
        )
    elif how == "shape":
        row["shape"] = rng.choice(
            [
                [10**9, 10**9, 0],
                [0],
                [],
                [2**64],
                [-1, -(end - start) // 4],
                [1] * 70_000 + row["shape"],
                [row["shape"][0], 2**63, 0],
                row["shape"][::-1],
                [math.prod(row["shape"])],
                [1, *row["shape"]],
                [True, *row["shape"]],
                [float(size) for size in row["shape"]],
            ]
        )
    elif how == "dtype":
        row["dtype"] = rng.choice(
            ["F64", "F16", "I32", "U8", "F4", "F8_E4M3", "BOOL", "C64", "f32", "", "U64", "F6_E2M3"]
        )
    elif how == "same-size":
        # As many bytes as before, in another type and shape.
        row["dtype"], size = rng.choice(
            [
                ("U8", 1),
                ("F8_E4M3", 1),
                ("BF16", 2),
                ("I32", 4),
                ("U32", 4),
                ("F64", 8),
                ("C64", 8),
                ("F4", 0.5),
                ("I8", 1),
            ]
        )
        row["shape"] = rng.choice(
            [[*row["shape"][:-1], int(row["shape"][-1] * 4 / size)], [int((end - start) / size)]]
        )
    elif how == "name":
        block = "model.layers.0.mlp.experts."
        header[
            rng.choice(
                [
                    *(odd for odd in ODD if isinstance(odd, str)),
                    "model.layers.99.mlp.down_proj.weight",
                    f"{block}{10**9}.down_proj.weight",
                    f"model.layers.{'9' * 5000}.mlp.down_proj.weight",
                    f"{block}{'1' * 5000}.down_proj.weight",
                    "model.layers.٣.mlp.down_proj.weight",
                    f"{block}٣.down_proj.weight",
                    f"{name}_scale",
                    f"{name}_scale_inv",
                    f"{name}_blocks",
                    "__metadata__",
                    f"{block}0.down_proj.weight",
                ]
            )
        ] = header.pop(name)
    elif how == "add":
        size = rng.choice([0, 4, 128, 4096])
        header[
            rng.choice(
                [
                    f"{name}_scale_inv",
                    f"{name}_scale",
                    "model.x.bias",
                    f"{name.removesuffix('.weight')}.bias",
                    "lm_head.weight",
                    "model.layers.0.post_mlp.weight",
                    f"{name.removesuffix('.weight')}.qweight",
                    "model.layers.2.x.weight",
                    "x" * 60_000,
                ]
            )
        ] = {
            "dtype": "F32",
            "shape": [size // 4],
            "data_offsets": [len(data), len(data) + size],
        }
        data += rng.randbytes(size)
    elif how == "remove":
        for other in header.values():
            if "data_offsets" in other and other["data_offsets"][0] > start:
                other["data_offsets"] = [offset - (end - start) for offset in other["data_offsets"]]
        del header[name]
        data = data[:start] + data[end:]
    elif how == "twice":
        header[f"@twice:{name}"] = rng.choice([row, {**row, "dtype": "I32"}, {**header[rng.choice(tensors)]}])
    elif how == "metadata":
        header["__metadata__"] = rng.choice(ODD)
    else:
        fill = rng.choice([b"\xff", b"\x7f", b"\0", b"\x80", rng.randbytes(4)])
        data = data[:start] + (fill * (end - start))[: end - start] + data[end:]
    return header, data


def mutated(kind: str, rng: random.Random, folder: Path) -> Path:
    """Damage one file of a folder that holds `in` and an Edit file; returns which."""
    files = {
        "index": [folder / "in" / INDEX],
        "header": sorted((folder / "in").glob("*.safetensors")),
        "edit": [folder / "edit.safetensors"],
        "config": [folder / "in" / "config.json"],
    }[kind]
    file = rng.choice(files)
    how = rng.random()
    if how < 0.02:
        special(file, rng)
        return file
    raw = file.read_bytes()
    # Never through a name: what it points to is the untouched base.
    file.unlink()
    if how < 0.25:
        file.write_bytes(jumbled(raw, rng))
        return file
    times = rng.choice([1, 1, 1, 2, 3])
    if kind == "header":
        header, data = split(raw)
        for _ in range(times if how > 0.8 else 1):
            if how < 0.7:
                header, data = lying_header(header, data, rng)
            elif isinstance(header, dict | list):
                header = restructured(header, rng)
        file.write_bytes(packed(header, data))
    elif kind == "edit":
        outer, data = split(raw)
        inner = json.loads(outer["__metadata__"]["vectomy"])
        if how < 0.4:
            outer, data = lying_header(outer, data, rng)
        elif how < 0.45:
            # Many rows and few bytes: what is computed of them must not grow with their square.
            many = 30_000
            outer[inner["operations"][0]["basis"]] = {
                "dtype": "F16",
                "shape": [many, WIDTH],
                "data_offsets": [len(data), len(data) + 64 * many],
            }
            inner["operations"][0]["strengths"] = [0.0] * many
            data += bytes(64 * many)
        elif how < 0.5:
            outer = restructured(outer, rng)
        else:
            for _ in range(times):
                if isinstance(inner, dict | list):
                    inner = edit_field(inner, rng) if rng.random() < 0.4 else restructured(inner, rng)
        if isinstance(outer, dict) and isinstance(outer.get("__metadata__"), dict):
            outer["__metadata__"]["vectomy"] = dumps(inner)
        file.write_bytes(packed(outer, data))
    else:
        value = json.loads(raw)
        for _ in range(times):
            if isinstance(value, dict | list):
                value = (
                    config_field(value, rng) if kind == "config" and how < 0.75 else restructured(value, rng)
                )
        file.write_bytes(dumps(value).encode("utf-8", "surrogatepass"))
    return file


def edit_field(value: Any, rng: random.Random) -> Any:
    """Odd values where an Edit's reader looks."""
    value = fresh(value)
    rows = value.get("operations") if isinstance(value, dict) else None
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        return restructured(value, rng)
    row = rng.choice([row for row in rows if isinstance(row, dict)])
    field = rng.choice(
        ["component", "layer", "expert", "norm", "basis", "strengths", "addition", "about", "base", "again"]
    )
    if field == "about":
        value["about"] = rng.choice(
            [*ODD, [["a", 1], [2, 3]], [[None, 1], ["x", 1]], {"sum_of": [value["about"]] * 5}]
        )
    elif field == "base" and isinstance(value.get("base"), dict) and value["base"]:
        value["base"][rng.choice(sorted(value["base"]))] = rng.choice(ODD)
    elif field == "again":
        rows.append({**row, "expert": rng.choice([None, 0, 1, 10**18])})
    else:
        row[field] = rng.choice(
            {
                "component": ["attention", "mlp", "experts", "embedding", "ssm", *ODD],
                "norm": ["row", "column", "none", *ODD],
                "strengths": [
                    [0.0, 0.0],
                    [1e38, -3e38],
                    [1e39, 0],
                    [1.0],
                    [[1.0], [2.0]],
                    ["1", 2],
                    [10**400, 1],
                    [True, None],
                    *ODD,
                ],
                "basis": ["basis", *[row.get("basis")] * 2, *ODD],
                "addition": [row.get("basis"), *ODD],
                "expert": [0, 1, 7, *ODD],
                "layer": [0, 1, 2, -1, *ODD],
                "base": ODD,
            }[field]
        )
    return value


def config_field(value: Any, rng: random.Random) -> Any:
    """Odd values where the readers of a config.json look."""
    from vectomy.architecture.families import FAMILIES

    if not isinstance(value, dict):
        return value
    value = fresh(value)
    field = rng.choice(
        [
            "model_type",
            "model_type",
            "hidden_size",
            "num_hidden_layers",
            "vocab_size",
            "tie_word_embeddings",
            "quantization_config",
            "quantization_config",
            "compression_config",
            "num_nextn_predict_layers",
            "text_config",
            "n_layer",
            "attention_bias",
            "torch_dtype",
        ]
    )
    if field == "model_type":
        value[field] = rng.choice([*sorted(FAMILIES), *ODD])
    elif field in ("quantization_config", "compression_config"):
        made = rng.choice([*QUANTIZATION, value.get(field) or {}])
        value[field] = restructured(made, rng) if made and rng.random() < 0.7 else rng.choice([made, *ODD])
    elif field == "text_config":
        value[field] = rng.choice([{**value}, {**value, "hidden_size": rng.choice(ODD)}, *ODD])
    else:
        value[field] = rng.choice(ODD)
    return value


# One case


class NotAllowedError(Exception):
    """What no input may bring about."""


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Every name under a folder, with content, size and times."""
    found: dict[str, tuple[Any, ...]] = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            stat = path.lstat()
            whole = (
                path.is_file() and not path.is_symlink() and stat.st_size < 1 << 24 and stat.st_mode & 0o400
            )
            content = hash(path.read_bytes()) if whole else None
            found[str(path)] = (
                stat.st_mode,
                stat.st_size,
                None if path.is_dir() else stat.st_mtime_ns,
                content,
            )
    return found


def steps(folder: Path, out: Path) -> Iterator[str]:
    """All that reads a folder and an Edit file; yields the name of each step before it."""
    yield "open"
    opened = Checkpoint.open(folder / "in")
    yield "coverage"
    check_covered(architecture_in(opened))
    yield "plan"
    planning.plan(opened)
    yield "load"
    loaded = Edit.load(folder / "edit.safetensors")
    yield "ablation"
    direction = torch.ones(WIDTH)
    direction[::3] = -1
    made = Edit.ablation(opened, direction, norm="column")
    yield "bake"
    try:
        bake(loaded, opened, out / "loaded")
    except VectomyError as error:
        # A changed base is not what the file was made for; that must not hide what comes behind.
        if "the edit is for" not in str(error):
            raise
    yield "bake-again"
    bake(made, folder / "in", out / "made", link_untouched=True)
    yield "reopen"
    for each in out.iterdir():
        check_covered(architecture_in(Checkpoint.open(each)))


def ending(folder: Path) -> str:
    """How a case ended, in one line. Raises NotAllowedError for what must not be."""
    out, before = folder / "out" / "deep", snapshot(folder.parent)
    out.mkdir(parents=True)
    held, step, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "", None
    try:
        for step in steps(folder, out):  # noqa: B007 (looked at where it stopped)
            pass
    except VectomyError as refused:
        error = refused
    except Exception as wrong:  # noqa: BLE001 (that is what is looked for)
        where = traceback.extract_tb(wrong.__traceback__)[-1]
        raise NotAllowedError(
            f"{step}: {type(wrong).__name__} in {Path(where.filename).name}:{where.name}: {str(wrong)[:150]}"
        ) from None
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held) << 10
    if grown > GROWTH:
        raise NotAllowedError(f"{step}: the process grew by {grown >> 20} MiB")
    if step == "reopen" and error is not None:
        raise NotAllowedError(f"the output does not open: {error}")
    for left in out.iterdir():
        if not left.name.startswith("."):
            Checkpoint.open(left)
    shutil.rmtree(folder / "out")
    after = snapshot(folder.parent)
    if before != after:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise NotAllowedError(f"{step}: {', '.join(changed)} changed")
    if error is None:
        return "success"
    message = str(error)
    if not message.isprintable() or not message or len(message) > LONGEST:
        raise NotAllowedError(
            f"{step}: a {type(error).__name__} of {len(message)} characters that is no one readable "
            f"line: {message[:150]!r}"
        )
    return f"{step}: {type(error).__name__}"


def case(number: int, seed: int, bases: tuple[Path, ...], area: Path) -> str:
    rng = random.Random(f"{seed}/{number}")
    kind = KINDS[number % len(KINDS)]
    base = rng.choice([base for base in bases if kind != "index" or (base / "in" / INDEX).exists()])
    # Levels above the folder, so that names that climb out of it are seen.
    folder = area / "a" / "b"
    shutil.copytree(base, folder)
    try:
        mutated(kind, rng, folder)
        return ending(folder)
    except NotAllowedError as failure:
        return f"FAILED {base.name} {failure}"
    finally:
        shutil.rmtree(area)


# Many cases


def _work(numbers: range, seed: int, bases: tuple[Path, ...], area: Path, pipe: int) -> None:
    """In a forked child: its memory and its time are bounded, and what it does to itself ends with
    it.
    """
    planning._collect_seconds = lambda checkpoint: 1.0  # It measures the machine, 50 ms a time.
    # The child's own size now, and as much as a case may take and a half.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GROWTH * 3 // 2
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        os.write(pipe, f"{number}\t".encode())
        signal.alarm(SECONDS)
        text = case(number, seed, bases, area)
        signal.alarm(0)
        os.write(pipe, text.encode("utf-8", "backslashreplace").replace(b"\n", b" ")[:600] + b"\n")


def run(
    total: int, seed: int, bases: tuple[Path, ...], area: Path, first: int = 0, batch: int = 50
) -> dict[int, str]:
    """How the cases ended, by number. A child that dies is the fault of the case that it was at."""
    ends: dict[int, str] = {}
    start, last = first, first + total
    while start < last:
        numbers = range(start, min(start + batch, last))
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                _work(numbers, seed, bases, area, writing)
                status = 0
            except BaseException:  # noqa: BLE001 (a forked child must not go on into the parent's code)
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answers:
            lines = answers.read().split("\n")
        _, status = os.waitpid(child, 0)
        for line in lines:
            number, tab, text = line.partition("\t")
            if tab:
                ends[int(number)] = (
                    text or f"FAILED the process ended with status {status} (14: after {SECONDS} s)"
                )
                start = int(number) + 1
        shutil.rmtree(area, ignore_errors=True)
        if not any("\t" in line for line in lines):
            raise SystemExit(f"a child ended with status {status} before its first case")
    return ends


def counted(ends: dict[int, str]) -> dict[str, Counter[str]]:
    table = {kind: Counter[str]() for kind in KINDS}
    for number, text in ends.items():
        table[KINDS[number % len(KINDS)]]["FAILED" if text.startswith("FAILED") else text] += 1
    return table


def record(ends: dict[int, str], seed: int, seconds: int, path: Path) -> None:
    failed = {number: text for number, text in ends.items() if text.startswith("FAILED")}
    found = {"cases": len(ends), "seed": seed, "failed": failed, "seconds": seconds, "ends": counted(ends)}
    path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bases = build_bases(Path(folder) / "bases")
        before, began, ends = snapshot(Path(folder)), time.monotonic(), dict[int, str]()
        for first in range(args.first, args.first + args.cases, 500):
            count = min(500, args.first + args.cases - first)
            ends |= run(count, args.seed, bases, Path(folder) / "area", first)
            # After each part, so that a run that is cut off leaves what it found.
            record(ends, args.seed, round(time.monotonic() - began), args.json)
        seconds = time.monotonic() - began
        assert snapshot(Path(folder)) == before, "a base was changed"
    table = counted(ends)
    print(f"{'how it ended':36s}" + "".join(f"{kind:>9s}" for kind in KINDS) + f"{'all':>9s}")
    for text in sorted({text for counts in table.values() for text in counts}):
        counts = [table[kind][text] for kind in KINDS]
        print(f"{text:36s}" + "".join(f"{count:9d}" for count in counts) + f"{sum(counts):9d}")
    failed = {number: text for number, text in ends.items() if text.startswith("FAILED")}
    seen = Counter(text.split(":")[0] + ":" + text.partition(": ")[2][:70] for text in failed.values())
    for text, count in seen.most_common(40):
        number = next(
            n for n, t in failed.items() if t.startswith(text.split(":")[0]) and text.partition(":")[2] in t
        )
        print(f"{count:5d}  case {number}: {failed[number]}")
    print(f"{len(ends)} cases, {len(failed)} failed, {seconds:.0f} s")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
