"""Damaged tokenizers and chat templates: what the model gets holds the prompt, or it is refused."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import tiny_chat

from hostile.kind import Kind, allow
from hostile.mutations import damage_text
from vectomy.data.prompts import Prompt
from vectomy.models import load_model

__all__ = ["CHAT_KINDS"]

PROMPTS = [Prompt("show the owl red"), Prompt("paint the sun blue", "be brief")]
# Rare, for each of them takes as long as a template may.
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ range(99999) | join }}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(99) }}",
)
TEMPLATES = (
    "",
    "{{ messages }}",
    "{{ messages[0].content }}",
    "no prompt at all",
    "{% for m in messages %}{{ m.role }}{% endfor %}",
    "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "{% for m in messages %}{{ m.content[:4] }}{% endfor %}",
    "{{ raise_exception('no\nsuch\nrole') }}",
    "{{ raise_exception('x' * 100000) }}",
    "{% for i in range(10 ** 12) %}x{% endfor %}",
    "{{ 'x' * 10 ** 11 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{% set ns = namespace(a=messages) %}{{ ns.a[9].content }}",
    "{% if",
    "{{ 1 / 0 }}",
    "{{ undefined_name.attribute }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
    "\ud800{% for m in messages %}{{ m.content }}{% endfor %}".encode("utf-8", "replace").decode(),
    tiny_chat.NO_SYSTEM,
    tiny_chat.THINKING,
    tiny_chat.ALWAYS_THINKING,
    tiny_chat.TEMPLATE,
)


def _build(path: Path) -> None:
    (path / "tiny").mkdir()
    shutil.copytree(tiny_chat.folder(), path / "tiny" / "in")


def _damage_tokenizer(rng: random.Random, folder: Path) -> str:
    names = ["tokenizer.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    damage_text(folder / "in" / rng.choice(names), rng)
    return "tokenizer"


def _damage_template(rng: random.Random, folder: Path) -> str:
    file = folder / "in" / "chat_template.jinja"
    if rng.random() < 0.3:
        damage_text(file, rng)
    else:
        template = rng.choice(ENDLESS if rng.random() < 0.002 else TEMPLATES)
        if rng.random() < 0.3:
            template = rng.choice(TEMPLATES) + template
        file.unlink()
        file.write_text(template, encoding="utf-8")
    return "template"


def _steps(folder: Path, out: Path, kind: str) -> Iterator[str]:
    yield "load"
    chat = load_model(folder / "in", device="cpu", dtype="float32")
    for prompt in PROMPTS:
        yield "render"
        text = chat.render(prompt)
        yield "tokens"
        (ids,) = chat.tokens([prompt])
        allow(prompt.text in text, f"{prompt.text!r} is not in {text[:100]!r}")
        allow(not prompt.system or prompt.system in text, f"{prompt.system!r} is not in {text[:100]!r}")
        rows = chat.model.get_input_embeddings().weight.shape[0]
        allow(all(0 <= token < rows for token in ids), "a token without a row of the embedding")
        yield "answer"
        (answer,) = chat.answer([ids], 3, 4096)
        chat.text(answer)


CHAT_KINDS = (
    Kind("tokenizer", _build, _damage_tokenizer, _steps),
    Kind("template", _build, _damage_template, _steps),
)
