"""Damaged checkpoint folders and Edit files: indices, headers, Edits and config.json."""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile.kind import Kind, allow, run_command
from hostile.mutations import ODD, dumps, fresh, jumbled, restructured, special
from hostile.weight_bases import INDEX, QUANTIZATION, WIDTH, build_bases, plain_direction
from vectomy.architecture import check_covered
from vectomy.checkpoint import Checkpoint, architecture_in
from vectomy.core.errors import VectomyError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.workflows import plan as planning

__all__ = ["WEIGHT_KINDS", "split"]


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


def damage(kind: str, rng: random.Random, folder: Path) -> str:
    """Damage one file of a folder that holds `in` and an Edit file; returns the kind."""
    files = {
        "index": [folder / "in" / INDEX],
        "header": sorted((folder / "in").glob("*.safetensors")),
        "edit": [folder / "edit.safetensors"],
        "config": [folder / "in" / "config.json"],
    }[kind]
    if not all(file.is_file() for file in files):
        # A folder of one file has no index; its header is damaged.
        return damage("header", rng, folder)
    file = rng.choice(files)
    how = rng.random()
    if how < 0.02:
        special(file, rng)
        return kind
    raw = file.read_bytes()
    # Never through a name: what it points to is the untouched base.
    file.unlink()
    if how < 0.25:
        file.write_bytes(jumbled(raw, rng))
        return kind
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
    return kind


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


# What reads them


def _bytes_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Name, type, shape and bytes of every tensor, by nothing of ours."""
    result = {}
    for file in sorted(folder.glob("*.safetensors")):
        header, data = split(file.read_bytes())
        for name, row in header.items():
            if name != "__metadata__":
                start, end = row["data_offsets"]
                result[name] = row["dtype"], tuple(row["shape"]), data[start:end]
    return result


def read_weights(folder: Path, out: Path, kind: str) -> Iterator[str]:
    """All that reads a folder and an Edit file; yields the name of each step before it."""
    planning._collect_seconds = lambda checkpoint: 1.0  # It measures the machine, 50 ms a time.
    yield "open"
    opened = Checkpoint.open(folder / "in")
    yield "coverage"
    check_covered(architecture_in(opened))
    yield "plan"
    planning.plan(opened)
    yield "load"
    loaded = Edit.load(folder / "edit.safetensors")
    yield "save"
    loaded.save(out / "again.safetensors")
    allow(Edit.load(out / "again.safetensors").sha256 == loaded.sha256, "an Edit is saved as another one")
    (out / "again.safetensors").unlink()
    yield "ablation"
    made = Edit.ablation(opened, plain_direction(), norm="column")
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
    if kind in ("index", "edit"):
        # The weights are those of the base: so is what comes of them.
        allow(_bytes_of(out / "made") == _bytes_of(folder / "made"), "the bake differs from that of the base")


def command_weights(folder: Path, out: Path, kind: str) -> Iterator[str]:
    """The same by the command line; the base never passes for the edited model."""
    planning._collect_seconds = lambda checkpoint: 1.0
    model, edit = str(folder / "in"), str(folder / "edit.safetensors")
    yield "plan command"
    run_command("plan", model)
    yield "show command"
    run_command("show", edit)
    yield "apply command"
    status, _ = run_command("apply", edit, model, "--out", str(out / "applied"))
    allow((status == 0) == (out / "applied").exists(), f"status {status}, and there is an output or not")
    if status == 0:
        check_covered(architecture_in(Checkpoint.open(out / "applied")))
        if kind == "edit" and any(bool(each.strengths.any()) for each in Edit.load(edit).operations):
            yield "verify command"
            status, _ = run_command("verify", model, "--edit", edit, "--no-run", "--device", "cpu")
            allow(status != 0, "the base passes for the edited model")


def _steps(folder: Path, out: Path, kind: str) -> Iterator[str]:
    # By the command line where the kind came with an exclamation mark.
    return command_weights(folder, out, kind[:-1]) if kind.endswith("!") else read_weights(folder, out, kind)


def _kind(name: str) -> Kind:
    def damage_one(rng: random.Random, folder: Path) -> str:
        by_command = rng.random() < 0.2
        return damage(name, rng, folder) + "!" * by_command

    return Kind(name, build_bases, damage_one, _steps)


WEIGHT_KINDS = tuple(_kind(name) for name in ("index", "header", "edit", "config"))
