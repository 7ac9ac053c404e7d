"""The logit lens: what the model would say if it stopped after each layer.

vectomy.lens(chat, "The capital of France is")
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.core.arguments import list_of, require
from vectomy.core.config import BatchTokens
from vectomy.core.errors import ModelError, PromptError, UsageError
from vectomy.core.module_io import first_input, first_output
from vectomy.core.packages import require_packages
from vectomy.core.placed_module import execution_device
from vectomy.core.types import SITES, Site, list_sites
from vectomy.data.prompts import Prompts, as_prompts
from vectomy.hooks.capture import capture
from vectomy.models import Batch, ChatModel, require_chat
from vectomy.report.notebook import draw_table

if TYPE_CHECKING:
    import pandas

__all__ = ["LogitLens", "find_token", "lens", "read_early"]


@dataclass(frozen=True, eq=False, repr=False)
class LogitLens:
    """Predictions from the residual stream behind each layer.

    Attributes:
        layers: the layers, in the order of the second axis.
        positions: token positions from the end, in the order of the third axis.
        log_probs: natural logarithms of the probability of the next token, float32 on the CPU:
            prompt x layer x position x vocab.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    log_probs: Float[Tensor, "prompt layer position vocab"]
    tokenizer: Any

    def top(
        self, count: int = 5, prompt: int = 0, position: int | None = None
    ) -> list[list[tuple[str, float]]]:
        """For each layer the likeliest next tokens with their probabilities.

        Args:
            prompt: the index of a prompt.
            position: one of `positions`; the last unless given.

        Raises:
            UsageError: there is no such prompt or position.
        """
        return [
            [(self._text(int(token)), float(value)) for value, token in zip(*row.topk(count), strict=True)]
            for row in self._rows(prompt, position).exp()
        ]

    def probability(self, token: str | int, position: int | None = None) -> Float[Tensor, "prompt layer"]:
        """The probability of one token, by prompt and layer.

        Raises:
            UsageError: `token` is no single token of the model, or there is no such position.
        """
        place = self._place(position)
        found = find_token(self.tokenizer, token, self.log_probs.shape[-1])
        return self.log_probs[:, :, place, found].exp()

    def to_frame(self, count: int = 5) -> pandas.DataFrame:
        """A pandas DataFrame: prompt, layer, position, rank (from 1), token, probability.

        Raises:
            PreflightError: pandas is not installed.
        """
        require_packages("to_frame()", "pandas")
        import pandas

        rows = [
            (prompt, layer, position, rank, token, value)
            for prompt in range(len(self.log_probs))
            for position in self.positions
            for layer, best in zip(self.layers, self.top(count, prompt, position), strict=True)
            for rank, (token, value) in enumerate(best, 1)
        ]
        return pandas.DataFrame(rows, columns=["prompt", "layer", "position", "rank", "token", "probability"])

    def __repr__(self) -> str:
        last = ", ".join(f"{token!r:.20} {value:.0%}" for token, value in self.top(1)[-1])
        return (
            f"<LogitLens of {len(self.log_probs)} prompts: {len(self.layers)} layers, "
            f"{len(self.positions)} positions; the first ends in {last}>"
        )

    def _repr_html_(self) -> str:
        """The likeliest tokens of the first prompt by layer, as a table in a notebook."""
        rows = [
            [layer, *(f"{token!r} {value:.0%}" for token, value in best)]
            for layer, best in zip(self.layers, self.top(), strict=True)
        ]
        return draw_table(repr(self), ["layer", "1", "2", "3", "4", "5"], rows)

    def _rows(self, prompt: int, position: int | None) -> Float[Tensor, "layer vocab"]:
        require(prompt, int, "the prompt", "give its index")
        if not -len(self.log_probs) <= prompt < len(self.log_probs):
            raise UsageError(f"there is no prompt {prompt}; there are {len(self.log_probs)}, from 0")
        return self.log_probs[prompt, :, self._place(position)]

    def _place(self, position: int | None) -> int:
        index = self.positions[-1] if position is None else position
        if index not in self.positions:
            raise UsageError(f"there is no position {position!r:.40}; there are {list(self.positions)}")
        return self.positions.index(index)

    def _text(self, token: int) -> str:
        return str(token) if self.tokenizer is None else str(self.tokenizer.decode([token]))


@torch.inference_mode()
def lens(
    chat: ChatModel,
    prompts: Prompts,
    *,
    site: Site = "resid_post",
    layers: int | Iterable[int] | None = None,
    positions: int | Sequence[int] = (-1,),
    batch_tokens: BatchTokens = "auto",
) -> LogitLens:
    """Read the stream behind each layer as if it were the last: by the final norm and the head.

    At `resid_post` of the last layer these are the model's own predictions. Memory: 4 bytes for
    each prompt, layer, position and token of the vocabulary.

    Args:
        prompts: texts, `Prompt` values or lists of messages; the chat template is applied.
        site: a site of the residual stream.
        layers: all unless given.
        positions: token positions from the end; -1 predicts the first token of the answer.

    Source: nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020.

    Raises:
        UsageError, ArchitectureError: no `ChatModel`, or a site or layer that there is not.
        PromptError: no prompts, or one with fewer tokens than the positions need.
        ModelError: the model has no single norm behind its last block.
    """
    require_chat(chat)
    (site,) = list_sites(site, SITES)
    wanted = range(chat.architecture.n_layers) if layers is None else layers
    chosen = list_of(int, wanted, "a layer", "give numbers of layers")
    places = list_of(int, positions, "a position", "give numbers from the end, such as -1")
    tokens = chat.tokens(as_prompts(prompts))
    if not tokens or not places or max(places) >= 0 or -min(places) > min(map(len, tokens)):
        raise PromptError(
            f"{len(tokens)} prompts and positions {places} name no tokens; give prompts, and positions "
            f"from the end of the shortest ({min(map(len, tokens), default=0)} tokens), such as -1"
        )
    result = torch.empty(len(tokens), len(chosen), len(places), chat.architecture.vocab)
    for batch in chat.batches(tokens, batch_tokens):
        result[batch.rows] = read_early(chat, batch, site, chosen, places)
    return LogitLens(tuple(chosen), tuple(places), result, chat.tokenizer)


@torch.inference_mode()
def read_early(
    chat: ChatModel, batch: Batch, site: Site, layers: Sequence[int], positions: Sequence[int]
) -> Float[Tensor, "prompt layer position vocab"]:
    """Log-probabilities of the next token from the stream of each layer, float32 on the CPU."""
    norm = _find_final_norm(chat, batch)
    with capture(chat, [site], layers, positions) as stream:
        chat.hidden(batch)
    device = execution_device(norm)
    return torch.stack(
        [chat.log_probs(norm(stream[site, layer].to(device))).cpu() for layer in layers], dim=1
    )


def _find_final_norm(chat: ChatModel, batch: Batch) -> nn.Module:
    """The module outside the blocks that takes the last block's output and gives the last hidden
    states, as it is called in a pass.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if isinstance(output, Tensor) and (args or "hidden_states" in kwargs):
            taken = args[0] if args else first_input(args, kwargs)
            if isinstance(taken, Tensor) and taken.shape == output.shape:
                calls.append((module, taken.detach(), first_output(output).detach()))

    last, blocks = chat.architecture.n_layers - 1, chat.architecture.family.blocks
    outside = [
        module
        for name, module in chat.model.named_modules()
        if name and not f"{name}.".startswith(f"{blocks}.")
    ]
    handles = [module.register_forward_hook(note, with_kwargs=True) for module in outside]
    try:
        with capture(chat, ["resid_post"], [last]) as stream:
            hidden = chat.hidden(batch)
    finally:
        for handle in handles:
            handle.remove()
    for module, taken, given in calls:
        if _equal(taken, stream["resid_post", last]) and _equal(given, hidden):
            return module
    raise ModelError(
        f"no single norm of this {chat.architecture.model_type} model stands between its last block and its "
        "head, so a logit lens is not defined; capture the stream with vectomy.capture instead"
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.device), other)


def find_token(tokenizer: Any, token: object, vocab: int) -> int:
    """The id of one token, given as id or text, of `vocab` ids.

    Raises:
        UsageError: the text is no single token, or the model has no such id.
    """
    if isinstance(token, int) and not isinstance(token, bool):
        if not 0 <= token < vocab:
            raise UsageError(f"there is no token {token}; the model has the ids 0 to {vocab - 1}")
        return token
    text = require(token, str, "the token", "give its text or its id")
    if tokenizer is None:
        raise UsageError(f"there is no tokenizer to find '{text}' with; give the token's id")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise UsageError(f"'{text}' is {len(ids)} tokens; give the text of a single one, or its id")
    return int(ids[0])
