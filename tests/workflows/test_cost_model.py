"""Seconds and bytes of stages follow from counts: doubled work takes twice as long, and a measured
run corrects later plans.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from counted_pass import config_folder
from finished_run import finished_run, summary_in

from vectomy.architecture import architecture_of
from vectomy.core.config import LoadIn
from vectomy.core.errors import ArtifactError
from vectomy.core.run_config import RunConfig
from vectomy.models.model_shape import ModelShape, build_on_meta
from vectomy.models.speed_probe import CallTime, Speeds, measure_speeds
from vectomy.workflows import cost_model, planned_work, stage_memory
from vectomy.workflows import plan as plan_module
from vectomy.workflows.cost_model import PlannedStage, count_run_stages
from vectomy.workflows.planned_work import Place, Workload
from vectomy.workflows.run_plan import PlannedRun, plan_run

TIER = "tiny"
GIB = 1 << 30
# No call has a fixed part, so that seconds are proportional to the work.
SPEEDS = Speeds(
    *("cpu", CallTime(0, 1e-3), CallTime(0, 3e-3), CallTime(0, 4e-3), CallTime(0, 1e-3), CallTime(0, 2e-3)),
    *(1e-9, 2e-9, 5e-10),
)
CPU = torch.device("cpu")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="the package bitsandbytes is not installed"
)
MEMORY = Place(card=False, whole=True, free=64 * GIB)


def shape_of(name: str = "Llama-3.1-8B") -> ModelShape:
    return ModelShape.of(build_on_meta(config_folder(name)))


def stages(
    shape: ModelShape, work: Workload, speeds: Speeds = SPEEDS, place: Place = MEMORY
) -> dict[str, PlannedStage]:
    return {stage.name: stage for stage in count_run_stages(shape, work, speeds, place)}


def _constants(module: ModuleType) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of a module's assignments, those of its classes among them."""
    tree = ast.parse(inspect.getsource(module))
    for body in (tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
                yield node.target.id, node.value
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    pairs = (
                        zip(target.elts, node.value.elts, strict=True)
                        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                        else [(target, node.value)]
                    )
                    yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def _is_number(node: ast.expr) -> bool:
    values = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return any(type(value) in (int, float) and value != 0 for value in values)


def test_twice_the_prompts_and_steps_take_twice_as_long() -> None:
    work = Workload(fit=64, search=128, test=256, shared=0)
    double = replace(work, fit=128, search=256, test=512, steps=72)
    one, two = (stages(shape_of(), w) for w in (work, double))
    assert two["evaluate"].seconds == pytest.approx(2 * one["evaluate"].seconds, rel=0.05)
    # Beside a check of packs that is the same for any number of prompts.
    more = two["collect"].seconds - one["collect"].seconds
    assert more == pytest.approx(2 * 64 * work.own * 1e-3, rel=0.01)
    # More steps leave more states, and each is measured on all search prompts.
    assert 2 * one["select"].seconds < two["select"].seconds < 3 * one["select"].seconds


def test_collecting_is_the_tokens_of_the_fit_prompts_and_a_check_of_packs() -> None:
    """Four prompts a side as a pack and as rows of the longest."""
    result = stages(shape_of(), Workload(fit=100, shared=0, own=40, longest=90))
    tokens = 2 * (100 * 40 + 4 * 40 + 4 * 90)
    assert result["collect"].seconds == pytest.approx(tokens * 1e-3, rel=0.001)


def test_packs_are_full_but_for_the_last_one() -> None:
    """Of 640 tokens: 24 that all share, and 38 prompts of 16. Attention costs long rows more."""
    square = 1e-6
    speeds = replace(SPEEDS, passed=CallTime(0, 0, square))
    collect = [
        stages(shape_of(), Workload(fit=fit, shared=24, own=16, longest=16), speeds)["collect"].seconds
        for fit in (38, 48)
    ]
    assert collect[1] - collect[0] == pytest.approx(2 * square * (24 + 10 * 16) ** 2, rel=0.01)


def test_a_bake_reads_the_weights_three_times_and_runs_them_in_float32() -> None:
    """To change them, for the receipt, and for the hashes of the written tensors."""
    shape = shape_of()
    applied = stages(shape, Workload())["apply"].seconds
    disk = shape.bytes * (3 * 1e-9 + 2e-9 + 5e-10)
    assert applied == pytest.approx(disk + 2e-3 * 384 + 0.3, rel=0.001)
    # All weights are converted once, those of the two writers of 0.6 of 32 layers three times more.
    converted = replace(SPEEDS, float32=CallTime(5.0, 2e-3))
    writers = 0.6 * 32 * (4096 * 4096 + 4096 * 14336)
    more = 5.0 * (1 + 3 * writers / shape.in_blocks)
    assert stages(shape, Workload(), converted)["apply"].seconds == pytest.approx(applied + more, rel=1e-4)
    assert stages(shape, Workload(bake=False))["apply"].seconds < 0.1 * applied


def test_a_given_direction_is_not_screened() -> None:
    """Six copies of a pass of both sets through 0.6 of the layers, and their labels."""
    shape, work = shape_of(), Workload(judged=False, shared=0, own=40)
    looked, given = (
        stages(shape, replace(work, screened=screened))["select"].seconds for screened in (True, False)
    )
    tokens, labels = 2 * 6 * 16 * (40 + 14.5), 16 * (7 * 32 + 6 * 16)
    assert looked - given == pytest.approx((0.6 * tokens + labels) * 1e-3, rel=0.001)


def test_a_plan_owns_no_number_of_another_module() -> None:
    """Its own numbers are those that nothing else knows: estimates of seconds and bytes."""
    estimates = {
        *("LOSS_PASSES", "HOOKED", "OPENING_SECONDS", "BUILDING_SECONDS", "JUDGING", "WRITING"),
        *("PROGRAM", "CARD_PROGRAM", "BAKING_PROGRAM", "TOKENIZER", "ABOVE_MEAN"),
        # Tokens of usual prompts; tried: by a recipe that does not learn.
        *("shared", "own", "longest", "tried"),
    }
    for module in (cost_model, plan_module, planned_work, stage_memory):
        own = {name for name, node in _constants(module) if _is_number(node)}
        assert own <= estimates, f"{module.__name__} copies {own - estimates}"


def test_a_plan_without_a_job_is_that_of_the_defaults() -> None:
    config = RunConfig.model_validate(
        {"model": "m", "contrast": {"positive": {"prompts": "a"}, "negative": {"prompts": "b"}}}
    )
    counts = config.contrast.n_fit, config.contrast.n_search, config.contrast.n_test
    work = Workload()
    assert (work.fit, work.search, work.test) == counts
    assert (work.answer_tokens, work.steps) == (config.answer_tokens, config.steps)


def test_a_model_beyond_memory_reads_its_blocks_for_every_token_that_it_decodes() -> None:
    shape = shape_of("Llama-3.1-70B")
    whole = stages(shape, Workload(), place=Place(card=False, whole=True, free=512 * GIB))
    streamed = stages(shape, Workload(), place=Place(card=False, whole=False, free=32 * GIB))
    read = shape.bytes * SPEEDS.read_byte
    # A read a side.
    assert streamed["collect"].seconds - whole["collect"].seconds == pytest.approx(2 * read, rel=0.05)
    assert streamed["baseline"].seconds - whole["baseline"].seconds > 64 * read
    assert streamed["select"].memory_bytes < 32 * GIB < whole["select"].memory_bytes


def test_of_a_model_beyond_memory_the_edited_one_does_not_answer() -> None:
    """Each token would read the model: base answers, and passes over them instead."""
    shape, place = shape_of("Llama-3.1-70B"), Place(card=False, whole=False, free=32 * GIB)
    read = shape.bytes * SPEEDS.read_byte
    short, long = (
        stages(shape, Workload(test=40, answer_tokens=tokens), place=place)["evaluate"].seconds
        for tokens in (16, 17)
    )
    # One token more is one read more of each side, by the base alone.
    assert long - short == pytest.approx(2 * read, rel=0.1)


def test_a_stage_takes_the_program_the_weights_and_the_largest_piece_of_its_work() -> None:
    shape = shape_of()
    work = Workload(answer_tokens=8, bake=False, learned=False)
    large = Place(card=False, whole=True, free=128 * GIB)
    result = stages(shape, work, place=large)
    least = result["directions"].memory_bytes
    assert shape.loaded_bytes < least < shape.loaded_bytes + GIB
    assert result["report"].memory_bytes == least
    # Answers of 12 tokens and more run on packed copies of all matrices and the head.
    packed = stages(shape, replace(work, answer_tokens=12), place=large)["baseline"].memory_bytes
    more = packed - result["baseline"].memory_bytes
    assert more == pytest.approx((shape.multiplied + shape.head_parameters) * shape.itemsize, rel=0.02)
    # A quarter of the free memory does not hold them.
    small = Place(card=False, whole=True, free=40 * GIB)
    unpacked = stages(shape, replace(work, answer_tokens=12), place=small)["baseline"].memory_bytes
    assert unpacked - result["baseline"].memory_bytes < 0.1 * GIB


def test_answers_run_on_packed_weights_where_memory_holds_these() -> None:
    """A step takes 4 s a row instead of 4 ms: 12 tokens, two sides, the search prompts."""
    shape, work = shape_of(), Workload(search=10, answer_tokens=12)
    speeds = replace(SPEEDS, unpacked=CallTime(0, 4.0), packed=7.0)
    large, small = (Place(card=False, whole=True, free=free * GIB) for free in (128, 40))
    packed, plain, short = (
        stages(shape, job, speeds, place)["baseline"].seconds
        for job, place in ((work, large), (work, small), (replace(work, answer_tokens=11), large))
    )
    assert plain - packed == pytest.approx(2 * 10 * 12 * (4.0 - 4e-3) - 2 * 7.0, rel=1e-3)
    assert short > packed
    assert stages(shape, work, replace(speeds, unpacked=None), small)["baseline"].seconds < packed


def test_losses_take_a_chunk_of_distributions_however_many_labels_there_are() -> None:
    shape = shape_of()
    few, many = (
        stages(shape, Workload(test=test, answer_tokens=8, bake=False))["evaluate"].memory_bytes
        for test in (500, 5000)
    )
    states = 2 * 4500 * 8 * shape.sizes.d_model * shape.itemsize
    assert 0 <= many - few <= 1.01 * states


def test_a_card_holds_the_model_and_the_host_the_bake() -> None:
    shape = shape_of()
    result = stages(shape, Workload(), place=Place(card=True, whole=True, free=80 * GIB))
    assert all(
        stage.device_bytes is not None and stage.device_bytes >= shape.bytes for stage in result.values()
    )
    assert all(stage.memory_bytes < 4 * GIB for stage in result.values())
    # The audit's count for prompts of 700 tokens a pass: 17.7 GiB with 15.0 of weights.
    short = stages(shape, Workload(longest=26), place=Place(card=True, whole=True, free=80 * GIB))
    assert (short["select"].device_bytes or 0) / GIB == pytest.approx(17.7, rel=0.1)


def test_weights_in_4_bits_take_what_bitsandbytes_makes_of_them() -> None:
    """8.03e9 parameters, of which 6.98e9 lie in matrices of blocks: 4.127 bits each there, 16
    elsewhere.
    """
    model = build_on_meta(config_folder("Llama-3.1-8B"))
    plain = ModelShape.of(model)
    shape = plain.quantise("4bit", architecture_of(model))
    blocks = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336)
    expected = blocks * 4.127 / 8 + 2 * (plain.parameters - blocks)
    assert shape.loaded_bytes == pytest.approx(expected, rel=1e-3)
    card = Place(card=True, whole=True, free=24 * GIB)
    packed, whole = (
        stages(s, Workload(longest=26), place=card)["select"].device_bytes for s in (shape, plain)
    )
    assert (whole or 0) - (packed or 0) == plain.loaded_bytes - shape.loaded_bytes
    assert shape.in_full == plain
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_a_search_on_quantised_weights_is_evaluated_in_full_precision_where_that_fits() -> None:
    model = build_on_meta(config_folder("Llama-3.1-8B"))
    shape = ModelShape.of(model).quantise("4bit", architecture_of(model))
    # Twice as slow as in full precision, and ten seconds to quantise.
    slow = CallTime(0, 2e-3), CallTime(0, 6e-3), CallTime(0, 8e-3), CallTime(0, 2e-3)
    speeds = replace(SPEEDS, passed=slow[0], trained=slow[1], step=slow[2], label=slow[3], full=SPEEDS)
    speeds = replace(speeds, quantised=10.0)
    small, large = (Place(card=True, whole=True, free=24 * GIB, in_full=fits) for fits in (False, True))
    alone = stages(shape, Workload(), speeds, small)
    both = stages(shape, Workload(), speeds, large)
    unbaked = [stages(shape, Workload(bake=False), speeds, place)["evaluate"] for place in (small, large)]
    full = stages(shape.in_full, Workload(), SPEEDS, small)["evaluate"].seconds
    assert both["evaluate"].seconds - alone["evaluate"].seconds == pytest.approx(full, rel=0.15)
    assert (both["evaluate"].device_bytes or 0) >= shape.in_full.loaded_bytes
    assert {name: stage for name, stage in both.items() if name != "evaluate"} == {
        name: stage for name, stage in alone.items() if name != "evaluate"
    }
    assert unbaked[0] == unbaked[1]
    at_once = stages(shape, Workload(), replace(speeds, quantised=0.0), small)
    assert alone["baseline"].seconds - at_once["baseline"].seconds == pytest.approx(10.0)


def test_a_finished_run_corrects_its_own_plan_to_what_it_took(tmp_path: Path) -> None:
    planned = PlannedRun(shape_of(), Workload(steps=12))
    took = {stage.name: 1.0 + index for index, stage in enumerate(planned.stages(SPEEDS, CPU))}
    summary = {"planned": planned.to_json(), "costs": {name: {"seconds": s} for name, s in took.items()}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    again = plan_run(planned, device=CPU, speeds=SPEEDS, from_run=tmp_path)
    assert {stage.name: stage.seconds for stage in again} == pytest.approx(took, rel=1e-3)
    # Other work is scaled from there.
    more = plan_run(replace(planned, work=Workload(steps=24)), device=CPU, speeds=SPEEDS, from_run=tmp_path)
    before = {stage.name: stage.seconds for stage in planned.stages(SPEEDS, CPU)}
    plain = {
        s.name: s.seconds
        for s in plan_run(replace(planned, work=Workload(steps=24)), device=CPU, speeds=SPEEDS)
    }
    for stage in more:
        assert stage.seconds == pytest.approx(
            took[stage.name] * plain[stage.name] / before[stage.name], rel=1e-2
        )


def test_a_run_that_measured_nothing_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"stages": {"select": 3.0}}')
    with pytest.raises(ArtifactError, match="does not say what its stages took"):
        plan_run(PlannedRun(shape_of(), Workload()), device=CPU, speeds=SPEEDS, from_run=tmp_path)
    (tmp_path / "summary.json").write_text('{"planned": {"shape": {"layers": 3}}, "costs": {}}')
    with pytest.raises(ArtifactError, match="of another version"):
        plan_run(PlannedRun(shape_of(), Workload()), device=CPU, speeds=SPEEDS, from_run=tmp_path)


def test_the_speeds_of_a_small_model_are_measured_here(tiny_of) -> None:
    """A step of 32 rows takes longer than one of 4, a backward pass longer than a pass alone."""
    shape = ModelShape.of(tiny_of("llama").model)
    speeds = measure_speeds(shape, CPU)
    assert speeds.passed.of(512) > 0
    assert speeds.trained.of(256) >= speeds.passed.of(256)
    assert speeds.step.of(32) >= speeds.step.of(4) > 0
    # Packed weights have the layout that the kernels read.
    assert speeds.unpacked is None or speeds.unpacked.of(4) > 0
    # All blocks are converted before a pass in float32, which is slower than one in bfloat16.
    assert speeds.float32.fixed > 0 < speeds.float32.each
    assert 0 < speeds.read_byte < 1e-6
    assert 0 < speeds.hashed_byte < 1e-6


@needs_bitsandbytes
@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_quantised_weights_are_measured_quantised_and_in_full(load_in: LoadIn, tiny_of) -> None:
    """Quantised linear layers are slower than plain ones: they are unpacked in every pass."""
    chat = tiny_of("llama")
    shape = ModelShape.of(chat.model).quantise(load_in, architecture_of(chat.model))
    speeds = measure_speeds(shape, CPU, clock=time.process_time)
    assert speeds.quantised > 0
    assert speeds.full is not None
    assert speeds.full.full is None
    assert speeds.trained.of(512) >= speeds.passed.of(512)
    # In 8 bits the difference is too small to tell in blocks as narrow as these.
    if load_in == "4bit":
        assert speeds.passed.of(512) > speeds.full.passed.of(512)


@pytest.mark.chat
def test_a_run_says_what_it_was_counted_as_and_corrects_later_plans() -> None:
    """Its own prompts are counted: their number, their tokens and what they begin with."""
    out = finished_run()
    summary = summary_in(out)
    work = Workload.from_json(summary["planned"]["work"])
    counts = summary["contrast"]["counts"]["positive"]
    assert (work.fit, work.search, work.test) == (counts["fit"], counts["search"], counts["test"])
    assert (work.answer_tokens, work.learned) == (8, False)
    assert work.shared > 0 < work.own <= work.longest
    planned = PlannedRun(ModelShape.from_json(summary["planned"]["shape"]), work)
    again = plan_run(planned, device=CPU, speeds=SPEEDS, from_run=out)
    for stage in again:
        if stage.name != "report":
            assert stage.seconds == pytest.approx(summary["costs"][stage.name]["seconds"], abs=0.01)
