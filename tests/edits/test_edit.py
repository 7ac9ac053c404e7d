"""The Edit: one function in many forms. It dials, adds, narrows, and refuses another base."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hand_made_edit import BASE, operation, same
from tiny import LAYERS, ROUNDING, WIDTH, hooked, logits, orthonormal, unit

from vectomy.core.errors import ArchitectureError, EditError, FingerprintError
from vectomy.edits.edit import Edit

TIER = "unit"


def at_cosine(cosine: float) -> tuple[torch.Tensor, torch.Tensor]:
    a, other = orthonormal(2)
    return a, cosine * a + (1 - cosine**2) ** 0.5 * other


# What an ablation is


@pytest.mark.tiny
def test_an_ablation_names_every_writer_once_in_stream_order(tiny_of) -> None:
    edit = Edit.ablation(tiny_of().folder, unit())
    places = [(op.component, op.layer) for op in edit.operations]
    assert places == [("embedding", None)] + [
        (c, layer) for layer in range(LAYERS) for c in ("attention", "mlp")
    ]


@pytest.mark.tiny
def test_the_length_of_a_direction_does_not_matter(tiny_of) -> None:
    folder = tiny_of().folder
    scaled = Edit.ablation(folder, 512 * unit()).operations[0].basis
    torch.testing.assert_close(scaled, Edit.ablation(folder, unit()).operations[0].basis)


@pytest.mark.tiny
def test_a_row_mode_ablation_leaves_the_norm_of_embedding_rows(tiny_of) -> None:
    norms = {op.component: op.norm for op in Edit.ablation(tiny_of().folder, unit(), norm="row").operations}
    assert norms == {"embedding": "none", "attention": "row", "mlp": "row"}


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (torch.ones(WIDTH + 1), f"width {WIDTH + 1}"),
        (torch.zeros(WIDTH), "zero"),
        (torch.full((WIDTH,), float("nan")), "NaN"),
        (torch.full((WIDTH,), float("inf")), "infinite"),
        (torch.stack([torch.ones(WIDTH), torch.zeros(WIDTH)]), "zero"),
        (torch.ones(2, WIDTH), "dependent"),
    ],
    ids=["width", "zero", "nan", "infinite", "one-zero", "dependent"],
)
def test_an_impossible_direction_is_refused(tiny_of, direction: torch.Tensor, message: str) -> None:
    with pytest.raises(EditError, match=message):
        Edit.ablation(tiny_of().folder, direction)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"component": "norm"}, "a component is one of"),
        ({"component": "embedding"}, "all but embedding and position have a layer"),
        ({"layer": None}, "all but embedding and position have a layer"),
        ({"layer": LAYERS}, "layers 0 to 3"),
        ({"layer": -1}, "layers 0 to 3"),
        ({"norm": "rows"}, "not none, column or row"),
        ({"basis": torch.ones(1, WIDTH)}, "not orthonormal"),
        ({"basis": torch.ones(1, WIDTH + 1)}, "does not fit"),
        ({"basis": unit()}, "does not fit"),
        ({"strengths": torch.ones(2)}, "does not fit"),
        ({"strengths": torch.tensor([float("nan")])}, "NaN"),
        ({"addition": torch.ones(WIDTH - 1)}, "addition of shape"),
        ({"addition": torch.full((WIDTH,), float("inf"))}, "infinite"),
        ({"basis": torch.zeros(0, WIDTH), "strengths": torch.ones(0)}, "does not fit"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_malformed_operation_makes_no_edit(changes: dict, message: str) -> None:
    with pytest.raises(EditError, match=message):
        Edit(BASE, (operation(**changes),))


def test_an_embedding_takes_no_row_mode() -> None:
    with pytest.raises(EditError, match="not row"):
        Edit(BASE, (operation("embedding", None, norm="row"),))


def test_two_operations_on_one_writer_are_refused() -> None:
    with pytest.raises(EditError, match="same writer"):
        Edit(BASE, (operation(), operation()))


@pytest.mark.tiny
def test_an_expert_is_refused_where_there_are_none(tiny_of) -> None:
    with pytest.raises(EditError, match="only the component experts"):
        Edit(BASE, (operation(expert=3),))
    edit = Edit(BASE, (operation(component="experts", expert=3),))
    with (
        pytest.raises(ArchitectureError, match="there is no experts at layer 1"),
        edit.hooks(tiny_of().model),
    ):
        pass


# Another base


@pytest.mark.tiny
def test_another_model_is_refused_by_shape_and_by_weights(tiny_of, tmp_path: Path) -> None:
    from tiny import build

    from vectomy.checkpoint import Checkpoint

    edit = Edit.ablation(tiny_of().folder, unit())
    with pytest.raises(FingerprintError, match="mistral"), edit.hooks(tiny_of("mistral").model):
        pass
    other = build(tmp_path, "llama", head_dim=4)
    with pytest.raises(FingerprintError, match="Use the base it was made for"):
        edit.check_base(Checkpoint.open(other.folder))
    edit.check_base(Checkpoint.open(tiny_of().folder))


def test_edits_of_two_bases_do_not_add() -> None:
    other = dataclasses.replace(BASE, fingerprint="1" * 64)
    with pytest.raises(FingerprintError, match="different base models"):
        Edit(BASE, (operation(),)) + Edit(other, (operation(),))


# Arithmetic


def under(edit: Edit, model, strength: float = 1.0) -> torch.Tensor:
    with edit.hooks(model, strength):
        return logits(model)


@pytest.mark.tiny
@pytest.mark.parametrize("norm", ["none", "column", "row"])
def test_two_halves_make_a_whole(tiny_of, norm: str) -> None:
    tiny = tiny_of()
    edit = Edit.ablation(tiny.folder, orthonormal(3), norm=norm)
    whole = under(edit, tiny.model)
    torch.testing.assert_close(under(edit * 0.5 + 0.5 * edit, tiny.model), whole, **ROUNDING)
    torch.testing.assert_close(under(edit * 0.5, tiny.model, 2.0), whole, **ROUNDING)
    assert (under(edit * 0.5, tiny.model) - whole).abs().max() > 0.01


@pytest.mark.tiny
def test_strength_zero_is_the_base_bit_for_bit(tiny_of) -> None:
    tiny = tiny_of()
    edit = Edit.ablation(tiny.folder, unit()) * 0
    assert torch.equal(under(edit, tiny.model), logits(tiny.model))
    assert edit.operations[0].is_noop
    assert not hooked(tiny.model)


def test_a_nan_factor_is_an_edit_error() -> None:
    with pytest.raises(EditError, match="strength nan"):
        Edit(BASE, (operation(),)) * float("nan")


def test_the_sum_of_two_ablations_leaves_nothing_of_either() -> None:
    a, b = at_cosine(0.8)
    one, other = (Edit(BASE, (operation(basis=r[None]),)) for r in (a, b))
    total = (one + other).operations[0]
    from vectomy.core.linalg import remove

    for r in (a, b):
        assert remove(r, total.basis, total.strengths).norm() < 1e-6


def test_one_after_the_other_leaves_what_methods_says() -> None:
    """Section 1: at cosine 0.8, 49% of the first comes back (0.8 * 0.6 = 0.48 of the part that b
    carried off).
    """
    from vectomy.core.linalg import remove

    a, b = at_cosine(0.8)
    one = torch.ones(1)
    stream = torch.randn(4000, WIDTH)
    left = remove(remove(stream, a[None], one), b[None], one) @ a
    assert (left.square().mean() / (stream @ a).square().mean()).sqrt() == pytest.approx(0.48, abs=0.03)


@pytest.mark.tiny
def test_a_sum_does_the_same_in_either_order(tiny_of) -> None:
    tiny = tiny_of()
    a, b = at_cosine(0.8)
    one, other = Edit.ablation(tiny.folder, a, 0.7), Edit.ablation(tiny.folder, b, -0.4, embeddings=False)
    forth, back = under(one + other, tiny.model), under(other + one, tiny.model)
    torch.testing.assert_close(forth, back, **ROUNDING)
    assert (forth - under(one, tiny.model)).abs().max() > 0.01


@pytest.mark.tiny
def test_orthogonal_edits_add_as_functions(tiny_of) -> None:
    tiny = tiny_of()
    a, b = orthonormal(2)
    total = Edit.ablation(tiny.folder, a, 0.5) + Edit.ablation(tiny.folder, b, -0.5)
    with Edit.ablation(tiny.folder, a, 0.5).hooks(tiny.model):
        torch.testing.assert_close(
            under(Edit.ablation(tiny.folder, b, -0.5), tiny.model),
            under(total * 1.0, load_like(tiny)),
            **ROUNDING,
        )


def load_like(tiny):
    from tiny import load

    return load(tiny.folder)


def test_additions_add_and_scale() -> None:
    v, w = torch.randn(2, WIDTH)
    one, other = (Edit(BASE, (operation(addition=x),)) for x in (v, w))
    torch.testing.assert_close((one + other * 2).operations[0].addition, v + 2 * w)
    plain = Edit(BASE, (operation(),))
    torch.testing.assert_close((plain + one).operations[0].addition, v)


def test_a_sum_that_is_not_defined_is_refused() -> None:
    three = orthonormal(3)
    with pytest.raises(EditError, match="overlap without being equal"):
        Edit(BASE, (operation(basis=three, strengths=torch.ones(3)),)) + Edit(
            BASE, (operation(basis=three[:1]),)
        )
    with pytest.raises(EditError, match="norm modes 'none' and 'row'"):
        Edit(BASE, (operation(),)) + Edit(BASE, (operation(norm="row"),))


@pytest.mark.tiny
@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ({"layers": range(1, 3)}, 4),
        ({"components": ["mlp"]}, 4),
        ({"components": ["embedding"]}, 1),
        ({"layers": [0], "components": ["attention"]}, 1),
        ({"layers": iter([3])}, 2),
        ({}, 9),
        ({"layers": []}, 0),
    ],
    ids=["layers", "mlp", "embedding", "both", "iterator", "all", "none"],
)
def test_only_keeps_the_named_part(tiny_of, choice: dict, count: int) -> None:
    part = Edit.ablation(tiny_of().folder, unit()).only(**choice)
    assert len(part.operations) == count


@pytest.mark.tiny
def test_the_parts_add_up_to_the_whole(tiny_of) -> None:
    edit = Edit.ablation(tiny_of().folder, unit())
    parts = edit.only(components=["embedding"]) + edit.only(layers=[0, 2]) + edit.only(layers=[1, 3])
    assert same(dataclasses.replace(parts, about={}), edit)


@pytest.mark.tiny
def test_a_layer_that_the_model_lacks_is_named(tiny_of) -> None:
    from vectomy.architecture import architecture_of

    with pytest.raises(ArchitectureError, match="layers 0 to 3"):
        architecture_of(tiny_of().model).writer("mlp", 4)
