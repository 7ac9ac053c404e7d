"""Patching everything is the other run, patching nothing changes nothing, and one place is what a
hand-made hook makes of it.
"""

import pytest
import tiny_chat
import torch
from tiny import hooked

import vectomy
from vectomy.core.errors import UsageError, VectomyError
from vectomy.metrics.activation_patching import PatchEffects

TIER = "chat"

NIGHT, DAY = ["show the owl red", "find the moon blue"], ["show the sun red", "find the bee blue"]
ANSWERS = ("I", "sure")


def difference(texts: list[str]) -> torch.Tensor:
    """The metric by transformers alone, prompt by prompt."""
    chat = tiny_chat.chat()
    first, second = chat.tokenizer.convert_tokens_to_ids(list(ANSWERS))
    last = torch.stack([tiny_chat.raw(chat, ids).logits[0, -1] for ids in chat.tokens(texts)])
    return (last[:, first] - last[:, second]).mean()


def patched(**options) -> PatchEffects:
    given = {"source": NIGHT, "target": DAY, "answers": ANSWERS, **options}
    return vectomy.patch(tiny_chat.chat(), **given)


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_the_stream_of_all_positions_is_the_other_run(site: str) -> None:
    effects = patched(site=site, by="layer")
    assert effects.source == pytest.approx(float(difference(NIGHT)), abs=1e-3)
    assert effects.target == pytest.approx(float(difference(DAY)), abs=1e-3)
    assert effects.source - effects.target > 2
    assert effects.values.shape == (4, 1)
    torch.testing.assert_close(effects.restored, torch.ones(4, 1), rtol=1e-3, atol=1e-3)


def test_a_prompt_patched_with_itself_is_itself() -> None:
    effects = patched(source=DAY)
    torch.testing.assert_close(effects.values, torch.full_like(effects.values, effects.target))
    assert effects.restored.isnan().all()
    assert repr(effects).endswith("; nothing to restore, the two do not differ>")


@pytest.mark.parametrize("token", [-1, 10**6])
def test_an_id_that_the_model_has_not_is_named(token: int) -> None:
    with pytest.raises(UsageError, match=rf"no token {token}; the model has the ids 0 to \d+"):
        patched(answers=(token, 5))
    with pytest.raises(UsageError, match=f"no token {token}"):
        vectomy.lens(tiny_chat.chat(), NIGHT[:1]).probability(token)


def test_only_the_positions_that_differ_carry_the_difference_into_the_first_layer() -> None:
    chat = tiny_chat.chat()
    effects = patched()
    rows = [chat.tokens(texts)[0] for texts in (NIGHT, DAY)]
    (noun,) = [place - len(rows[0]) for place in range(len(rows[0])) if rows[0][place] != rows[1][place]]
    assert effects.columns == tuple(range(-len(rows[0]), 0))
    first = effects.restored[0]
    assert float(first[effects.columns.index(noun)]) == pytest.approx(1, abs=1e-3)
    others = [index for index, place in enumerate(effects.columns) if place != noun]
    assert float(first[others].abs().max()) < 1e-3
    # Behind the last layer only the last token predicts.
    last = patched(site="resid_post", layers=3).restored[0]
    assert float(last[-1]) == pytest.approx(1, abs=1e-3)
    assert float(last[:-1].abs().max()) < 1e-3


def test_one_place_is_what_a_hook_of_the_tests_own_makes_of_it() -> None:
    chat = tiny_chat.chat()
    ids = [torch.tensor([chat.tokens(texts)[0]]) for texts in (NIGHT, DAY)]
    kept = {}
    block = chat.model.model.layers[2].mlp
    with torch.no_grad():
        handle = block.register_forward_hook(lambda _m, _a, out: kept.update(x=out.clone()))
        chat.model(ids[0])
        handle.remove()
        handle = block.register_forward_hook(
            lambda _m, _a, out: torch.cat([out[:, :-1], kept["x"][:, -1:]], dim=1)
        )
        expected = chat.model(ids[1]).logits[0, -1]
        handle.remove()
    for token in (2, 11):
        effects = vectomy.patch(
            chat,
            NIGHT[0],
            DAY[0],
            metric=lambda logits, token=token: logits[:, token],
            site="mlp_out",
            layers=[2],
            positions=[-1],
        )
        assert float(effects.values[0, 0]) == pytest.approx(float(expected[token]), abs=1e-4)


def test_all_heads_one_by_one_and_the_prompts_in_any_batches() -> None:
    effects = patched(site="head_z", by="head", layers=[1, 2])
    assert effects.values.shape == (2, 4)
    assert effects.columns == (0, 1, 2, 3)
    alone = patched(site="head_z", by="head", layers=[1, 2], batch_tokens=8)
    torch.testing.assert_close(alone.values, effects.values, rtol=1e-4, atol=1e-4)
    table = effects.to_frame()
    assert list(table.columns) == ["layer", "head", "value", "restored"]
    assert table.value.tolist() == pytest.approx(effects.values.flatten().tolist())
    assert len(repr(effects)) < 200
    assert effects._repr_html_().count("<rect") == 8


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answers": None}, "give two tokens"),
        ({"answers": ("I can", "sure")}, "'I can' is 2 tokens"),
        ({"metric": 3}, "the metric is an int"),
        ({"metric": lambda logits: logits}, "a number for each"),
        ({"site": "logits"}, "no site 'logits'"),
        ({"site": "resid_pre", "by": "head"}, "site='head_z'"),
        ({"by": "token"}, "choose from position, layer, head"),
        ({"source": NIGHT[:1]}, "1 source and 2 target prompts"),
        ({"source": [], "target": []}, "0 source and 0 target"),
        ({"positions": [-99]}, "positions are -"),
        ({"layers": [9]}, "no layer 9"),
    ],
)
def test_what_cannot_be_patched_is_said(options: dict, message: str) -> None:
    before = hooked(tiny_chat.chat().model)
    with pytest.raises(VectomyError, match=message):
        patched(**options)
    assert hooked(tiny_chat.chat().model) == before
