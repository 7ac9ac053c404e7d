"""Things to publish, small and made once: a finished run of the tiny model, and what was made of
its Edit by hand.
"""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import tiny_chat
from finished_run import finished_run

from vectomy.core.versions import versions
from vectomy.edits.export import write_lora
from vectomy.hub.provenance import write_record

QUICK = {
    "behaviour_tokens": ("I",),
    "n_search": 4,
    "n_test": 4,
    "embeddings": False,
    "lora": True,
}
CARD = """---
license: other
license_name: tiny-licence
license_link: https://example.org/licence
---

# tiny
"""


@cache
def base() -> Path:
    """The tiny chat model with a card of its own, which has a licence."""
    folder = Path(shutil.copytree(tiny_chat.folder(), tiny_chat.scratch() / "tiny-base"))
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


def finished() -> Path:
    """A finished run of `base`, with an adapter; not to be written to. Its prompts are files."""
    return finished_run(base(), command="vectomy run tiny-base", **QUICK)


@cache
def gguf() -> Path:
    """Bytes that begin as a GGUF file does; the push looks at no more."""
    path = tiny_chat.scratch() / "tiny-q8_0.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(range(256)) * 8000)
    return path


@cache
def evaluation() -> Path:
    """An evaluation.json with one rate and one capability."""
    rate = {"count": 7, "total": 20, "rate": 0.35, "ci": [0.18, 0.57]}
    found = {
        "format": "vectomy-evaluation",
        "version": 1,
        "judge": {"name": "refusal"},
        "settings": {"answer_tokens": 64},
        "subjects": [{"name": "edit", "kind": "edit"}, {"name": "random direction", "kind": "random"}],
        "results": {
            "edit": {
                "sets": {
                    "xstest": {
                        "refusal": rate,
                        "degenerate": {**rate, "count": 0, "rate": 0.0},
                        "kl_first_token": 0.0123,
                    }
                },
                "capability": {"quick/common_knowledge": {"metric": "acc", "value": 0.412, "stderr": 0.02}},
            },
            "random direction": {"sets": {"xstest": {"refusal": rate}}},
        },
    }
    path = tiny_chat.scratch() / "evaluation.json"
    path.write_text(json.dumps(found), encoding="utf-8")
    return path


@cache
def adapter() -> Path:
    """An adapter as `vectomy apply --as lora` writes it, outside of any run."""
    from vectomy.edits.edit import Edit

    out = tiny_chat.scratch() / "adapter"
    edit = Edit.load(finished() / "edit.safetensors")
    write_lora(edit, base(), out)
    write_record(out, "adapter", edit, model=str(base()), source=base(), versions=versions())
    return out
