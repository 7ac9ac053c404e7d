"""Each command says the package that it lacks, with the extra that installs it, before it reads or
writes anything.
"""

import shlex
import sys
from pathlib import Path

import pytest
from command_line import Vectomy

TIER = "unit"

# The models and Edits of these commands do not exist: a command that reads one says that instead.
LOCAL = "--positive P.jsonl --negative N.jsonl"
HEAL = "--positive-test P.jsonl --negative-test N.jsonl"
LACKING = {
    f"run no/model {LOCAL} --recipe tpe": ("optuna", "tpe"),
    f"select no/model {LOCAL} --recipe tpe": ("optuna", "tpe"),
    f"run no/model {LOCAL} --lora": ("peft", "lora"),
    f"run no/model {LOCAL} --load-in 4bit": ("bitsandbytes", "quantised"),
    "run no/model": ("datasets", "hub"),
    "run no/model --positive own/set --negative N.jsonl": ("datasets", "hub"),
    "run no/model --positive P.parquet --negative N.jsonl": ("pyarrow", "hub"),
    "run no/model --positive marked.txt --negative N.jsonl": ("pyarrow", "hub"),
    "baseline no/model": ("datasets", "hub"),
    "collect no/model": ("datasets", "hub"),
    "directions no/model": ("datasets", "hub"),
    "run demo": ("gguf", None),
    f"run a.gguf {LOCAL}": ("gguf", None),
    "direction no/model": ("datasets", "hub"),
    f"direction no/model {LOCAL} --load-in 8bit": ("bitsandbytes", "quantised"),
    "evaluate no/model ADAPTER --prompts P.jsonl": ("peft", "lora"),
    "evaluate no/model ADAPTER@0.5 --prompts P.jsonl": ("peft", "lora"),
    "evaluate no/model --prompts set=own/set:test": ("datasets", "hub"),
    "evaluate no/model --prompts xstest": ("datasets", "hub"),
    "evaluate no/model --prompts P.jsonl --tasks example": ("lm-eval", "capability"),
    "evaluate no/model --prompts P.jsonl --engine vllm": ("vllm", None),
    "evaluate no/model --prompts P.jsonl --load-in 4bit": ("bitsandbytes", "quantised"),
    "evaluate a.gguf --prompts P.jsonl": ("gguf", None),
    f"heal no/model --preferences own --prompts P.jsonl {HEAL}": ("trl", "heal"),
    f"heal no/model --preferences P.jsonl {HEAL} ": ("peft", "heal"),
    f"heal no/model --preferences  own/set {HEAL}": ("datasets", "heal"),
    f"heal no/model --preferences own --prompts P.jsonl {HEAL} --tasks example": ("lm-eval", "capability"),
    "heal demo": ("gguf", None),
    "apply no/edit no/model --as gguf": ("gguf", None),
    "apply no/edit no/model --as gguf-lora": ("gguf", None),
    "apply no/edit a.gguf": ("gguf", None),
    "plan demo": ("gguf", None),
    "plan no/model --load-in 4bit": ("bitsandbytes", "quantised"),
    "edit new demo --direction random:0": ("gguf", None),
}
WITHOUT_OUT = ("plan",)


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VECTOMY_CACHE", str(tmp_path / "cache"))
    for name in ("P.jsonl", "N.jsonl"):
        Path(name).write_text(f'{{"text": "a prompt of {name}"}}\n', encoding="utf-8")
    for name in ("P.parquet", "marked.txt"):
        Path(name).write_bytes(b"PAR1")
    Path("a.gguf").write_bytes(b"GGUF")
    Path("ADAPTER").mkdir()
    Path("ADAPTER/adapter_config.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("prompts")
@pytest.mark.parametrize("line", LACKING)
def test_a_command_says_what_it_lacks_before_anything(
    line: str, vectomy: Vectomy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, extra = LACKING[line]
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    before = sorted(tmp_path.rglob("*"))
    out = () if line.startswith(WITHOUT_OUT) else ("--out", "OUT.safetensors")
    status, _, err = vectomy(*shlex.split(line), *out)
    install = package if extra is None else f"'vectomy[{extra}]'"
    (sentence,) = [text for text in err.splitlines() if text.startswith("vectomy: ")]
    assert f"needs the package {package}: pip install {install}" in sentence
    assert status == 1
    assert sorted(tmp_path.rglob("*")) == before


NEEDS_NONE = (
    f"run no/model {LOCAL}",
    f"baseline no/model {LOCAL} --recipe tpe --lora",
    f"direction no/model {LOCAL}",
    "evaluate no/model --prompts P.jsonl",
    "apply no/edit no/model --as lora",
)


@pytest.mark.usefixtures("prompts")
@pytest.mark.parametrize("line", NEEDS_NONE)
def test_local_prompts_need_no_optional_package(
    line: str, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("bitsandbytes", "datasets", "lm_eval", "optuna", "peft", "pyarrow", "trl"):
        monkeypatch.setitem(sys.modules, name, None)
    _, _, err = vectomy(*shlex.split(line), "--out", "OUT.safetensors")
    assert "pip install" not in err
    assert "no/" in err.splitlines()[-1]
