"""A base that is stored in GPTQ is run, evaluated and baked as its decoded weights are."""

from pathlib import Path

import pytest
import tiny_chat
import torch
from integer_folder import IntegerFolder, integer_folder
from safetensors.torch import load_file

from vectomy.core.run_folder import read_json
from vectomy.models import load_model
from vectomy.workflows.evaluate import evaluate_models
from vectomy.workflows.run import run

TIER = "chat"
SIZES = {"n_fit": 32, "n_search": 8, "n_test": 12}
QUICK = {"device": "cpu", "answer_tokens": 8, "recipe": "arditi", **SIZES}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[IntegerFolder, dict[str, Path]]:
    """A run on the packed folder and one on the plain folder with the same weights. 8 bits: fewer
    change what the tiny model says.
    """
    scratch = tmp_path_factory.mktemp("integers")
    folders = integer_folder(tiny_chat.folder(), scratch, "gptq_v2", bits=8, group=16, ordered=True)
    outs = {}
    for folder in (folders.packed, folders.plain):
        outs[folder.name] = scratch / f"run-{folder.name}"
        run(str(folder), outs[folder.name], **tiny_chat.sources(), **QUICK)
    return folders, outs


def test_a_search_on_packed_integers_is_one_on_the_decoded_weights(
    runs: tuple[IntegerFolder, dict[str, Path]],
) -> None:
    packed, plain = (read_json(out / "summary.json") for out in runs[1].values())
    assert packed["searched_on"] == plain["searched_on"] == "float32"
    assert packed["base"]["refusal_rate"] == 1.0
    for key in ("base", "edited", "direction", "forms"):
        assert packed[key] == plain[key], key
    notes = " ".join(packed["notes"])
    assert "the weights are stored in gptq and were decoded to float32" in notes
    baked, oracle = (load_file(out / "checkpoint" / "model.safetensors") for out in runs[1].values())
    assert set(baked) == set(oracle)
    assert all(torch.equal(baked[name], value) for name, value in oracle.items())
    assert packed["receipt"]["left"] == plain["receipt"]["left"]


def test_the_packed_base_is_evaluated_beside_its_baked_copy(
    runs: tuple[IntegerFolder, dict[str, Path]], tmp_path: Path
) -> None:
    """Base and copy measure as the plain base and the same copy."""
    folders, outs = runs
    results = []
    for folder in vars(folders).values():
        measured = evaluate_models(
            [str(folder), str(outs["packed"] / "checkpoint")],
            tmp_path / folder.name,
            prompts=(tiny_chat.sources()["positive"],),
            limit=8,
            answer_tokens=8,
            device="cpu",
        )["results"]
        results.append({name: measured[name]["sets"]["positive"] for name in (folder.name, "checkpoint")})
    packed, plain = results
    assert packed["packed"] == plain["plain"]
    assert packed["checkpoint"] == plain["checkpoint"]
    assert packed["packed"]["kl_per_token"] == 0.0 < packed["checkpoint"]["kl_per_token"]


def test_its_packed_weights_are_quantised_again_in_memory(
    runs: tuple[IntegerFolder, dict[str, Path]],
) -> None:
    """`--load-in` takes them for plain weights."""
    pytest.importorskip("bitsandbytes")
    folders, _ = runs
    packed, plain = (load_model(folder, device="cpu", load_in="4bit") for folder in vars(folders).values())
    ids = torch.tensor(packed.tokens(tiny_chat.prompts(tiny_chat.NIGHT, 2)))
    with torch.no_grad():
        assert torch.equal(packed.model(ids).logits, plain.model(ids).logits)
