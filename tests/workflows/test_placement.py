"""Every recipe, traits, evaluation and healing on virtual cards, and under the rules of Apple's
chip: what comes out is what the CPU gives.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import tiny_chat
import tiny_evaluation
import tiny_style
import torch
from healed import QUICK as QUICK_HEALING
from tiny import orthonormal, random_model
from trait_runs import trait
from virtual_devices import Transfer, VirtualDevices, place, tag_of, virtual_machine

from vectomy.core.jsonl import read_jsonl
from vectomy.core.progress import Progress, silent
from vectomy.edits.edit import Edit
from vectomy.healing.heal_config import parse_heal
from vectomy.healing.machine import resolve_machine
from vectomy.models import available_memory, load_model, memory_for
from vectomy.search.gradient.gradient_recipe import _Search
from vectomy.workflows.heal.heal_model import heal_model
from vectomy.workflows.run import run
from vectomy.workflows.trait_config import make_trait_run

TIER = "chat"
# Shapes are checked by the tests of each part; here they would take half of the time.
pytestmark = pytest.mark.usefixtures("unchecked")

Machine = tuple[Literal["cuda", "mps"], int]
MACHINES: list[Machine] = [("cuda", 1), ("cuda", 2), ("cuda", 4), ("mps", 1)]
# What mixes the CPU with one card also mixes it with four.
DIFFERENT: list[Machine] = [("cuda", 4), ("mps", 1)]
RECIPES: dict[str, dict[str, Any]] = {
    "gradient": {"steps": 8},
    "selective": {"steps": 4, "n_fit": 12},
    "tpe": {"trials": 3},
    "cosmic": {},
    "article": {},
    "arditi": {"until": "report"},
}
SAME = {"dtype": "float32", "batch_tokens": 4096, "answer_tokens": 8}


@pytest.fixture(scope="module", autouse=True)
def _taught() -> None:
    tiny_chat.folder()
    tiny_style.folder()


def assert_same_edit(edit: Edit, other: Edit) -> None:
    assert len(edit.operations) == len(other.operations)
    for mine, its in zip(edit.operations, other.operations, strict=True):
        assert (mine.component, mine.layer) == (its.component, its.layer)
        for name in ("basis", "strengths", "addition"):
            one, two = getattr(mine, name), getattr(its, name)
            assert (one is None) == (two is None)
            if one is not None:
                # Gradients of several cards are added in another order.
                torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


# Recipes


def learn(recipe: str, device: str) -> Edit:
    out = tiny_chat.scratch() / "run"
    options = {"until": "select", "n_fit": 24, "n_search": 8, "n_test": 8, **RECIPES[recipe]}
    given = tiny_chat.sources()
    if recipe == "selective":
        given["keep"] = _preserve_set()
    run(
        str(tiny_chat.folder()),
        out,
        **{**given, **SAME, "layer_fraction": 1.0, "recipe": recipe, "device": device, **options},
    )
    return Edit.load(out / "edit.safetensors")


@cache
def _preserve_set() -> str:
    file = tiny_chat.scratch() / "keep.json"
    file.write_text(json.dumps(tiny_chat.texts(tiny_chat.NIGHT)[60:100]), encoding="utf-8")
    return str(file)


@cache
def learned_on_cpu(recipe: str) -> Edit:
    return learn(recipe, "cpu")


@pytest.mark.parametrize(
    ("recipe", "machine"),
    [("gradient", machine) for machine in MACHINES]
    + [("selective", ("cuda", 4))]
    + [(recipe, machine) for recipe in [*RECIPES][2:] for machine in DIFFERENT],
)
def test_a_recipe_gives_the_edit_of_the_cpu(recipe: str, machine: Machine) -> None:
    wanted = learned_on_cpu(recipe)
    with virtual_machine(*machine) as devices:
        edit = learn(recipe, "auto")
    assert devices.moves
    assert_same_edit(edit, wanted)


# Traits


def learn_trait(operation: str, form: str, device: str, progress: Progress = silent) -> Edit:
    out = tiny_style.scratch() / "run"
    steps = {"steps": 6} if form == "learned" else {}
    options = {**SAME, **steps, "n_fit": 24, "n_search": 8, "n_test": 8, "device": device}
    config = make_trait_run(str(tiny_style.folder()), trait(operation=operation, form=form), options)
    run(config, out, command="vectomy run", until="select", progress=progress)
    return Edit.load(out / "edit.safetensors")


@cache
def trait_learned_on_cpu(operation: str, form: str) -> Edit:
    return learn_trait(operation, form, "cpu")


@pytest.mark.parametrize(
    ("operation", "form", "machine"),
    [
        ("induce", "learned", ("cuda", 1)),
        ("induce", "learned", ("cuda", 2)),
        ("induce", "learned", ("mps", 1)),
        ("remove", "learned", ("cuda", 4)),
        ("induce", "set-point", ("cuda", 4)),
    ],
)
def test_a_trait_is_learned_as_on_the_cpu(operation: str, form: str, machine: Machine) -> None:
    wanted = trait_learned_on_cpu(operation, form)
    with virtual_machine(*machine):
        edit = learn_trait(operation, form, "auto")
    assert_same_edit(edit, wanted)


# The loop of learning


def test_no_step_of_a_search_by_gradients_moves_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned, the targets and the states of the base are where the losses are."""
    moved: list[Counter[Transfer]] = []
    step = _Search._step

    def count(*args: Any) -> dict[str, float]:
        before = devices.moves.copy()
        losses = step(*args)
        moved.append(devices.moves - before)
        return losses

    monkeypatch.setattr(_Search, "_step", count)
    with virtual_machine("cuda", 1) as devices:
        learn("gradient", "auto")
    assert len(moved) >= RECIPES["gradient"]["steps"]
    assert moved == [Counter()] * len(moved)


@pytest.mark.parametrize("operation", ["induce", "remove"])
def test_no_step_of_learning_a_trait_moves_anything(operation: str) -> None:
    moved: list[Counter[Transfer]] = []

    @contextmanager
    def count(title: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        yield lambda _: moved.append(devices.moves.copy()) if title == "learning" else None

    with virtual_machine("cuda", 1) as devices:
        learn_trait(operation, "learned", "auto", count)
    assert len(moved) == 6
    assert moved[0] == moved[-1]


# Evaluation and healing


def evaluated(device: str) -> tuple[dict[str, Any], list[Any]]:
    out = tiny_chat.scratch() / "out"
    subjects = ["tiny", "edit", "baked", "adapter"]
    options = {"texts": (tiny_evaluation.places()["text"],), "device": device}
    results = tiny_evaluation.go(out, subjects, **{**tiny_evaluation.QUICK, **SAME, **options})
    return results["results"], read_jsonl(out / "completions.jsonl")


def test_an_evaluation_has_the_numbers_of_the_cpu() -> None:
    results, rows = evaluated("cpu")
    for machine in DIFFERENT:
        with virtual_machine(*machine):
            there, answers = evaluated("auto")
        assert answers == rows
        assert there.keys() == results.keys()
        for name, numbers in results.items():
            for prompts, wanted in numbers["sets"].items():
                measured = there[name]["sets"][prompts]
                assert measured["refusal"] == wanted["refusal"], (machine, name)
                for key in ("kl_first_token", "kl_per_token"):
                    if key in wanted:
                        assert measured[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-6), (
                            machine,
                            name,
                        )


@pytest.mark.parametrize(("method", "machine"), [("lora", ("cuda", 1)), ("full", ("mps", 1))])
def test_healing_has_the_numbers_of_the_cpu(machine: Machine, method: str) -> None:
    wanted = healed(method, "cpu")
    with virtual_machine(*machine):
        assert healed(method, "auto") == nearly(wanted)


def nearly(value: Any) -> Any:
    """Numbers to rounding: two trainings in one process differ in the last digits now and then."""
    if isinstance(value, dict):
        return {key: nearly(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [nearly(inner) for inner in value]
    return pytest.approx(value, rel=1e-5, abs=1e-8) if isinstance(value, float) else value


def healed(method: str, device: str) -> dict[str, Any]:
    folder = tiny_chat.scratch()
    day, night = tiny_chat.texts(tiny_chat.DAY), tiny_chat.texts(tiny_chat.NIGHT)
    sets = {"prompts": day[:8], "negative_test": day[40:46], "positive_test": night[:6]}
    for name, texts in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(texts), encoding="utf-8")
    config = {
        **QUICK_HEALING,
        **SAME,
        **{name: str(folder / f"{name}.json") for name in sets},
        "preferences": "own",
        "own_tokens": 8,
        "micro_batch": 4,
        "objective": "sft",
        "method": method,
        "device": device,
    }
    edit = Edit.ablation(tiny_chat.folder(), orthonormal(8), about={"behaviour": "refusal"})
    summary = heal_model(str(tiny_chat.folder()), folder / "out", parse_heal(config), edit=edit)
    measures: dict[str, Any] = summary["measures"]
    return measures


# The device that was asked for


def test_a_run_and_a_healing_on_the_cpu_touch_no_card() -> None:
    """Their receipts, too: a card may be full, or another's."""
    with virtual_machine("cuda", 2) as devices:
        learn("arditi", "cpu")
        healed("lora", "cpu")
    assert devices.moves == Counter()


# Precision


@pytest.mark.parametrize(
    ("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_card_that_only_emulates_bfloat16_computes_in_float16(
    tmp_path: Path, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    model = random_model("llama", vocab_size=len(tiny_chat.VOCABULARY)).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    with virtual_machine("cuda", 2, capability):
        assert load_model(tmp_path, tokenizer=False, device="auto").model.dtype == dtype
        assert load_model(tmp_path, tokenizer=False, device="cuda:1").model.dtype == dtype
        assert load_model(tmp_path, tokenizer=False, dtype="float32").model.dtype == torch.float32
    with virtual_machine("cuda", 1, capability):
        machine = resolve_machine(parse_heal({**QUICK_HEALING, "device": "auto", "dtype": "auto"}))
    assert machine.dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_card_has_its_free_memory_however_it_is_named(device: str) -> None:
    """Some functions of torch.cuda refuse a card without an index."""
    with virtual_machine("cuda", 2):
        assert available_memory(torch.device(device)) > 0
        assert memory_for(device) > 0


# The virtual devices themselves


def test_tensors_of_two_devices_do_not_mix() -> None:
    with virtual_machine("cuda", 2):
        one, other = torch.ones(3, device="cuda:0"), torch.ones(3).to("cuda:1")
        assert (str(one.device), tag_of(one + 1), one.is_cuda) == ("cuda:0", "cuda:0", True)
        with pytest.raises(RuntimeError, match="at least two devices"):
            one + other
        with pytest.raises(RuntimeError, match="same device as the indexed tensor"):
            one[torch.zeros(1, dtype=torch.long, device="cuda:1")]
        with pytest.raises(TypeError, match="to numpy"):
            one.numpy()
        assert float((one + other.to(one.device)).sum()) == 6.0
        # A single number of the CPU goes with every device, as in PyTorch.
        assert tag_of(one * torch.tensor(2.0)) == "cuda:0"


def test_an_apple_chip_has_no_float64() -> None:
    with virtual_machine("mps"):
        value = torch.ones(2, device="mps")
        for widen in (value.double, lambda: value.to(torch.float64), lambda: value.sum(dtype=torch.float64)):
            with pytest.raises(TypeError, match="float64"):
                widen()
        assert value.cpu().double().dtype == torch.float64


def test_nothing_of_the_virtual_machine_is_left_behind(tmp_path: Path) -> None:
    from transformers import PreTrainedModel

    before = (PreTrainedModel.from_pretrained.__func__, torch.nn.Parameter.__new__, torch.cuda.is_available)
    with pytest.raises(ZeroDivisionError), virtual_machine("cuda", 4):
        raise ZeroDivisionError
    after = (PreTrainedModel.from_pretrained.__func__, torch.nn.Parameter.__new__, torch.cuda.is_available)
    assert all(one is two for one, two in zip(before, after, strict=True))
    assert not any(
        isinstance(mode, VirtualDevices) for mode in torch.overrides._get_current_function_mode_stack()
    )
    model = place(torch.nn.Linear(2, 2), "cuda")
    assert str(next(model.parameters()).device) == "cpu"
