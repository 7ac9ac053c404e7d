"""How a chat model's greedy answers are made: by this project's loop (generation.py), or by
`generate` of transformers where the loop does not give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from vectomy.core.config import BatchTokens
from vectomy.core.errors import ModelError, VectomyError
from vectomy.core.out_of_memory import is_out_of_memory
from vectomy.core.pass_rows import pass_rows, treats_rows_apart
from vectomy.core.quoted_error import quote_error
from vectomy.core.ranks import apart, current_ranks
from vectomy.models.attention_kernels import without_cudnn_attention
from vectomy.models.batch import Batch, halve_until_fits
from vectomy.models.generation import GreedyDecoder, shared_beginning
from vectomy.models.memory import available_memory, count_pass_tokens
from vectomy.models.packed_linear import pack_linears

if TYPE_CHECKING:
    from vectomy.models.chat import ChatModel

__all__ = ["CPU_PLACES", "PACKED_FROM", "TRIED", "decode", "decodes_by_row", "generate"]

# Tokens in the cache of answers at once on a processor: a step over more rows reads the weights
# less often.
CPU_PLACES = 16384
# Answers of at least so many tokens are worth packing the weights, in a layout for so many rows.
PACKED_FROM, PACKED_ROWS = 12, 64
# Tokens for which the two ways are compared, on at most so many pairs of prompts, and the result by
# model.
TRIED, MOST_PAIRS = 4, 3
_BY_ROW: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

Answers = Iterator[tuple[int, list[int]]]
"""Each prompt's index and answer, in the order in which answers end."""


def decode(
    chat: ChatModel, tokens: Sequence[Sequence[int]], limit: int, batch_tokens: BatchTokens
) -> Answers:
    """Greedy answers of at most `limit` tokens, to this rank's share of the prompts."""
    ranks = current_ranks()
    with without_cudnn_attention(), _packed(chat, limit):
        way = _decode_rows if all(ranks.gather(decodes_by_row(chat, tokens))) else _generate_batches
        yield from way(chat, tokens, limit, batch_tokens)


def _packed(chat: ChatModel, limit: int) -> AbstractContextManager[object]:
    """Packed weights where enough steps are to be run on them, and they stay in memory."""
    packs = limit >= PACKED_FROM and chat.stream is None
    return pack_linears(chat.model, PACKED_ROWS) if packs else nullcontext()


def decodes_by_row(chat: ChatModel, tokens: Sequence[Sequence[int]]) -> bool:
    """Whether generation.py gives the same answers as `generate` of transformers. Tried once per
    model, on two prompts; not where each token reads the model. In 16 bits, where rounding alone
    parts two answers now and then, further pairs are tried.
    """
    from vectomy.models.kv_cache import has_plain_kv_cache

    if chat.stream is not None:
        return has_plain_kv_cache(chat.model)
    known = _BY_ROW.get(chat.model)
    if known is None and len(tokens) > 1:
        pairs = 1 if chat.model.dtype == torch.float32 else MOST_PAIRS
        known = has_plain_kv_cache(chat.model) and any(
            _agrees(chat, tokens[start : start + 2]) for start in range(0, min(2 * pairs, len(tokens) - 1), 2)
        )
        _BY_ROW[chat.model] = known
    return bool(known)


def _agrees(chat: ChatModel, pair: Sequence[Sequence[int]]) -> bool:
    """Whether both ways answer two prompts alike."""
    (whole,) = chat.batches(pair, 1 << 30)
    try:
        with apart():
            own = dict(_decode_rows(chat, pair, TRIED, 1 << 30))
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return [own.get(row) for row in whole.rows] == generate(chat, whole, TRIED)


def _decode_rows(
    chat: ChatModel, tokens: Sequence[Sequence[int]], limit: int, batch_tokens: BatchTokens
) -> Answers:
    from vectomy.models.kv_cache import has_windows

    # Padding lies between a shared beginning and a prompt's own tokens; a window would count it.
    alone = has_windows(chat.model) or treats_rows_apart(chat.model)
    length = 0 if alone else shared_beginning(tokens)
    decoder = _decoder(chat, tokens[0][:length])
    passes = places = chat.pass_tokens(batch_tokens)
    if batch_tokens == "auto" and chat.device.type == "cpu" and chat.stream is None:
        config = chat.model.config.get_text_config()
        fitting = count_pass_tokens(config, available_memory(), chat.model.dtype.itemsize)
        places = max(passes, min(CPU_PLACES, fitting))
    ordered = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
    waiting = {row: tokens[row][length:] for row in current_ranks().share(ordered)}
    while waiting:
        try:
            for row, answer in decoder.answers(dict(waiting), limit, places, passes):
                del waiting[row]
                yield row, answer
        except (RuntimeError, MemoryError) as error:
            least = length + max(map(len, waiting.values())) + limit
            if places <= least or not is_out_of_memory(error):
                raise
            places, passes = places // 2, max(1, passes // 2)
        if waiting and torch.cuda.is_available():
            # Out of the handler: its traceback holds the tensors of the failed pass.
            torch.cuda.empty_cache()


def _decoder(chat: ChatModel, beginning: Sequence[int]) -> GreedyDecoder:
    head: nn.Module = chat.model.get_output_embeddings()
    return GreedyDecoder(
        chat.model,
        # In bfloat16 on a processor 4 times as fast as argmax; both take the first of equals.
        lambda hidden: head(hidden).max(-1).indices,
        beginning,
        chat.end_tokens,
        chat.device,
        chat.pad_token,
    )


def _generate_batches(
    chat: ChatModel, tokens: Sequence[Sequence[int]], limit: int, batch_tokens: BatchTokens
) -> Answers:
    batches = current_ranks().share(chat.batches(tokens, batch_tokens, growth=limit))
    for batch, result in halve_until_fits(batches, lambda batch: generate(chat, batch, limit)):
        yield from zip(batch.rows, result, strict=True)


def generate(chat: ChatModel, batch: Batch, limit: int, streamer: Any = None) -> list[list[int]]:
    """Greedy answers of a batch, by transformers.

    Args:
        streamer: `put` gets the prompts, then the next token of every row as it is chosen; `end`
            is called behind the last one.

    Raises:
        ModelError: transformers fails on this type of model.
    """
    from transformers import GenerationConfig

    ends = list(chat.end_tokens)
    greedy = GenerationConfig(
        max_new_tokens=limit, do_sample=False, eos_token_id=ends or None, pad_token_id=chat.pad_token
    )
    try:
        with pass_rows(batch.rows):
            out = chat.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                generation_config=greedy,
                streamer=streamer,
            )
    except VectomyError:
        raise
    # xLSTM of some widths, for one.
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"transformers cannot generate with {chat.name}, a {chat.architecture.model_type} model "
            f"({type(error).__name__}: {quote_error(error)}); update transformers, or report the type"
        ) from error
    answers = []
    for ids in out[:, batch.input_ids.shape[1] :].tolist():
        end = next((index for index, token in enumerate(ids) if token in ends), None)
        answers.append(ids if end is None else ids[: end + 1])
    return answers
