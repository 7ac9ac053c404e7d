"""An intervention does what its formula says at its point, there alone, and is gone afterwards."""

import pytest
import torch
from tiny import LAYERS, MODEL_TYPES, WIDTH, hooked, load, logits, orthonormal, tokens, unit

from vectomy.core.errors import ArchitectureError
from vectomy.core.types import SITES
from vectomy.hooks.capture import capture
from vectomy.hooks.interventions import ablate, add, affine, at, intervene, scale

TIER = "tiny"

SUMS = {"rtol": 1e-5, "atol": 1e-5}
R, REFERENCE = unit(), 2 * unit(3) + unit()


def shift(x: torch.Tensor) -> torch.Tensor:
    return x + 0.5 * REFERENCE


def expected_affine(x: torch.Tensor) -> torch.Tensor:
    """ACE: x - proj_r(x) + proj_r(reference) + c r, as matrices."""
    P = torch.outer(R, R)
    return x - x @ P + P @ REFERENCE + 0.7 * R


def expected_at(x: torch.Tensor) -> torch.Tensor:
    changed = x.clone()
    for position in (0, 5, 6):
        changed[:, position] = changed[:, position] + REFERENCE
    return changed


CASES = {
    "ablate": (ablate(R), lambda x: x - (x @ R)[..., None] * R),
    "ablate-half": (ablate(R, 0.5), lambda x: x - 0.5 * (x @ R)[..., None] * R),
    "ablate-three": (ablate(orthonormal(3)), lambda x: x - x @ orthonormal(3).T @ orthonormal(3)),
    "scale": (scale(R, 3.0), lambda x: x + 2 * (x @ R)[..., None] * R),
    "scale-zero": (scale(R, 0.0), lambda x: x - (x @ R)[..., None] * R),
    "add": (add(REFERENCE), lambda x: x + REFERENCE),
    "add-coefficient": (add(REFERENCE, -2.0), lambda x: x - 2 * REFERENCE),
    "affine": (affine(R, REFERENCE, 0.7), expected_affine),
    "at": (at([0, -1, 5], add(REFERENCE)), expected_at),
}


def run(model) -> dict:
    with torch.no_grad(), capture(model) as stream:
        model(tokens())
    return dict(stream)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("case", CASES)
def test_the_stream_at_the_point_is_what_the_formula_says(tiny_of, case: str, site: str) -> None:
    model, (change, formula) = tiny_of().model, CASES[case]
    before = run(model)
    with intervene(model, {(site, 1): change}):
        after = run(model)
    torch.testing.assert_close(after[site, 1], formula(before[site, 1]), **SUMS)
    assert (after[site, 1] - before[site, 1]).abs().max() > 0.05
    earlier = [point for point in before if (point[1], SITES.index(point[0])) < (1, SITES.index(site))]
    assert all(torch.equal(after[point], before[point]) for point in earlier)
    assert len(earlier) == 3 + SITES.index(site)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_follows_is_computed_from_the_changed_stream(tiny_of, model_type: str, site: str) -> None:
    """The oracle runs the model's own later modules on the changed stream."""
    model = tiny_of(model_type).model
    with intervene(model, {(site, LAYERS - 1): shift}):
        after, changed = run(model), logits(model)
    block, end = model.model.layers[-1], after["resid_post", LAYERS - 1]
    if site != "resid_post":
        mid = after["resid_mid", LAYERS - 1]
        torch.testing.assert_close(end, mid + block.mlp(block.post_attention_layernorm(mid)), **SUMS)
    torch.testing.assert_close(changed, model.lm_head(model.model.norm(end)), rtol=1e-4, atol=1e-4)
    assert (changed - logits(model)).abs().max() > 0.05


def test_resid_post_of_a_block_is_resid_pre_of_the_next(tiny_of) -> None:
    model, found = tiny_of().model, []
    for point in (("resid_post", 1), ("resid_pre", 2)):
        with intervene(model, {point: shift}):
            found.append(logits(model))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_several_points_of_one_block_act_in_stream_order_however_they_are_given(tiny_of) -> None:
    model = tiny_of().model
    changes = {
        ("resid_post", 1): ablate(unit(4)),
        ("resid_mid", 1): scale(R, 2.0),
        ("resid_pre", 1): add(REFERENCE),
    }
    found = []
    for order in (list(changes), list(reversed(changes))):
        with intervene(model, {point: changes[point] for point in order}):
            found.append(run(model))
    torch.testing.assert_close(found[0]["resid_post", 3], found[1]["resid_post", 3], rtol=0, atol=0)
    with intervene(model, {("resid_pre", 1): add(REFERENCE)}):
        first = run(model)
    mid = first["resid_mid", 1]
    torch.testing.assert_close(found[0]["resid_mid", 1], mid + (mid @ R)[..., None] * R, **SUMS)
    assert (found[0]["resid_post", 1] @ unit(4)).abs().max() < 1e-5


def test_the_identity_changes_nothing(tiny_of) -> None:
    model = tiny_of().model
    with intervene(model, {(site, layer): scale(R, 1.0) for site in SITES for layer in range(LAYERS)}):
        torch.testing.assert_close(logits(model), logits(tiny_of().model), rtol=1e-4, atol=1e-4)


@pytest.mark.unit
def test_an_affine_edit_sets_the_component_whatever_it_was() -> None:
    stream = 10 * torch.randn(2, 3, WIDTH)
    changed = affine(R, REFERENCE, -1.0)(stream)
    torch.testing.assert_close(changed @ R, (REFERENCE @ R - 1.0).expand(2, 3), rtol=1e-4, atol=1e-5)
    rest = torch.eye(WIDTH) - torch.outer(R, R)
    torch.testing.assert_close(changed @ rest, stream @ rest, rtol=1e-4, atol=1e-4)


@pytest.mark.unit
@pytest.mark.parametrize("case", CASES)
def test_a_half_precision_stream_stays_in_its_dtype_and_is_not_written_into(case: str) -> None:
    stream = torch.randn(2, 7, WIDTH).bfloat16()
    given = stream.clone()
    assert CASES[case][0](stream).dtype == torch.bfloat16
    assert torch.equal(stream, given)


def test_hooks_are_gone_afterwards_and_after_errors(tiny_of) -> None:
    model = load(tiny_of().folder)
    everywhere = {(site, layer): shift for site in SITES for layer in range(LAYERS)}
    with intervene(model, everywhere):
        assert hooked(model)
    assert not hooked(model)
    with pytest.raises(ZeroDivisionError), intervene(model, everywhere):
        raise ZeroDivisionError

    def fails(_stream: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), intervene(model, {("resid_mid", 2): fails}):
        logits(model)
    assert not hooked(model)
    assert torch.equal(logits(model), logits(tiny_of().model))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("point", "message"),
    [
        (("resid_pre", LAYERS), "layers 0 to 3"),
        (("resid_mid", -1), "layers 0 to 3"),
        (("resid_last", 1), "no site 'resid_last'"),
    ],
)
def test_an_unknown_point_is_named_and_leaves_no_hook(tiny_of, point: tuple, message: str) -> None:
    model = load(tiny_of().folder)
    with (
        pytest.raises(ArchitectureError, match=message),
        intervene(model, {("resid_pre", 0): shift, point: shift}),
    ):
        pass
    assert not hooked(model)


def test_generation_with_a_cache_is_changed_at_every_token(tiny_of) -> None:
    """Greedy tokens under an intervention equal those of repeated full passes, so cached passes are
    changed as well.
    """
    model, ids = tiny_of().model, tokens(batch=1)
    with intervene(model, {("resid_mid", 1): shift, ("resid_pre", 2): ablate(R)}):
        fast = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=None
        )
        slow = ids
        for _ in range(6):
            with torch.no_grad():
                slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(fast, slow)
