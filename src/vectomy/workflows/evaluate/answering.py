"""What answers for each subject: the loaded model, vLLM, or a server. The answers to a set of
prompts are kept when all of them are there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path

from vectomy.core.cache import Cache
from vectomy.core.chat_endpoint import Patience, split_endpoint
from vectomy.core.errors import UsageError
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.json_value import JsonObject
from vectomy.core.ranks import current_ranks
from vectomy.core.run_folder import hash_of
from vectomy.data.prompts import Prompt
from vectomy.edits.export.peft_adapter import write_lora
from vectomy.metrics.surroundings import behind_text
from vectomy.models import ChatModel
from vectomy.models.answer_text import find_final_part
from vectomy.models.loading import load_without_weights
from vectomy.models.served_model import ServedModel
from vectomy.models.thought_budget import answer_behind_thoughts
from vectomy.models.vllm_engine import VllmEngine, rank_of_adapter
from vectomy.workflows.evaluate.model_cache import ModelCache
from vectomy.workflows.evaluate.pace import Pace
from vectomy.workflows.evaluate.subjects import Subject

__all__ = ["SubjectAnswers", "portions"]


class SubjectAnswers:
    """Answers of all subjects; those in `cache` are not asked for again."""

    def __init__(
        self,
        config: EvaluationConfig,
        models: ModelCache,
        cache: Cache,
        progress: Pace,
        subjects: Sequence[Subject],
        made_with: JsonObject,
    ) -> None:
        self._config, self._models, self._cache, self._progress = config, models, cache, progress
        self._subjects, self._made_with = subjects, made_with
        self._stack = ExitStack()
        self._readers: dict[Path, ChatModel] = {}

    def answer(
        self,
        subject: Subject,
        prompts: Sequence[Prompt],
        what: str,
        tokens: int,
        lengths: Sequence[int],
        context: int,
    ) -> tuple[list[list[int]], dict[int, list[str]]]:
        """Token ids of greedy answers, and their texts by length, cut off there.

        The tokens of a server's answers are those of the base's tokenizer. Shorter lengths count
        behind the thought, as of own answers (`ChatModel.cut`).

        Args:
            lengths: ascending; the last is `tokens`.
            context: tokens of text before each prompt.
        """
        inputs = self._inputs(subject, prompts, tokens, context)
        work = partial(self._ask, subject, prompts, what, tokens, context)
        if self._server(subject) is None:
            ids: list[list[int]] = self._cache.get_or_compute(inputs, work)
            return ids, self._decode(subject, ids, lengths)
        whole: list[str] = self._cache.get_or_compute(inputs, work)
        reader = self._reader(subject)
        ids = [reader.tokenizer(text, add_special_tokens=False)["input_ids"] for text in whole]
        starts = [
            find_final_part(own, text, reader.decode) or 0 for own, text in zip(ids, whole, strict=True)
        ]
        texts = {
            length: [
                text
                if length == tokens or len(own) <= start + length
                else reader.decode(own[: start + length])
                for own, text, start in zip(ids, whole, starts, strict=True)
            ]
            for length in lengths
        }
        # An own answer without text is the token that ends it.
        return [own or _end_of_answer(reader) for own in ids], texts

    def are_missing(self, subject: Subject, prompts: Sequence[Prompt]) -> bool:
        """Whether the subject has yet to answer these prompts."""
        return self._inputs(subject, prompts, self._config.answer_tokens, 0) not in self._cache

    def close(self) -> None:
        """Free vLLM and the adapters that it serves."""
        self._stack.close()
        for name in ("_vllm", "_adapter_folder"):
            self.__dict__.pop(name, None)

    def name_engine(self) -> str:
        """For results: of a server its model, not its address."""
        name = self._config.engine
        return f"openai:{self._base_server.short_model}" if self._base_server is not None else name

    # Who answers

    @cached_property
    def _base_server(self) -> ServedModel | None:
        """The server of --engine.

        Raises:
            UsageError: a subject that no server of the base can answer for.
        """
        endpoint = split_endpoint(self._config.engine)
        if endpoint is None:
            return None
        other = next((item for item in self._subjects if item.kind not in ("base", "noise", "served")), None)
        if other is not None:
            raise UsageError(
                f"the server of --engine answers for {self._subjects[0].name} alone, not for {other.name}; "
                "serve that too and name it as a subject (openai:URL#MODEL; an Edit by `vectomy apply --as "
                "lora`), or use --engine own"
            )
        return self._open_server(*endpoint)

    def _open_server(self, url: str, model: str | None) -> ServedModel:
        c = self._config
        return ServedModel(url, model, Patience(timeout=c.reply_seconds), c.requests)

    def _server(self, subject: Subject) -> ServedModel | None:
        if subject.endpoint is not None:
            return self._open_server(*subject.endpoint)
        return self._base_server

    @cached_property
    def _vllm(self) -> VllmEngine:
        engine = VllmEngine(self._config.runtime)
        self._stack.callback(engine.close)
        return engine

    def check(self, unanswered: Collection[Subject]) -> None:
        """Check that every subject can be answered for, before any work.

        Args:
            unanswered: subjects whose servers are asked whether they are there.

        Raises:
            EditError: an Edit or adapter that vLLM does not compute exactly.
            EngineError: a server does not answer.
            UsageError: see `_base_server`; or a budget for thoughts that no server takes.
        """
        served = {subject: server for subject in self._subjects if (server := self._server(subject))}
        if served and self._config.runtime.thought_tokens is not None:
            raise UsageError(
                "--thought-tokens is for models that answer here; a server has its own: leave it out"
            )
        asked = {s.base + s.model: s for subject, s in served.items() if subject in unanswered}
        for server in asked.values():
            current_ranks().on_first(partial(server.answer_prompt, Prompt("Hello."), 1))
        if self._config.engine == "vllm":
            if (bits := self._config.runtime.load_in) is not None:
                raise UsageError(
                    f"--engine vllm loads the models itself, in full precision, and --load-in {bits} is for "
                    "models that run here: leave one out, or serve quantised models (--engine openai:URL)"
                )
            for subject in self._subjects:
                self._adapter(subject)

    @cached_property
    def _adapter_folder(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vectomy-lora-")))

    def _adapter(self, subject: Subject) -> Path | None:
        """The LoRA of an Edit or adapter, for vLLM; None for a model."""
        folder = subject.path
        if subject.edit is not None and subject.strength is not None:
            folder = self._adapter_folder / subject.identity[:16]
            if not folder.exists():
                write_lora(subject.edit * subject.strength, subject.path, folder)
        elif subject.kind != "adapter":
            return None
        rank_of_adapter(folder)
        return folder

    # Asking

    def _inputs(self, subject: Subject, prompts: Sequence[Prompt], tokens: int, context: int) -> JsonObject:
        asked = hash_of([prompt.to_json() for prompt in prompts])
        about: JsonObject = {
            "subject": subject.identity,
            "prompts": asked,
            "tokens": tokens,
            "context": context,
        }
        server = self._server(subject)
        if server is not None:
            return {"kind": "served answers", "server": [server.base, server.model], **about}
        # Answers kept before there were engines stay valid.
        engine = {} if self._config.engine == "own" else {"engine": self._config.engine}
        return {"kind": "answers", **about, **engine, **self._made_with}

    def _ask(
        self, subject: Subject, prompts: Sequence[Prompt], what: str, tokens: int, context: int
    ) -> list[list[int]] | list[str]:
        self._progress.answer_tokens = tokens
        what = f"{subject.name}: {what}"
        server = self._server(subject)
        if server is None and self._config.engine == "own":
            return self._ask_model(subject, prompts, what, tokens, context)
        reader = self._reader(subject)
        asked = behind_text(reader, prompts, context, tokens) if context else prompts
        ranks = current_ranks()
        if server is not None:
            inputs = self._inputs(subject, prompts, tokens, context)
            return ranks.on_first(
                lambda: server.answer_prompts(
                    asked, tokens, self._progress, what, self._cache.journal(inputs)
                )
            )
        return ranks.on_first(lambda: self._ask_vllm(subject, reader, asked, tokens, what))

    def _ask_model(
        self, subject: Subject, prompts: Sequence[Prompt], what: str, tokens: int, context: int
    ) -> list[list[int]]:
        with self._models.model(subject) as chat:
            asked = behind_text(chat, prompts, context, tokens) if context else list(prompts)
            ids = chat.tokens(asked)
            answers: list[list[int]] = [[] for _ in ids]
            for rows in portions(subject, len(ids)):
                answered = chat.answer(
                    [ids[row] for row in rows],
                    tokens,
                    self._config.runtime.batch_tokens,
                    self._progress,
                    what,
                )
                for row, answer in zip(rows, answered, strict=True):
                    answers[row] = answer
        return answers

    def _ask_vllm(
        self, subject: Subject, reader: ChatModel, prompts: Sequence[Prompt], tokens: int, what: str
    ) -> list[list[int]]:
        model = self._model_folder(subject)
        others = [self._adapter(item) for item in self._subjects if self._model_folder(item) == model]
        adapters = [folder for folder in others if folder is not None]
        adapter, thought = self._adapter(subject), self._config.runtime.thought_tokens

        def decode(ids: Sequence[Sequence[int]], limit: int) -> list[list[int]]:
            return self._vllm.answer(reader, ids, limit, adapter, adapters)

        with self._progress(what, len(prompts), "prompts") as update:
            ids = reader.tokens(prompts)
            answers = (
                answer_behind_thoughts(reader, ids, thought, tokens, decode)
                if reader.thinking and thought is not None
                else decode(ids, tokens)
            )
            update(len(prompts))
        return answers

    def _decode(
        self, subject: Subject, answers: Sequence[Sequence[int]], lengths: Sequence[int]
    ) -> dict[int, list[str]]:
        def work() -> dict[str, list[str]]:
            with self._models.model(subject) as chat:
                cut = {
                    str(length): [chat.text(chat.cut(answer, length)) for answer in answers]
                    for length in lengths[:-1]
                }
                # Whole: a thought may have tokens of its own.
                return cut | {str(lengths[-1]): [chat.text(answer) for answer in answers]}

        thinks = {"cut": "behind the thought"} if self._config.runtime.thinking else {}
        inputs = {
            "kind": "texts with thoughts",
            "subject": subject.identity,
            "answers": hash_of(answers),
            "budgets": list(lengths),
            **thinks,
        }
        texts = self._cache.get_or_compute(inputs, work)
        return {length: texts[str(length)] for length in lengths}

    def _reader(self, subject: Subject) -> ChatModel:
        """The template and tokens of the subject, or of an adapter's base; without weights."""
        path = self._model_folder(subject)
        if path not in self._readers:
            self._readers[path] = load_without_weights(path, runtime=self._config.runtime)
        return self._readers[path]

    def _model_folder(self, subject: Subject) -> Path:
        """The folder of the weights; the base's for an adapter."""
        return self._subjects[0].path if subject.kind == "adapter" else subject.path


def _end_of_answer(chat: ChatModel) -> list[int]:
    """The token that the template, or else the tokenizer, puts behind an answer."""
    templated = getattr(chat.tokenizer, "chat_template", None) is not None
    token = chat.template.end_token if templated else None
    return list(chat.end_tokens[:1]) if token is None else [token]


def portions(subject: Subject, count: int) -> list[range]:
    """The rows in the order of their passes. The base is measured against itself in other batches
    than before: the odd rows, then the even ones.
    """
    if subject.kind != "noise":
        return [range(count)]
    return [rows for rows in (range(1, count, 2), range(0, count, 2)) if rows]
