"""Rows that leave and join a batch give, on every model type, the tokens that `generate` gives for
each prompt alone.
"""

import pytest
import torch
from transformers import GenerationConfig
from zoo import VOCAB, ZOO, zoo_model

from vectomy.models.generation import GreedyDecoder
from vectomy.models.kv_cache import has_plain_kv_cache, has_windows

TIER = "zoo"

LIMIT = 8
BEGINNING = [3, 5]
# Types whose passes depend on more than positions and the mask; ChatModel finds this out by trying.
OTHERWISE = {"cpmant", "doge:moe", "modernbert-decoder", "openai-gpt", "rwkv", "xlnet", "xlstm"}


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    own = [torch.randint(1, VOCAB, (n,), generator=generator).tolist() for n in (9, 4, 7, 3)]
    return [[*BEGINNING, *ids] for ids in own]


@pytest.mark.parametrize("label", [label for label in ZOO if label not in OTHERWISE])
@torch.inference_mode()
def test_rows_that_leave_and_join_give_the_tokens_of_generate(label: str) -> None:
    """Two of four prompts at a time, in passes that pad some of them; windows are 5 tokens."""
    model = zoo_model(label)
    if not has_plain_kv_cache(model):
        pytest.skip("caches more than keys and values: left to generate")
    model.generation_config.eos_token_id = None
    greedy = GenerationConfig(max_new_tokens=LIMIT, do_sample=False, eos_token_id=None, pad_token_id=0)
    whole = [
        model.generate(input_ids=torch.tensor([ids]), generation_config=greedy)[0, len(ids) :].tolist()
        for ids in prompts()
    ]
    ends = {whole[0][3], whole[1][5]}
    expected = []
    for answer in whole:
        end = next((index for index, token in enumerate(answer) if token in ends), LIMIT)
        expected.append(answer[: end + 1])
    shared = 0 if has_windows(model) else len(BEGINNING)
    head = model.get_output_embeddings()
    decoder = GreedyDecoder(
        model, lambda hidden: head(hidden).argmax(-1), BEGINNING[:shared], ends, torch.device("cpu")
    )
    own = {index: ids[shared:] for index, ids in enumerate(prompts())}
    answers = dict(decoder.answers(own, LIMIT, places=2 * (11 + LIMIT), pass_tokens=11))
    assert [answers[index] for index in range(len(own))] == expected
