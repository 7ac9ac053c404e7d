"""A type that the table lacks is built, probed and written down: the same row that the table would
have.
"""

import importlib
from pathlib import Path

import pytest
import torch
import transformers
import zoo
from tiny import unit

from vectomy import Edit, bake, probe_architecture, verify
from vectomy.architecture import FAMILIES
from vectomy.core.errors import ArchitectureError, ModelError
from vectomy.models.reduced_config import reduce_config

TIER = "zoo"

# The package exports the function under the module's name.
MODULE = importlib.import_module("vectomy.models.probe_architecture")


@pytest.mark.parametrize(
    "label",
    [
        "llama",
        "gemma2",
        "gpt2",
        "bloom",
        "phi",
        "qwen3_5_text",
        "gpt_oss",
        "nanochat",
        "falcon:new_decoder_architecture",
    ],
)
def test_what_it_learns_is_what_the_table_says(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.zoo_folder(label, tmp_path / "in")
    known = Edit.ablation(tmp_path / "in", unit())
    monkeypatch.delitem(FAMILIES, zoo.ZOO[label].model_type)
    with pytest.raises(ArchitectureError, match="is not known"):
        Edit.ablation(tmp_path / "in", unit())
    family = probe_architecture(tmp_path / "in")
    monkeypatch.setitem(FAMILIES, zoo.ZOO[label].model_type, family)
    edit = Edit.ablation(tmp_path / "in", unit())
    assert [operation.sort_key for operation in edit.operations] == [
        operation.sort_key for operation in known.operations
    ]
    bake(edit, tmp_path / "in", tmp_path / "out")
    found = verify(tmp_path / "out", edit)
    assert (found.left, found.failures) == ((), ())
    assert found.max_projection < 1e-5


@pytest.mark.tiny
def test_a_known_type_is_not_probed(tiny_of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "probe", lambda model: pytest.fail("probed"))
    assert probe_architecture(tiny_of().folder) is None


def test_tensors_under_other_names_than_the_model_s_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.zoo_folder("mixtral", tmp_path / "in")
    monkeypatch.delitem(FAMILIES, "mixtral")
    with pytest.raises(ArchitectureError, match="does not exist in the model"):
        probe_architecture(tmp_path / "in")
    assert "mixtral" not in FAMILIES


def test_a_stream_that_no_edit_can_follow_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.zoo_folder("minimax", tmp_path / "in")
    monkeypatch.delitem(MODULE.REFUSED, "minimax")
    with pytest.raises(ArchitectureError, match=r"does not pass 'model\.layers\.0' unchanged"):
        probe_architecture(tmp_path / "in")


def test_a_model_too_large_to_build_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.zoo_folder("llama", tmp_path / "in")
    monkeypatch.delitem(FAMILIES, "llama")
    monkeypatch.setattr(MODULE, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match="use a larger machine"):
        probe_architecture(tmp_path / "in")
    assert torch.is_grad_enabled()


def test_memory_that_runs_out_on_the_likeness_is_not_taken_for_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole model would be built next, which is larger."""
    zoo.zoo_folder("llama", tmp_path / "in")
    monkeypatch.delitem(FAMILIES, "llama")

    def run_out(model: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")

    monkeypatch.setattr(MODULE, "probe", run_out)
    with pytest.raises(RuntimeError, match="not enough memory"):
        probe_architecture(tmp_path / "in")


# Types of an unknown size: the smallest likeness has every kind of block, and the same writers.


def likeness(config: transformers.PretrainedConfig) -> tuple[torch.nn.Module, list[torch.nn.Module]]:
    """The whole model and its likenesses, on the meta device."""
    with torch.device("meta"):
        whole = transformers.AutoModelForCausalLM.from_config(config)
        smaller = [transformers.AutoModelForCausalLM.from_config(c) for c in reduce_config(config, whole)]
    return whole, smaller


def gibibytes(model: torch.nn.Module) -> float:
    return 4 * sum(parameter.numel() for parameter in model.parameters()) / 2**30


LARGE = {
    "llama": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256},
    "qwen3": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "head_dim": 128},
    "qwen3_moe": {"hidden_size": 4096, "num_hidden_layers": 94, "num_experts": 128, "head_dim": 128},
    "gemma2": {"hidden_size": 3584, "num_hidden_layers": 42, "head_dim": 256},
}


@pytest.mark.tiny
@pytest.mark.parametrize("model_type", LARGE)
def test_a_large_model_is_probed_on_a_small_likeness(model_type: str) -> None:
    config = transformers.AutoConfig.for_model(model_type, **LARGE[model_type])
    whole, smaller = likeness(config)
    assert gibibytes(whole) > 10
    assert gibibytes(smaller[0]) < 1
    names = {name for name, _ in whole.named_parameters()}
    assert {name for name, _ in smaller[0].named_parameters()} < names
    # Nothing of the caller's configuration was changed.
    assert config.num_hidden_layers == LARGE[model_type]["num_hidden_layers"]


@pytest.mark.tiny
def test_a_likeness_has_every_kind_of_block() -> None:
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    config = transformers.AutoConfig.for_model("qwen3_next", num_hidden_layers=12, layer_types=kinds * 3)
    _, smaller = likeness(config)
    assert [model.config.layer_types for model in smaller] == [kinds, kinds]
    config = transformers.AutoConfig.for_model("deepseek_v3", num_hidden_layers=9, first_k_dense_replace=3)
    _, smaller = likeness(config)
    assert {model.config.num_hidden_layers for model in smaller} == {4}


@pytest.mark.parametrize("label", ["llama", "gemma2", "gpt_oss", "phi"])
def test_a_likeness_has_the_writers_of_the_whole(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.zoo_folder(label, tmp_path / "in")
    monkeypatch.delitem(FAMILIES, zoo.ZOO[label].model_type)
    families = []
    for reduced in (True, False):
        monkeypatch.setattr(
            MODULE,
            "reduce_config",
            (lambda *given: reduce_config(*given)) if reduced else lambda *_: iter(()),
        )
        families.append(probe_architecture(tmp_path / "in"))
        FAMILIES.pop(zoo.ZOO[label].model_type)
    assert families[0] == families[1]
    assert families[0] is not None
