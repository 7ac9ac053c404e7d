"""A model read block by block has the stream that it has when it is loaded whole, and never more of
it in memory than a block.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import safetensors.torch
import tiny_chat
import torch
from layerwise_stream import pair, random_batches, stream_of
from tiny import MODEL_TYPES, hooked
from tiny_chat import DAY, NIGHT
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from zoo import D_MODEL, zoo_folder

from vectomy.architecture import resolve
from vectomy.checkpoint import Checkpoint
from vectomy.core.errors import ActivationError, CheckpointError, ModelError, PromptError
from vectomy.models import (
    Batch,
    ChatModel,
    fits,
    layerwise_memory,
    load_layerwise,
    load_model,
    memory,
    stored_weights,
    weights,
)
from vectomy.models.layerwise import LayerwiseModel
from vectomy.models.weights import Weights, skeleton
from vectomy.search.collect import collect

TIER = "chat"

CPU = torch.device("cpu")
# The same kernels on the same numbers; only where they lie in memory differs.
EXACT = {"rtol": 1e-6, "atol": 1e-6}
PROMPTS = [*tiny_chat.prompts(NIGHT, 6), *tiny_chat.prompts(DAY, 6)]


def whole(folder: Path) -> ChatModel:
    """The resident model, without a tokenizer."""
    checkpoint = Checkpoint.open(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return ChatModel("whole", checkpoint, resolve(checkpoint.config), model, None)


def held(model: nn.Module) -> int:
    """Numbers in memory, placeholders aside."""
    values = {id(p): p for p in model.parameters() if not p.is_meta}
    return sum(
        p.untyped_storage().nbytes() // p.itemsize
        for p in values.values()
        if p.untyped_storage().nbytes() > 8
    )


VARIANTS = {
    "plain": {},
    "tied": {"tied": True},
    "sharded": {"sharded": True},
    "sliding": {"sliding_window": 4, "use_sliding_window": True},
}


@pytest.mark.tiny
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_stream_is_that_of_the_whole_model(tiny_of, model_type: str, variant: str) -> None:
    folder = tiny_of(model_type, **VARIANTS[variant]).folder
    chat = load_layerwise(folder, device="cpu", tokenizer=False)
    batches = random_batches(chat)
    with torch.inference_mode():
        expected = stream_of(whole(folder), batches)
    found = stream_of(chat, batches)
    assert found.keys() == expected.keys()
    for point, value in expected.items():
        torch.testing.assert_close(found[point], value, **EXACT)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_collected_statistics_are_those_of_the_whole_model(dtype: str) -> None:
    wanted = {"positions": [-2, -1], "covariance": True, "samples": True, "batch_tokens": 40}
    expected = collect(load_model(tiny_chat.folder(), device="cpu", dtype=dtype), PROMPTS, **wanted)
    found = collect(load_layerwise(tiny_chat.folder(), device="cpu", dtype=dtype), PROMPTS, **wanted)
    assert found.count == expected.count == len(PROMPTS)
    for name in ("mean", "covariance", "samples"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), **EXACT)


# Models that do more around their blocks than handing the stream on, or lie on disk otherwise than
# live.
PECULIAR = {
    "gemma3n_text": "model.layers",  # four streams, embeddings of each layer, keys used again later
    "gemma4_text:per_layer_input": "model.layers",  # keys and values shared in a dict
    "gemma3_text": "model.layers",  # two masks and two rotary tables
    "qwen3_moe": "model.layers",  # experts apart on disk, fused live
    "gpt_oss": "model.layers",
    "gpt2": "transformer.h",  # positions are embedded; matrices transposed
    "glm_moe_dsa": "model.layers",  # chosen keys handed to the next block
    "falcon_mamba": "backbone.layers",
    "rwkv": "rwkv.blocks",  # weights rescaled in evaluation
    "llama4_text": "model.layers",  # asks its embedding for a device
}


def blocks_of(folder: Path, path: str) -> LayerwiseModel:
    checkpoint = Checkpoint.open(folder)
    model = skeleton(checkpoint, "auto", trust_remote_code=False)
    layers = len(model.get_submodule(path))
    return LayerwiseModel(
        model, Weights(model, checkpoint, CPU), [f"{path}.{n}" for n in range(layers)], D_MODEL
    )


def walk_to_the_end(
    stream: LayerwiseModel, batches: Sequence[Batch], budget: int | None = None
) -> list[tuple[range, list[int]]]:
    """Every sweep: its layers, and the rows of its batches."""
    with closing(stream.iter_layers(batches, budget)) as sweeps:
        return [(layers, [row for batch in passed for row in batch.rows]) for layers, passed in sweeps]


def outputs_by_block(model: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that fills with what blocks return, as they run."""
    seen: list[Tensor] = []
    handles = [
        b.register_forward_hook(
            lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
        )
        for b in blocks
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.zoo
@pytest.mark.parametrize("label", PECULIAR)
def test_whatever_a_model_does_around_its_blocks_is_done(label: str, tmp_path: Path) -> None:
    folder = zoo_folder(label, tmp_path / "m")
    stream = blocks_of(folder, PECULIAR[label])
    resident = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    batches = [pair(), pair()]
    expected: list[list[Tensor]] = []
    for batch in batches:
        recording = outputs_by_block(resident, [resident.get_submodule(path) for path in stream.paths])
        expected.append(next(recording))
        with torch.inference_mode():
            resident.base_model(**batch.inputs())
        next(recording, None)
    with closing(stream.iter_layers(batches)) as sweeps:
        for layers, passed in sweeps:
            recording = outputs_by_block(stream.model, [stream.blocks[layers.start]])
            for seen, _ in zip([next(recording)] * len(batches), passed, strict=True):
                torch.testing.assert_close(seen[-1], expected[len(seen) - 1][layers.start], **EXACT)
            next(recording, None)
    assert held(stream.model) == 0


REFUSED = {
    "zamba": ("model.layers", "several blocks share"),
    "hrm_text": ("model.L_module.layers", "does not run its blocks one after the other"),
}


@pytest.mark.zoo
@pytest.mark.parametrize("label", REFUSED)
def test_what_cannot_be_read_block_by_block_is_refused(label: str, tmp_path: Path) -> None:
    path, said = REFUSED[label]
    stream = blocks_of(zoo_folder(label, tmp_path / "m"), path)
    with pytest.raises(ModelError, match=said):
        walk_to_the_end(stream, [pair()])
    assert held(stream.model) == 0


# Memory


@pytest.mark.tiny
@pytest.mark.parametrize("tied", [False, True])
def test_never_more_than_a_block_and_the_tokens_that_occur_is_in_memory(
    tiny_of, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_of("llama", tied=tied).folder
    chat = load_layerwise(folder, device="cpu", tokenizer=False)
    read: list[str] = []
    reading = weights.read_stored

    def listed(checkpoint: Checkpoint, name: str, first: int = 0, last: int | None = None) -> Tensor:
        read.append(name if last is None else f"{name}[{last - first}]")
        return reading(checkpoint, name, first, last)

    for module in (weights, stored_weights):
        monkeypatch.setattr(module, "read_stored", listed)
    block = sum(p.numel() for p in chat.model.model.layers[0].parameters())
    batches = random_batches(chat)
    with chat.iter_layers(batches) as sweeps:
        for _, passed in sweeps:
            assert held(chat.model) <= block
            for _ in passed:
                # The last batch goes on to the norm behind the blocks.
                assert held(chat.model) <= block + chat.architecture.d_model
    assert held(chat.model) == 0
    assert "model.embed_tokens.weight" not in read
    assert "lm_head.weight" not in read
    tokens = sum(batch.input_ids.unique().numel() for batch in batches)
    rows = [
        int(name.rpartition("[")[2][:-1]) for name in read if name.startswith("model.embed_tokens.weight[")
    ]
    assert sum(rows) == tokens
    for layer in range(chat.architecture.n_layers):
        assert read.count(f"model.layers.{layer}.mlp.up_proj.weight") == 1


def test_batches_that_do_not_fit_together_go_in_groups() -> None:
    chat = load_layerwise(tiny_chat.folder(), device="cpu")
    assert chat.stream is not None
    batches = list(chat.batches(chat.tokens(PROMPTS), 40))
    one = 2 * max(batch.input_ids.numel() for batch in batches) * chat.architecture.d_model * 4
    for budget, groups in ((0, len(batches)), (2 * one, -(-len(batches) // 2)), (1 << 40, 1)):
        seen = walk_to_the_end(chat.stream, batches, budget)
        assert [layers.start for layers, _ in seen] == [*range(chat.architecture.n_layers)] * groups
        for layer in range(chat.architecture.n_layers):
            rows = [row for layers, rows in seen if layers.start == layer for row in rows]
            assert sorted(rows) == [*range(len(PROMPTS))]


def test_collecting_in_groups_gives_the_same_means(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = collect(
        load_model(tiny_chat.folder(), device="cpu"), PROMPTS, covariance=True, batch_tokens=40
    )
    monkeypatch.setattr("vectomy.models.layerwise.available_memory", lambda _: 0)
    found = collect(
        load_layerwise(tiny_chat.folder(), device="cpu"), PROMPTS, covariance=True, batch_tokens=40
    )
    assert found.count == len(PROMPTS)
    torch.testing.assert_close(found.mean, expected.mean, **EXACT)
    torch.testing.assert_close(found.covariance, expected.covariance, **EXACT)


def test_what_fits_is_said_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint.open(tiny_chat.folder())
    architecture = resolve(checkpoint.config)
    monkeypatch.setattr(memory, "available_memory", lambda _=None: 2 * checkpoint.bytes)
    assert fits(checkpoint)
    monkeypatch.setattr(memory, "available_memory", lambda _=None: checkpoint.bytes)
    assert not fits(checkpoint)
    entries = (e for e in checkpoint.tensors.values() if e.name.startswith("model.layers.0."))
    assert memory.largest_block(checkpoint) == sum(e.end - e.start for e in entries)
    more = layerwise_memory(checkpoint, architecture, 2000) - layerwise_memory(checkpoint, architecture, 1000)
    assert more == 1000 * 2 * 2 * architecture.d_model


# Errors and ends


def test_a_walk_that_ends_early_leaves_no_hook_and_no_weight() -> None:
    chat = load_layerwise(tiny_chat.folder(), device="cpu")
    batches = list(chat.batches(chat.tokens(PROMPTS), 40))

    def fail(at: int, ended: bool) -> None:
        with chat.iter_layers(batches) as sweeps:
            for layers, passed in sweeps:
                if ended:
                    next(passed)
                if layers.start == at:
                    assert held(chat.model)
                    raise ZeroDivisionError

    for at, ended in ((0, False), (2, True)):
        with pytest.raises(ZeroDivisionError):
            fail(at, ended)
        assert held(chat.model) == 0
        assert not hooked(chat.model)
        assert not any(block._compiled_call_impl for block in chat.model.model.layers)
    assert len(stream_of(chat, batches)) == len(batches) * 3 * chat.architecture.n_layers


def test_damaged_weights_are_named_and_leave_nothing(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    chat = load_layerwise(folder, device="cpu")
    with pytest.raises(ActivationError, match="resid_post of layer 1 contain NaN"):
        collect(chat, PROMPTS)
    assert held(chat.model) == 0
    assert not hooked(chat.model)


@pytest.mark.tiny
@pytest.mark.parametrize("case", ["missing", "renamed", "shape", "packed"])
def test_a_block_that_is_not_whole_is_named(tiny_of, tmp_path: Path, case: str) -> None:
    folder = Path(shutil.copytree(tiny_of("llama").folder, tmp_path / "m"))
    name = "model.layers.2.mlp.up_proj.weight"
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    if case == "missing":
        del tensors[name]
    elif case == "renamed":
        tensors[f"_orig_mod.{name}"] = tensors.pop(name)
    elif case == "shape":
        tensors[name] = tensors[name][:, :-1].contiguous()
    else:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    kind, said = {
        "missing": (ModelError, f"has no tensor for '{name}'; its files are whole, so it was left out"),
        "renamed": (ModelError, f"has no tensor for '{name}'; .* hold the prefix '_orig_mod.'"),
        "shape": (CheckpointError, f"'{name}' has the shape"),
        "packed": (ModelError, f"'{name}' is stored as F8_E4M3"),
    }[case]
    with pytest.raises(kind, match=said):
        walk_to_the_end(blocks_of(folder, "model.layers"), [pair()])


def test_answers_and_logits_are_refused() -> None:
    chat = load_layerwise(tiny_chat.folder(), device="cpu", name="big")
    tokens = chat.tokens(PROMPTS[:1])
    assert tokens == tiny_chat.chat().tokens(PROMPTS[:1])
    with pytest.raises(ModelError, match="big is read block by block"):
        chat.answer(tokens, 3, 100)
    with pytest.raises(ModelError, match="big is read block by block"):
        chat.next_token_log_probs(tokens, 100)


def test_a_chat_needs_a_template_and_token_ids_need_none(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        load_layerwise(folder, device="cpu")
    assert load_layerwise(folder, device="cpu", tokenizer=False).tokenizer is None
    with pytest.raises(PromptError):
        collect(load_layerwise(tiny_chat.folder(), device="cpu"), [])


def test_the_dtype_is_the_checkpoints_own_where_the_config_says_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": True}
    )
    folder = Path(shutil.copytree(tiny_chat.folder(), tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k not in ("dtype", "torch_dtype")})
    )
    tensors = {k: v.bfloat16() for k, v in safetensors.torch.load_file(folder / "model.safetensors").items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert (
        load_layerwise(folder, device="cpu").model.dtype
        == load_model(folder, device="cpu").model.dtype
        == torch.bfloat16
    )
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx512_bf16": False}
    )
    assert (
        load_layerwise(folder, device="cpu").model.dtype
        == load_model(folder, device="cpu").model.dtype
        == torch.float32
    )
