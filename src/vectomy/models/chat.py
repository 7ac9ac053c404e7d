"""A live chat model: renders prompts with its template, runs batches, and answers greedily."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vectomy.architecture import Architecture, architecture_of
from vectomy.checkpoint import Checkpoint, fingerprint, fingerprint_tensors
from vectomy.core.config import BatchTokens
from vectomy.core.errors import ActivationError, ModelError
from vectomy.core.module_io import inner_model
from vectomy.core.placed_module import execution_device
from vectomy.core.progress import Progress, automatic
from vectomy.core.quoted_error import quote_error
from vectomy.core.ranks import current_ranks
from vectomy.data.prompts import Prompt, Prompts, as_prompts
from vectomy.data.thoughts import TAGS
from vectomy.models.answer_text import decode_answer, find_final_part, find_opened_thought
from vectomy.models.attention_kernels import without_cudnn_attention
from vectomy.models.batch import Batch, Pass, halve_until_fits, pad_left
from vectomy.models.chat_template import ChatTemplate
from vectomy.models.decoding import decode
from vectomy.models.head import logits_of
from vectomy.models.layerwise import LayerBatches, LayerwiseModel
from vectomy.models.memory import available_memory, count_pass_tokens
from vectomy.models.saved_tensors import saved_tensors
from vectomy.models.thought_budget import answer_behind_thoughts

__all__ = ["CPU_TOKENS", "ChatModel"]

# Ids beyond are of no vocabulary, and too large for a tensor.
LARGEST_TOKEN = 1 << 31
# Tokens in one pass on a processor, unless told otherwise.
CPU_TOKENS = 4096
# Names under which configurations store the number of positions.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
SENTINELS = ("Hello", "What is 2 + 2?", "List\nthree things.", "x")


@dataclass(frozen=True, repr=False)
class ChatModel:
    """A causal language model with its tokenizer and template, on one device, in evaluation mode.

    Attributes:
        tokenizer: None for a model that only runs token ids.
        thought_tokens: most tokens of a thought, beside those of its answer; None: a thought takes
            tokens of the answer.
        stream: for a model read block by block. `model` then has no weights, and only `iter_layers`
            runs; after `stream.allow_passes()` everything does, and each pass reads the model.
    """

    name: str
    checkpoint: Checkpoint
    architecture: Architecture
    model: Any
    tokenizer: Any
    thinking: bool = False
    stream: LayerwiseModel | None = None
    thought_tokens: int | None = None

    @property
    def device(self) -> torch.device:
        """The device that takes token ids."""
        if self.stream is not None:
            return self.stream.device
        return execution_device(self.model.get_input_embeddings())

    @property
    def offloaded(self) -> bool:
        """Whether weights are in memory or on disk until their block runs."""
        return self.stream is None and any(value.is_meta for value in self.model.parameters())

    @property
    def fingerprint(self) -> str:
        """Of its weights (checkpoint/reader.py), by which an Edit knows its base. Of a model that
        is in memory alone, that of the folder which `save_pretrained` would write.
        """
        if self.checkpoint.tensors:
            return fingerprint(self.checkpoint)
        return fingerprint_tensors(saved_tensors(self.model))

    def __repr__(self) -> str:
        arch, dtype = self.architecture, str(self.model.dtype).removeprefix("torch.")
        where = f"{dtype} on {self.device}" if self.stream is None else "read block by block"
        return (
            f"<ChatModel {self.name!r:.60}: {arch.model_type}, {arch.n_layers} layers of width "
            f"{arch.d_model}, {where}>"
        )

    # Prompts to tokens

    def render(self, prompt: Prompt | str) -> str:
        """The prompt in the model's chat template, up to the start of the answer.

        Raises:
            ModelError: the template raises, or leaves out the prompt; or there is no template.
        """
        (prompt,) = as_prompts(prompt)
        if getattr(self.tokenizer, "chat_template", None) is None:
            lacks = (
                "tokenizer, so it takes no text; give one: vectomy.wrap(model, tokenizer)"
                if self.tokenizer is None
                else "chat template, so it takes no prompts; set tokenizer.chat_template"
            )
            raise ModelError(f"{self.name} has no {lacks}")
        text = self.template.render(prompt)
        return text if self.thinking else _close_thought(text)

    @cached_property
    def template(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer, self.name, self.thinking)

    def tokens(self, prompts: Prompts) -> list[list[int]]:
        """Token ids per prompt. The template writes the special tokens, so none are added.

        Raises:
            ModelError: see `render` and `check_ids`; or the tokenizer fails.
            PromptError: see `as_prompts`.
        """
        texts = [self.render(prompt) for prompt in as_prompts(prompts)]
        if not texts:
            return []
        try:
            encoded = self.tokenizer(texts, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        # The library of tokenizers panics over damaged files, which is no Exception.
        except BaseException as error:
            raise ModelError(
                f"the tokenizer of {self.name} cannot encode the prompts ({type(error).__name__}: "
                f"{quote_error(error)}); download tokenizer.json again"
            ) from error
        tokens = [list(ids) for ids in encoded["input_ids"]]
        self.check_ids(tokens)
        return tokens

    @property
    def rows(self) -> int:
        """The number of rows of the token embedding."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def check_ids(self, tokens: Sequence[Sequence[int]]) -> None:
        """Check that every id is a row of the embedding.

        Raises:
            ModelError: with the token that has no row.
        """
        largest = max((max(ids, default=0) for ids in tokens), default=0)
        if largest >= self.rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise ModelError(
                f"the token '{token}' has the id {largest}, and the embedding of {self.name} has {self.rows} "
                f"rows; the tokenizer has {len(self.tokenizer)} tokens. Tokens were added to the tokenizer "
                "and the embedding was not resized: resize it "
                "(model.resize_token_embeddings(len(tokenizer))), or use the tokenizer of the model"
            )

    def post_instruction(self) -> list[int]:
        """The template's tokens after the instruction, which are the same for every prompt. The
        last one is position -1.

        They are the longest common ending of prompts that end differently.

        Raises:
            ModelError: the template puts no token after the instruction.
        """
        encoded = self.tokens([Prompt(text) for text in SENTINELS])
        ending: list[int] = []
        for column in zip(*(reversed(ids) for ids in encoded), strict=False):
            if len(set(column)) > 1:
                break
            ending.append(column[0])
        if not ending:
            raise ModelError(
                f"the chat template of {self.name} puts no token after the instruction; mend "
                "chat_template.jinja"
            )
        return ending[::-1]

    def pass_tokens(self, batch_tokens: BatchTokens) -> int:
        """The number of tokens in one pass. With `auto`, from the free memory of a card; more than
        CPU_TOKENS at once make a processor no faster, unless each pass reads the model. All ranks
        make the same passes, which fit the fullest card.
        """
        if batch_tokens != "auto":
            return batch_tokens
        if self.device.type != "cuda" and self.stream is None:
            return CPU_TOKENS
        config = self.model.config.get_text_config()
        free = min(current_ranks().gather(available_memory(self.device)))
        return count_pass_tokens(config, free, self.model.dtype.itemsize)

    def batches(
        self, tokens: Sequence[Sequence[int]], batch_tokens: BatchTokens, growth: int = 0
    ) -> Iterator[Batch]:
        """Batches of at most `batch_tokens` tokens, including padding and `growth` tokens per row.
        The longest rows come first, so that memory peaks at the start.
        """
        limit = self.pass_tokens(batch_tokens)
        order = sorted(range(len(tokens)), key=lambda row: (-len(tokens[row]), row))
        while order:
            width = len(tokens[order[0]])
            count = max(1, limit // max(1, width + growth))
            rows, order = order[:count], order[count:]
            yield pad_left(rows, [tokens[row] for row in rows], width, self.pad_token, self.device)

    @property
    def pad_token(self) -> int:
        """The token that fills rows: of the tokenizer, or else its end of text, or 0."""
        if self.tokenizer is None:
            return 0
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None and 0 <= token < self.rows:
                return int(token)
        return 0

    # Forward passes

    def hidden(self, batch: Pass) -> Float[Tensor, "batch seq d_model"]:
        """The last hidden states, after the final norm: the input of the head. Computes
        no logits.
        """
        return self.run_inputs(batch.inputs())

    def run_inputs(self, inputs: dict[str, Any]) -> Float[Tensor, "batch seq d_model"]:
        """`hidden` from arguments of the base model's forward."""
        self._check_whole()
        with without_cudnn_attention():
            hidden: Tensor = inner_model(self.model)(**inputs).last_hidden_state
        return hidden

    @contextmanager
    def iter_layers(self, batches: Sequence[Any]) -> Iterator[Iterator[LayerBatches]]:
        """Run batches through all layers. A model read block by block yields once per layer, any
        other model once in total.

            with chat.iter_layers(batches) as steps:
                for layers, finished in steps:
                    with capture(chat.model, layers=layers) as activations:
                        for batch in finished:
                            ...  # `activations` holds those of `batch` at `layers`

        Raises:
            ModelError: the model cannot be read block by block.
        """
        if self.stream is not None:
            with closing(self.stream.iter_layers(batches)) as steps:
                yield steps
        else:
            yield iter([(range(self.architecture.n_layers), self._run_all(batches))])

    def _run_all(self, batches: Sequence[Any]) -> Iterator[Any]:
        for batch in batches:
            self.hidden(batch)
            yield batch

    def _check_whole(self) -> None:
        if self.stream is not None and not self.stream.runs_passes:
            raise ModelError(
                f"{self.name} is read block by block, which computes only its residual stream; load it "
                "whole (load_model) for answers and logits"
            )

    def drop_blocks(self) -> None:
        """Free the weights of all blocks. `log_probs` and `tokens` still work; nothing can restore
        the blocks.
        """
        live = architecture_of(self.model)
        for layer in range(live.n_layers):
            for module in self.model.get_submodule(live.block(layer)).modules():
                # Not Module.to: a packed weight cannot be moved to `meta`.
                for name, value in module.named_parameters(recurse=False):
                    gone = torch.empty_like(value, device="meta")
                    module.register_parameter(name, nn.Parameter(gone, requires_grad=False))

    @property
    def context(self) -> int | None:
        """The number of positions in the model's configuration. None if it names none, or if every
        layer sees a sliding window only, however long the text is.
        """
        config = self.model.config.get_text_config()
        length = next(
            (value for name in POSITIONS if (value := getattr(config, name, None)) is not None), None
        )
        kinds = set(getattr(config, "layer_types", None) or ())
        return length if isinstance(length, int) and kinds != {"sliding_attention"} else None

    def log_probs(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """Log-probabilities of the next token from last hidden states, in float32."""
        return logits_of(self.model, hidden).float().log_softmax(-1)

    @torch.inference_mode()
    def next_token_log_probs(
        self, tokens: Sequence[Sequence[int]], batch_tokens: BatchTokens
    ) -> Float[Tensor, "prompt vocab"]:
        """Log-probabilities of the first answer token for each prompt, float32 on the CPU. The
        batches are shared by the ranks.
        """
        ranks = current_ranks()
        batches = ranks.share(self.batches(tokens, batch_tokens))
        results = halve_until_fits(batches, lambda batch: self.log_probs(self.hidden(batch)[:, -1]).cpu())
        parts = ranks.merge({tuple(batch.rows): log_probs for batch, log_probs in results})
        out = torch.empty(len(tokens), self.architecture.vocab)
        for rows, log_probs in parts.items():
            out[list(rows)] = log_probs
        if not bool(out.isfinite().all()):
            raise ActivationError(
                f"{self.name} gives NaN or infinite log-probabilities; {self._explain_not_finite()}"
            )
        return out

    def _explain_not_finite(self) -> str:
        for name, value in self.model.named_parameters():
            if not value.is_meta and not bool(value.isfinite().all()):
                return f"its tensor '{name}' holds some: download the model again, or take another release"
        if self.model.dtype == torch.float16:
            return "float16 is too narrow for this model: use --dtype bfloat16 or float32"
        return (
            f"its weights are finite, and computed with in {str(self.model.dtype).removeprefix('torch.')}: "
            "use another --dtype or --device, or take another release of the model"
        )

    # Answers

    @cached_property
    def end_tokens(self) -> tuple[int, ...]:
        """Tokens that end an answer: those of the generation config (or else the tokenizer's), and
        the one that the template puts behind an answer.

        Raises:
            ModelError: one of them is no token id.
        """
        ends: Any = self.model.generation_config.eos_token_id
        listed = [*ends] if isinstance(ends, list | tuple) else [ends, self.tokenizer.eos_token_id]
        if getattr(self.tokenizer, "chat_template", None) is not None:
            listed.append(self.template.end_token)
        listed = [token for token in listed if token is not None]
        for token in listed:
            if type(token) is not int or abs(token) >= LARGEST_TOKEN:
                raise ModelError(
                    f"the end-of-text token {token!r:.100} of {self.name} is not the number of a token; "
                    "correct eos_token_id in its generation_config.json"
                )
        return tuple(sorted(set(listed)))

    @torch.inference_mode()
    def answer(
        self,
        tokens: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_tokens: BatchTokens,
        progress: Progress = automatic,
        what: str = "answering",
    ) -> list[list[int]]:
        """Greedy answers as token ids, including the end-of-turn token where an answer
        reached it. What runs out of memory is run in smaller batches. The prompts are shared by the
        ranks.
        """
        self._check_whole()
        if not tokens:
            return []
        if self.thinking and self.thought_tokens is not None:
            return answer_behind_thoughts(
                self,
                tokens,
                self.thought_tokens,
                max_new_tokens,
                lambda ids, limit: self._answer(ids, limit, batch_tokens, progress, what),
            )
        return self._answer(tokens, max_new_tokens, batch_tokens, progress, what)

    def _answer(
        self,
        tokens: Sequence[Sequence[int]],
        max_new_tokens: int,
        batch_tokens: BatchTokens,
        progress: Progress,
        what: str,
    ) -> list[list[int]]:
        answers: dict[int, list[int]] = {}
        with progress(what, len(tokens), "prompts") as update:
            for row, answer in decode(self, tokens, max_new_tokens, batch_tokens):
                answers[row] = answer
                update(1)
            others = current_ranks().merge(answers)
            update(len(tokens) - len(answers))
        return [others[row] for row in range(len(tokens))]

    def text(self, answer: Sequence[int]) -> str:
        """An answer as text. Thoughts stay in it, with the tokens that set them apart; where the
        template has opened the thought, its opening tag comes first.
        """
        text = self.decode(answer)
        return f"{self._opened_thought}\n{text}" if self._opened_thought else text

    def decode(self, answer: Sequence[int]) -> str:
        """The text of an answer's own tokens, without the token that ends it, special or not."""
        ended = bool(answer) and answer[-1] in self.end_tokens
        return decode_answer(self.tokenizer, answer[:-1] if ended else answer)

    def final_start(self, answer: Sequence[int]) -> int | None:
        """The index of the first token of an answer behind its thoughts; None if there is none."""
        return find_final_part(answer, self.text(answer), self.decode)

    def cut(self, answer: Sequence[int], length: int) -> Sequence[int]:
        """The first `length` tokens of an answer, counted behind its thought if it has one."""
        start = (self.final_start(answer) or 0) if self.thinking else 0
        return answer[: start + length]

    @cached_property
    def without_thinking(self) -> ChatModel | None:
        """The same model answering without a thought; None where its template cannot, or it does
        not think now.
        """
        if not self.thinking or getattr(self.tokenizer, "chat_template", None) is None:
            return None
        other, asked = replace(self, thinking=False), Prompt(SENTINELS[0])
        return other if other.render(asked) != self.render(asked) else None

    @cached_property
    def _opened_thought(self) -> str:
        if not self.thinking or getattr(self.tokenizer, "chat_template", None) is None:
            return ""
        return find_opened_thought(self.render(Prompt(SENTINELS[0])))


def _close_thought(text: str) -> str:
    """A rendered prompt without an open thought. Some templates open one even though thinking is
    off; it is closed, so that the answer follows.
    """
    closing = dict(TAGS).get(find_opened_thought(text))
    return f"{text.rstrip()}\n\n{closing}\n\n" if closing else text
