"""At the last layer the logit lens is the model's prediction; before it, the head on the stream."""

import pytest
import tiny_chat
import torch
from tiny import hooked

import vectomy
from vectomy.core.errors import VectomyError

TIER = "chat"

TEXTS = ["show the owl red", "be brief find the sun green x"]


def test_the_last_layer_is_the_model_and_the_others_its_head_on_their_stream() -> None:
    chat = tiny_chat.chat()
    # transformers leaves hooks of its own where hidden states were asked for.
    before = hooked(chat.model)
    lens = vectomy.lens(chat, TEXTS, positions=[-2, -1])
    assert hooked(chat.model) == before
    assert lens.log_probs.shape == (2, 4, 2, len(tiny_chat.VOCABULARY))
    for row, ids in enumerate(chat.tokens(TEXTS)):
        output = tiny_chat.raw(chat, ids, output_hidden_states=True)
        whole = output.logits.log_softmax(-1)[0, -2:]
        torch.testing.assert_close(lens.log_probs[row, -1], whole, rtol=1e-4, atol=1e-4)
        for layer in range(3):
            early = chat.model.lm_head(chat.model.model.norm(output.hidden_states[layer + 1])).log_softmax(-1)
            torch.testing.assert_close(lens.log_probs[row, layer], early[0, -2:], rtol=1e-4, atol=1e-4)


def test_top_tokens_probabilities_and_the_table_agree() -> None:
    chat = tiny_chat.chat()
    lens = vectomy.lens(chat, TEXTS[0])
    token, value = lens.top(1)[-1][0]
    # The owl is refused.
    assert token == "I"
    assert value > 0.9
    assert float(lens.probability("I")[0, -1]) == pytest.approx(value)
    table = lens.to_frame(3)
    assert len(table) == 4 * 3
    last = table[(table.layer == 3) & (table["rank"] == 1)].iloc[0]
    assert (last.token, last.probability) == (token, pytest.approx(value))
    assert len(repr(lens)) < 200
    assert "<table>" in lens._repr_html_()
    assert f"<td>&#39;I&#39; {value:.0%}</td>" in lens._repr_html_()


@pytest.mark.zoo
@pytest.mark.parametrize("label", ["gemma2", "gpt2", "opt", "cohere", "granite", "mixtral", "mamba", "olmo2"])
def test_capped_scaled_and_other_heads_and_norms(label: str) -> None:
    from zoo import zoo_model, zoo_tokens

    from vectomy.metrics.logit_lens import read_early
    from vectomy.models.batch import Batch

    chat, ids = vectomy.wrap(zoo_model(label)), zoo_tokens()
    batch = Batch(list(range(len(ids))), ids, torch.ones_like(ids))
    with torch.no_grad():
        whole = chat.model(**batch.inputs()).logits[:, -1].log_softmax(-1)
    values = read_early(chat, batch, "resid_post", [chat.architecture.n_layers - 1], [-1])
    torch.testing.assert_close(values[:, 0, 0], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"site": "attn_out"}, "no site 'attn_out'"),
        ({"layers": [9]}, "no layer 9"),
        ({"positions": [0]}, "such as -1"),
        ({"positions": [-99]}, "such as -1"),
        ({"prompts": []}, "0 prompts"),
    ],
)
def test_what_a_lens_cannot_show_is_said(options: dict, message: str) -> None:
    with pytest.raises(VectomyError, match=message):
        vectomy.lens(tiny_chat.chat(), **{"prompts": TEXTS, **options})
    lens = vectomy.lens(tiny_chat.chat(), TEXTS)
    for call in (
        lambda: lens.top(prompt=7),
        lambda: lens.top(position=-3),
        lambda: lens.probability("I can"),
    ):
        with pytest.raises(VectomyError):
            call()
    with pytest.raises(VectomyError, match=r"vectomy\.wrap"):
        vectomy.lens(tiny_chat.chat().model, TEXTS)
