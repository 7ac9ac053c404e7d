"""llama.cpp's own reader of control vectors, out of the library in xllamacpp.

It is a C++ function, called by the layout of its arguments: a `std::vector` is three pointers, a
`std::string` of wheels for old systems one pointer, behind a length, a capacity and a count.
"""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

import numpy as np
import pytest

from vectomy.checkpoint.gguf.ggml_quantizer import ggml_library

LOAD = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"


class LoadInfo(ctypes.Structure):
    _fields_ = (("strength", ctypes.c_float), ("name", ctypes.c_void_p))


class Vector(ctypes.Structure):
    _fields_ = (("first", ctypes.c_void_p), ("last", ctypes.c_void_p), ("end", ctypes.c_void_p))


class Data(ctypes.Structure):
    _fields_ = (("width", ctypes.c_int), ("values", Vector))


def read_control_vector(path: Path, strength: float) -> np.ndarray:
    """[block - 1, d_model] as llama.cpp holds it, times `strength`; no rows where it refuses the
    file.
    """
    library = ggml_library()
    if library is None or not hasattr(library, LOAD):
        pytest.skip("needs llama.cpp's reader: pip install xllamacpp")
    name = str(path).encode()
    text = ctypes.create_string_buffer(struct.pack("<QQq", len(name), len(name), 0) + name)
    info = LoadInfo(strength, ctypes.addressof(text) + 24)
    start = ctypes.addressof(info)
    given = Vector(start, start + ctypes.sizeof(info), start + ctypes.sizeof(info))
    result = Data()
    load = getattr(library, LOAD)
    load.restype, load.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p)
    load(ctypes.addressof(result), ctypes.addressof(given))
    if result.width <= 0:
        return np.zeros((0, 0), np.float32)
    count = (result.values.last - result.values.first) // 4
    values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(result.values.first))
    return values.reshape(-1, result.width).copy()
