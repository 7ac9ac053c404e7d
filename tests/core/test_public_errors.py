"""Every public function refuses wrong arguments by a VectomyError that names thing and remedy."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_chat
import torch
from tiny import unit

import vectomy
from vectomy.core.errors import VectomyError

TIER = "chat"

TEXT = ["show the owl red"]
NO_MODEL = "give a model of AutoModelForCausalLM"
NO_FOLDER = "give the path of one, or a ChatModel"


def chat():
    return tiny_chat.chat()


def model():
    return tiny_chat.chat().model


def edit():
    return vectomy.Edit.ablation(tiny_chat.folder(), unit())


def stats(**options):
    return vectomy.collect(chat(), TEXT, **options)


def directions():
    return vectomy.fit_directions(stats(), stats())


def enter(block) -> None:
    with block:
        pass


CASES: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("bake", lambda out: vectomy.bake(3, tiny_chat.folder(), out / "x"), "an int .3.", "path"),
    ("bake", lambda out: vectomy.bake(edit(), model(), out / "x"), "a LlamaForCausalLM", NO_FOLDER),
    ("bake", lambda out: vectomy.bake(edit(), tiny_chat.folder(), 3), "the folder `out` is an int", "path"),
    ("capture", lambda out: enter(vectomy.capture(3)), "an int .3.", NO_MODEL),
    ("capture", lambda out: enter(vectomy.capture(torch.nn.Linear(2, 2))), "a Linear", NO_MODEL),
    ("capture", lambda out: enter(vectomy.capture(chat(), ["resid"])), "no site 'resid'", "resid_pre"),
    ("capture", lambda out: enter(vectomy.capture(chat(), layers=["x"])), "a layer is a str", "numbers"),
    ("capture", lambda out: enter(vectomy.capture(chat(), positions="x")), "a position is a str", "-1"),
    ("collect", lambda out: vectomy.collect(model(), TEXT), "a LlamaForCausalLM", r"vectomy\.wrap"),
    ("collect", lambda out: vectomy.collect(chat(), []), "no prompts", "give a list"),
    ("collect", lambda out: vectomy.collect(chat(), [3]), "prompt 1 is 3", "a prompt is a text"),
    ("collect", lambda out: stats(sites=["resid"]), "no site 'resid'", "resid_pre"),
    ("collect", lambda out: stats(sites=[]), r"sites \[\]", "at least one site"),
    ("collect", lambda out: stats(positions=[0]), r"positions \[0\]", "from the end"),
    ("collect", lambda out: stats(positions=["x"]), "a position is a str", "-1"),
    ("compare", lambda out: vectomy.compare(3, tiny_chat.folder()), "an int .3.", NO_FOLDER),
    (
        "evaluate_models",
        lambda out: vectomy.evaluate_models([3], out / "x"),
        "a subject is an int",
        "a ChatModel",
    ),
    ("evaluate_models", lambda out: vectomy.evaluate_models(["demo"], 3), "the folder `out`", "path"),
    ("fit_directions", lambda out: vectomy.fit_directions(stats(), stats(), "mean"), "'mean'", "projected"),
    (
        "fit_directions",
        lambda out: vectomy.fit_directions(TEXT, stats()),
        "positive side is a list",
        "collect",
    ),
    (
        "fit_directions",
        lambda out: vectomy.fit_directions(stats(sites=["resid_pre"]), stats()),
        "different points",
        "the same sites",
    ),
    ("heal_model", lambda out: vectomy.heal_model(3, out / "x"), "the model is an int", "a Hub id"),
    ("heal_model", lambda out: vectomy.heal_model("demo", out / "x", until="end"), "stage 'end'", "merge"),
    ("intervene", lambda out: enter(vectomy.intervene(3, {})), "an int .3.", NO_MODEL),
    ("intervene", lambda out: enter(vectomy.intervene(chat(), 3)), "the interventions are an int", "vectomy"),
    ("intervene", lambda out: enter(vectomy.intervene(chat(), {"x": abs})), "'x'", r"\('resid_pre', 7\)"),
    ("intervene", lambda out: enter(vectomy.intervene(chat(), {("x", 1): abs})), "site 'x'", "resid_pre"),
    ("intervene", lambda out: enter(vectomy.intervene(chat(), {("resid_pre", 1): 3})), "an int", "function"),
    ("lens", lambda out: vectomy.lens(model(), TEXT), "a LlamaForCausalLM", r"vectomy\.wrap"),
    ("lens", lambda out: vectomy.lens(chat(), TEXT, positions=[0]), r"positions \[0\]", "such as -1"),
    ("load_layerwise", lambda out: vectomy.load_layerwise(3), "the model folder is an int", "path"),
    ("load_model", lambda out: vectomy.load_model(model()), "is a LlamaForCausalLM", "path"),
    ("load_model", lambda out: vectomy.load_model(out, dtype="float"), "float", "bfloat16"),
    ("load_trait", lambda out: vectomy.load_trait(3), "the trait is an int", "verbosity"),
    ("load_trait", lambda out: vectomy.load_trait("cheerfull"), "'cheerfull'", "choose from"),
    ("patch", lambda out: vectomy.patch(model(), TEXT, TEXT), "a LlamaForCausalLM", r"vectomy\.wrap"),
    ("patch", lambda out: vectomy.patch(chat(), TEXT, TEXT), "the answers are a NoneType", "a metric"),
    ("plan", lambda out: vectomy.plan(3), "an int .3.", NO_FOLDER),
    ("probe_architecture", lambda out: vectomy.probe_architecture(3), "the model folder is an int", "path"),
    ("push", lambda out: vectomy.push(3, "a/b"), "what to publish is an int", "path"),
    ("push", lambda out: vectomy.push(out, 3), "the repository is an int", "OWNER/NAME"),
    ("reproduce", lambda out: vectomy.reproduce(3), "what to reproduce is an int", "path"),
    ("run", lambda out: vectomy.run(3, out), "the model is an int", "RunConfig"),
    ("run", lambda out: vectomy.run("demo", 3), "the folder `out` is an int", "path"),
    ("run", lambda out: vectomy.run("demo", out, until="end"), "stage 'end'", "evaluate"),
    ("run", lambda out: vectomy.run("demo", out, positve="x"), "positve", "positive"),
    ("score", lambda out: vectomy.score(model(), TEXT), "a LlamaForCausalLM", r"vectomy\.wrap"),
    ("score", lambda out: vectomy.score(chat(), TEXT, judge="x"), "no judge 'x'", "refusal"),
    ("verify", lambda out: vectomy.verify(tiny_chat.folder(), 3), "an int .3.", "path"),
    ("verify", lambda out: vectomy.verify(3, edit()), "an int .3.", NO_FOLDER),
    ("wrap", lambda out: vectomy.wrap("model"), r"a str \('model'\)", NO_MODEL),
    ("Condition", lambda out: vectomy.Condition([1.0], 2, 0.0), "is a list", "torch tensor"),
    ("Condition", lambda out: vectomy.Condition(unit(), "2", 0.0), "layer is a str", "number"),
    ("Condition", lambda out: vectomy.Condition(unit(), 2, 0.0, "resid"), "site 'resid'", "resid_pre"),
    ("Directions", lambda out: directions().at("resid_pre", 99, -1), "no layer 99", "0 to 3"),
    ("Directions", lambda out: directions().at("resid", 1, -1), "site 'resid'", "resid_pre"),
    ("Directions", lambda out: directions().at("resid_pre", 1, -2), "no position -2", "positions=..."),
    ("Directions", lambda out: directions().at("resid_pre", "1", -1), "layer is a str", "0 to 3"),
    ("Directions", lambda out: directions().cosine(other=3), "`other` is an int", "Directions"),
    ("Directions", lambda out: directions().plot("cosines"), "plot 'cosines'", "length"),
    ("Edit", lambda out: vectomy.Edit.load(3), "file is an int", "path"),
    ("Edit", lambda out: vectomy.Edit.load(out / "no"), "no", "exist"),
    ("Edit", lambda out: vectomy.Edit.ablation(chat(), [1.0]), "is a list", "torch tensor of 32"),
    ("Edit", lambda out: vectomy.Edit.ablation(chat(), unit(), strength="x"), "strength is 'x'", "1.0"),
    ("Edit", lambda out: vectomy.Edit.ablation(chat(), unit(), norm="rows"), "norm mode 'rows'", "column"),
    ("Edit", lambda out: edit() * "x", "strength 'x'", "a finite number"),
    ("Edit", lambda out: edit() + 3, "an int .3.", "another Edit"),
    ("Edit", lambda out: edit().only(layers="x"), "a layer is a str", "range"),
    ("Edit", lambda out: edit().only(components=["attn"]), "component 'attn'", "attention"),
    ("Edit", lambda out: edit().hooks(3), "an int .3.", NO_MODEL),
    ("Edit", lambda out: edit().hooks(chat(), strength="x"), "'x'", "finite number"),
    ("Edit", lambda out: edit().in_weights(3), "an int .3.", NO_MODEL),
]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "call", "thing", "remedy"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_wrong_arguments_are_refused_with_a_remedy(
    tmp_path: Path, name: str, call: Callable[[Path], object], thing: str, remedy: str
) -> None:
    with pytest.raises(VectomyError, match=thing) as error:
        call(tmp_path)
    assert error.match(remedy)
    assert len(str(error.value)) < 1000


def test_every_public_function_is_among_the_cases() -> None:
    functions = {name for name in vectomy.__all__ if inspect.isfunction(getattr(vectomy, name))}
    assert functions <= {name for name, *_ in CASES}
