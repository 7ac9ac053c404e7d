"""The table of writers against the probe and against measurement, on every model of the zoo.

A row of the table is right when the probe, which knows no names, finds the very same parameters,
axes and norms; when the saved checkpoint resolves to the same writers; and when an ablation of all
of them leaves nothing of the direction in the stream, by hooks and baked.
"""

import fnmatch
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from exactness import Case, far, probe_rows, table_rows
from safetensors.torch import load_file, save_file
from tiny import orthonormal
from torch import nn
from zoo import NOT_BUILT, ZOO, zoo_config, zoo_folder, zoo_load, zoo_logits, zoo_model, zoo_tokens

from vectomy.architecture import FAMILIES, MIXERS, REFUSED, Writer, architecture_of, check_covered, resolve
from vectomy.architecture.norms import measure_gain
from vectomy.architecture.probe import probe
from vectomy.architecture.readers import IGNORED, OUTSIDE_BLOCKS, READERS
from vectomy.checkpoint import Checkpoint, architecture_in, read_tensor
from vectomy.core.errors import ArchitectureError, CheckpointError, EditError
from vectomy.edits.edit import Edit
from vectomy.edits.export import bake
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import ablate, intervene
from vectomy.hooks.sites import locate_site

TIER = "zoo"

# What cannot be edited exactly, with a word of the reason that the refusal gives. All others of the
# zoo have to be exact.
REFUSES = {
    "gemma3n_text": "AltUp",
    "opt:projected": "norm on the stream itself",
    "bloom:post_norm_residual": "residual behind a norm",
    "rwkv": "a gate as wide as the stream",
    "minimax": "a norm or gate acts on the residual stream itself",
    "doge": "a norm or gate acts on the residual stream itself",
    "doge:moe": "a norm or gate acts on the residual stream itself",
    "openai-gpt": "a norm or gate acts on the residual stream itself",
    "xlnet": "a norm or gate acts on the residual stream itself",
    "git": "a norm or gate acts on the residual stream itself",
    "inkling2_text": "a norm or gate acts on the residual stream itself",
    "inkling_text": "a convolution",
    "xglm": "fixed position encoding",
    "ctrl": "fixed position encoding",
    "longcat_flash": "identity experts",
    "zaya": "learned scales",
    "deepseek_v4": "hyper-connections",
    "hy_v4": "several streams",
    "hrm_text": "same blocks several times",
    "mllama": "cross-attention",
    "qwen4_exp": "hyper-connections",
    "qwen4_exp_text": "hyper-connections",
    "ernie4_5_vl_moe": "experts for images",
    "cpmant": "before the text",
}
# An edit of its weights would be exact; what is refused is to read its stream.
ONLY_THE_TABLE = {"cpmant"}
UNSEEN = {
    *(
        ("gemma4_text:per_layer_input", f"model.layers.{n}.{w}.weight")
        for n in range(4)
        for w in ("mlp.down_proj", "per_layer_projection")
    ),
    ("olmo_hybrid", "model.layers.3.mlp.down_proj.weight"),
}
# Components of a block that is attention and MLP alone.
DENSE = {"attention", "mlp", "experts", "shared_experts"}
# Types whose blocks multiply what attention and MLP give by one number, or the stream at their end.
SCALES_PARTS = {
    *("granite", "granite_swa", "granitemoe", "granitemoeshared", "granitemoe_swa", "granitemoehybrid"),
    *("hyperclovax", "minicpm3"),
}
SCALES_STREAM = {"beam", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"}
# Sites that no single module of a type gives.
NO_SUCH_SITE = {
    "jetmoe": {"attn_out", "head_z"},
    "gpt_neox_japanese": {"attn_out", "head_z"},
    **{label: {"mlp_out"} for label in ("granitemoeshared", "granitemoe_swa", "granitemoehybrid")},
}
EXACT = [label for label in ZOO if label not in REFUSES]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads wait for each other longer than either works on matrices this small: 20 times as
    long on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=EXACT)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp("zoo")
    yield Case(request.param, folder / "in", folder / "out")
    shutil.rmtree(folder)


# What the zoo covers


def test_every_family_has_a_specimen():
    known = {specimen.model_type for specimen in ZOO.values()} | NOT_BUILT.keys()
    assert not (FAMILIES.keys() | REFUSED.keys()) - known, "add a specimen to tests/zoo.py"
    assert not FAMILIES.keys() & REFUSED.keys()


def test_what_is_refused_is_known_by_name():
    refused = {}
    for label in ZOO:
        try:
            resolve(zoo_config(label).to_dict())
        except ArchitectureError as error:
            refused[label] = str(error)
    print(*(f"{label}: {reason}" for label, reason in refused.items()), sep="\n")  # noqa: T201
    assert refused.keys() == REFUSES.keys()
    assert not [label for label, reason in refused.items() if REFUSES[label] not in reason]


@pytest.mark.parametrize("label", REFUSES)
def test_a_refused_type_is_refused_live_too_and_by_the_probe(label: str):
    model = zoo_model(label)
    with pytest.raises(ArchitectureError, match="exactly"):
        architecture_of(model)
    if label not in ONLY_THE_TABLE:
        with pytest.raises(ArchitectureError):
            probe(model)


# Table, probe and checkpoint


def test_the_probe_finds_what_the_table_says(case: Case):
    table, found = table_rows(case.live), probe_rows(case.found)
    assert table == found, (
        f"table only: {sorted(map(str, table - found))}; probe only: {sorted(map(str, found - table))}"
    )


def test_the_checkpoint_names_the_writers_of_the_model(case: Case):
    def named(writer: Writer) -> tuple:
        norms = tuple(passed.module for passed in writer.norms)
        return writer.component, writer.layer, writer.weight, writer.bias, norms

    live, stored = case.live, case.stored
    assert [named(writer) for writer in stored.writers] == [named(writer) for writer in live.writers]
    assert (stored.d_model, stored.n_layers, stored.vocab) == (live.d_model, live.n_layers, live.vocab)
    assert stored.extra_layers == live.extra_layers
    check_covered(stored)
    check_covered(live)


def test_what_the_parts_of_a_block_give_is_what_the_stream_gains(case: Case):
    """attn_out and mlp_out are the steps of the stream; a model without one of them says so."""
    kind = case.label.split(":")[0]
    sites = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "head_z")
    captured, refused = {}, []
    with ExitStack() as hooks:
        for point in ((site, layer) for site in sites for layer in range(case.live.n_layers)):
            try:
                place = locate_site(case.model, case.live, point)
            except ArchitectureError as error:
                refused.append(str(error))
            else:
                take = partial(captured.__setitem__, point)
                hooks.callback(place.watch(case.model, lambda value, take=take: take(value.clone())))
        zoo_logits(case.model)
    assert all(value.shape[:2] == zoo_tokens().shape for value in captured.values())
    assert all(len(text) < 400 and ";" in text for text in refused)
    for layer in range(case.live.n_layers):
        values = {site: captured[site, layer] for site in sites if (site, layer) in captured}
        components = {writer.component for writer in case.live.at(layer)}
        wanted = {"attn_out", "head_z"} if "attention" in components else set()
        wanted |= {"mlp_out"} if components & {"mlp", "experts", "shared_experts"} else set()
        assert {site for site in sites[3:] if site in values} == wanted - NO_SUCH_SITE.get(case.label, set())
        for start, end, parts in (
            ("resid_pre", "resid_mid", {"attn_out"}),
            ("resid_mid", "resid_post", {"mlp_out"}),
            ("resid_pre", "resid_post", {"attn_out", "mlp_out"}),
        ):
            if {start, end, *parts} <= values.keys() and not components - DENSE and kind not in SCALES_STREAM:
                total, gain = sum(values[part] for part in parts), values[end] - values[start]
                scale = float((gain * total).sum() / (total * total).sum())
                assert far(gain, scale * total) < 1e-4, (layer, parts)
                assert scale == pytest.approx(1.0, abs=1e-4) or kind in SCALES_PARTS


def test_tied_is_what_the_model_does(case: Case):
    tied = case.model.get_output_embeddings().weight is case.model.get_input_embeddings().weight
    assert case.live.tied == case.stored.tied == tied


@pytest.mark.parametrize("stored", [True, False], ids=["with-head", "without-head"])
@pytest.mark.parametrize(
    "label",
    [
        "llama",
        "llama:tied",
        "gemma2",
        "gpt2",
        "falcon",
        "gemma3",
        "mistral3",
        "internvl",
        "paligemma:gemma2",
        "qwen3_vl",
    ],
)
def test_a_config_that_does_not_say_whether_it_ties_is_read_as_transformers_reads_it(
    label: str, stored: bool, tmp_path: Path
):
    """Released config.json files leave the key out, and each class has a default of its own."""
    folder = zoo_folder(label, tmp_path / "in")
    arch = architecture_in(Checkpoint.open(folder))
    state = load_file(folder / "model.safetensors")
    if arch.tied and stored:
        state[arch.head] = state[arch.writer("embedding", None).weights[0].name] + 1
    elif not arch.tied and not stored:
        del state[arch.head]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        part.pop("tie_word_embeddings", None)
    (folder / "config.json").write_text(json.dumps(config))
    arch = architecture_in(Checkpoint.open(folder))
    assert arch.tied is not stored
    model = zoo_load(label, folder)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # Where transformers does not tie by itself, it makes up a head that is missing; tied is the
    # better reading.
    assert tied == arch.tied or not (stored or model.config.tie_word_embeddings)
    edit = Edit.ablation(folder, orthonormal(1))
    bake(edit, folder, tmp_path / "out")
    if tied == arch.tied:
        with edit.hooks(model):
            hooks = zoo_logits(model)
        assert far(zoo_logits(zoo_load(label, tmp_path / "out")), hooks) < 1e-4


def test_a_head_that_is_missing_and_not_tied_is_named(tmp_path: Path):
    folder = zoo_folder("llama", tmp_path / "in")
    state = load_file(folder / "model.safetensors")
    del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 'lm_head\.weight'.*not tied"):
        Edit.ablation(folder, orthonormal(1))


def test_stored_tensors_are_the_live_parameters_along_the_stream(case: Case):
    """So an axis that is taken for another one shows in square matrices too."""
    for writer in case.stored.writers:
        live = case.model.get_parameter(writer.weight).detach()
        for stored in writer.weights:
            own = live if stored.expert is None else live[stored.expert]
            axis = writer.slot.axis if stored.expert is None else writer.slot.axis - 1
            held = read_tensor(case.checkpoint, stored.name)
            assert torch.equal(held.movedim(stored.axis, -1), own.movedim(axis, -1)), stored
        assert len(writer.weights) == (len(live) if writer.weights[0].expert is not None else 1)
        for stored in writer.biases:
            assert torch.equal(
                read_tensor(case.checkpoint, stored.name), case.model.get_parameter(writer.bias)
            )


def test_a_tensor_of_a_writer_that_is_missing_or_turned_is_named(case: Case):
    """Headers alone tell; transformers would fill it with random numbers."""
    config, shapes = case.checkpoint.config, dict(case.stored.shapes)
    missed = []
    for writer in case.stored.writers:
        name = writer.weights[-1].name
        damages = [{other: shape for other, shape in shapes.items() if other != name}]
        for norm in (passed.weight for passed in writer.norms if passed.norm.learned):
            damages.append({other: shape for other, shape in shapes.items() if other != norm})
        turned = (*shapes[name][:-2], shapes[name][-1], shapes[name][-2])
        damages += [shapes | {name: turned}] * (turned != shapes[name])
        for damaged in damages:
            try:
                check_covered(resolve(config, damaged))
                missed.append(name)
            except (CheckpointError, ArchitectureError):
                pass
    # Where a layer has several that do not mix tokens, one that is missing is seen if another layer
    # is like it.
    assert [name for name in missed if (case.label, name) not in UNSEEN] == []


def test_no_reader_shadows_a_writer(case: Case):
    """A name in readers.py passes in every family, so none may be the name of a writer in any."""
    norms = {passed.module for writer in case.live.writers for passed in writer.norms}
    shadowed = []
    for row in case.found:
        if row.module in norms:
            continue  # Norms read the stream in most places; where one writes, its family says so.
        block = "" if row.layer is None else case.live.block(row.layer) + "."
        patterns = OUTSIDE_BLOCKS if row.layer is None else READERS + IGNORED
        name = re.sub(r"\.\d+\.", ".0.", f"{row.module}.{row.parameter}".removeprefix(block))
        shadowed += [(name, pattern) for pattern in patterns if fnmatch.fnmatchcase(name, pattern)]
    assert not shadowed


def test_gains_are_what_a_norm_does(case: Case):
    for writer in case.live.writers:
        for passed in writer.norms:
            module = case.model.get_submodule(passed.module)
            measured = measure_gain(module, case.live.d_model)
            assert measured is not None, passed
            weight = module.weight.detach() if passed.norm.learned else torch.ones(case.live.d_model)
            torch.testing.assert_close(measured.gain, weight + passed.norm.offset, rtol=1e-3, atol=1e-3)
            assert measured.centred == passed.norm.centred
            assert measured.normalises
            assert (getattr(module, "weight", None) is None) == (not passed.norm.learned)


# What an ablation does


def test_a_full_ablation_leaves_nothing_by_hooks(case: Case):
    assert case.before[0] > 0.05, "the direction has to be there first"
    assert case.hooks[0] < 1e-5
    assert far(case.hooks[1], case.before[1]) > 1e-3


def test_a_full_ablation_leaves_nothing_baked(case: Case, tmp_path):
    if not case.bakes_embeddings:
        with pytest.raises(EditError, match="cannot untie"):
            bake(case.edit(), case.checkpoint, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        # What the embedding wrote stays; all else is gone.
        assert case.hooks_as_baked[0] > 0.05
    else:
        assert case.baked[0] < 1e-5
    assert far(case.baked[1], case.hooks_as_baked[1]) < 1e-4
    assert far(case.baked[1], case.before[1]) > 1e-3


def test_every_writer_is_edited(case: Case):
    outside = {"embedding", "position"}
    wanted = [w for w in case.stored.writers if case.bakes_embeddings or w.component not in outside]
    tensors = {name for writer in wanted for name in writer.tensors if name in case.stored.shapes}
    assert set(case.receipt.edited) == tensors


# Where resid_mid is


def _zeroed(model: nn.Module, writers: list[Writer], undo: ExitStack) -> None:
    """Make writers write nothing."""
    for writer in writers:
        names = [writer.weight, *([writer.bias] if writer.bias else [])]
        names += [f"{passed.module}.bias" for passed in writer.norms if passed.norm.centred]
        for name in names:
            value = model.get_parameter(name)
            undo.callback(setattr, value, "data", value.data)
            value.data = torch.zeros_like(value.data)


@torch.no_grad()
def _streams(case: Case) -> dict:
    with capture(case.model) as stream:
        case.model(input_ids=zoo_tokens(), use_cache=False)
    return dict(stream)


def _parallel(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far one stream is from a multiple of another (some blocks end in a scale)."""
    return float((1 - torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)).max())


def test_resid_mid_lies_between_what_mixes_tokens_and_what_does_not(case: Case):
    blocks = [writer for writer in case.live.writers if writer.layer is not None]
    if case.live.family.mid is None:
        with pytest.raises(ArchitectureError, match="no point resid_mid"), capture(case.model, ["resid_mid"]):
            pass
        return
    whole = _streams(case)
    for front, ends in ((False, ("resid_mid", "resid_post")), (True, ("resid_pre", "resid_mid"))):
        with ExitStack() as undo:
            _zeroed(case.model, [w for w in blocks if (w.component in MIXERS) is front], undo)
            stream = _streams(case)
        for layer in range(case.live.n_layers):
            one, other = ((site, layer) for site in ends)
            assert _parallel(stream[one], stream[other]) < 1e-6, layer
            assert _parallel(whole[one], whole[other]) > 1e-4, layer


def test_an_intervention_at_resid_mid_changes_what_is_read_there(case: Case):
    points = [("resid_mid", layer) for layer in range(case.live.n_layers)]
    change = intervene(case.model, dict.fromkeys(points, ablate(case.rows)))
    if case.live.family.mid is None:
        with pytest.raises(ArchitectureError, match="resid_mid"), change:
            pass
        return
    # Nothing is written behind it, so what is changed goes around the norm as well as into it.
    with change, ExitStack() as undo:
        _zeroed(
            case.model,
            [w for w in case.live.writers if w.layer is not None and w.component not in MIXERS],
            undo,
        )
        stream = _streams(case)
    for layer in range(case.live.n_layers):
        for site in ("resid_mid", "resid_post"):
            x = stream[site, layer]
            assert float(((x @ case.rows.T).norm(dim=-1) / x.norm(dim=-1)).max()) < 1e-5, (site, layer)
