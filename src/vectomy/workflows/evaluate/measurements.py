"""The measurements of an evaluation, each kept by what it depends on and made only where it is not
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version

from jaxtyping import Float
from torch import Tensor

from vectomy.core.cache import Cache
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.json_value import JsonObject
from vectomy.core.ranks import current_ranks
from vectomy.core.results import Rate, TextPerplexity
from vectomy.core.run_folder import hash_of
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt
from vectomy.metrics.divergence import answer_hidden, divergence
from vectomy.metrics.intervals import rate_of
from vectomy.metrics.judges import Judge, Verdict, find_refusals
from vectomy.metrics.lm_eval.harness import HarnessTask, TaskScores
from vectomy.metrics.perplexity import perplexity
from vectomy.metrics.prompt_set import PromptSet, sample
from vectomy.metrics.verdicts import JudgedAnswers, judge_all
from vectomy.models import ChatModel
from vectomy.workflows.evaluate.answering import SubjectAnswers, portions
from vectomy.workflows.evaluate.model_cache import ModelCache, slot
from vectomy.workflows.evaluate.pace import Pace
from vectomy.workflows.evaluate.subjects import Subject

__all__ = ["Completions", "SubjectMeasurer"]


@dataclass(frozen=True)
class Completions:
    """A subject's answers to some prompts: token ids, and for each answer length the text with its
    verdict (the longest is the whole answer).
    """

    tokens: list[list[int]]
    texts: dict[int, list[str]]
    judged: dict[int, list[JudgedAnswers]]

    @property
    def whole(self) -> tuple[list[str], list[JudgedAnswers]]:
        longest = max(self.texts)
        return self.texts[longest], self.judged[longest]


class SubjectMeasurer:
    """Measures subjects; measurements in `cache` are not repeated."""

    def __init__(
        self,
        config: EvaluationConfig,
        models: ModelCache,
        cache: Cache,
        judge: Judge,
        sets: Sequence[PromptSet],
        progress: Pace,
        subjects: Sequence[Subject],
    ) -> None:
        self._config, self._models, self._cache, self._judge, self._progress = (
            config,
            models,
            cache,
            judge,
            progress,
        )
        self._sets = {prompt_set.name: prompt_set for prompt_set in sets}
        self._hidden: dict[tuple[str, str], list[Float[Tensor, "_ d_model"]]] = {}
        # Not batch_tokens: lowering it when memory is short must not throw away what is done.
        recorded = versions()
        self._made_with: JsonObject = {
            "versions": {name: recorded[name] for name in ("vectomy", "torch", "transformers")},
            "settings": config.runtime.list_precision(),
        }
        self.answers = SubjectAnswers(config, models, cache, progress, subjects, self._made_with)

    def describe_setup(self, subject: Subject) -> JsonObject:
        """The dtype, device and hash of the chat template of a model, read when it is loaded."""

        def work() -> JsonObject:
            with self._models.model(subject) as chat:
                dtype, template = str(chat.model.dtype).removeprefix("torch."), chat.tokenizer.chat_template
                date = chat.template.date
                dated = {} if date is None else {"template_date": date}
                digest = hash_of(template)
                bits = self._config.runtime.load_in
                loaded = {} if bits is None else {"load_in": bits}
                machine = {"dtype": dtype, "device": str(chat.device), **loaded}
                return {**machine, "template_sha256": digest, **dated}

        inputs = {"kind": "setup", "subject": subject.identity, **self._made_with}
        result: JsonObject = self._cache.get_or_compute(inputs, work)
        return result

    # Answers

    def answer(
        self,
        subject: Subject,
        prompts: Sequence[Prompt],
        what: str,
        *,
        tokens: int,
        budgets: Sequence[int] = (),
        context: int = 0,
    ) -> Completions:
        """Greedy answers of `tokens` tokens, judged whole and cut off at each budget; with
        `context` behind that much text.
        """
        lengths = sorted({*budgets, tokens})
        ids, by_length = self.answers.answer(subject, prompts, what, tokens, lengths, context)
        return Completions(
            ids,
            by_length,
            {length: self._judge_texts(prompts, texts) for length, texts in by_length.items()},
        )

    def _judge_texts(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[JudgedAnswers]:
        judge = self._judge
        inputs = {
            "kind": "verdicts behind thoughts",
            "judge": [judge.name, judge.version],
            "texts": hash_of([[p.text, t] for p, t in zip(prompts, texts, strict=True)]),
        }

        def judged() -> list[tuple[Verdict, float | None]]:
            return [(j.verdict, j.p_refusal) for j in judge_all(judge, prompts, texts)]

        # An endpoint is asked once.
        rows = self._cache.get_or_compute(inputs, lambda: current_ranks().on_first(judged))
        return [JudgedAnswers(verdict, p_refusal) for verdict, p_refusal in rows]

    def refuse_without_thinking(self, subject: Subject, prompts: Sequence[Prompt], what: str) -> Rate | None:
        """Refusals of a model that thinks, where it answers without a thought; None for models that
        do only one of the two, and for other engines.
        """
        c, judge = self._config, self._judge
        if not c.runtime.thinking or c.engine != "own" or not subject.has_weights:
            return None
        inputs = {
            "kind": "refusals without thinking",
            "subject": subject.identity,
            "prompts": hash_of([prompt.to_json() for prompt in prompts]),
            "tokens": c.answer_tokens,
            "judge": [judge.name, judge.version],
            **self._made_with,
        }

        def work() -> JsonObject | None:
            with self._models.model(subject) as chat:
                plain = chat.without_thinking
                if plain is None:
                    return None
                ids, texts = plain.tokens(prompts), [""] * len(prompts)
                for rows in portions(subject, len(prompts)):
                    asked = [ids[row] for row in rows]
                    answers = plain.answer(
                        asked,
                        c.answer_tokens,
                        c.runtime.batch_tokens,
                        self._progress,
                        f"{subject.name}: {what}",
                    )
                    for row, answer in zip(rows, answers, strict=True):
                        texts[row] = plain.text(answer)
            judged = current_ranks().on_first(
                lambda: find_refusals(judge, [prompt.text for prompt in prompts], texts)
            )
            return rate_of(judged)

        rate = self._cache.get_or_compute(inputs, work)
        return None if rate is None else Rate.from_json(rate)

    # Damage

    def sample_rows(self, prompt_set: PromptSet) -> list[int]:
        """The rows of a set that damage is measured on."""
        return sample(len(prompt_set.rows), self._config.damage_prompts, self._config.seed)

    def measure_divergence(
        self, subject: Subject, baseline: Subject, prompt_set: PromptSet, answers: Sequence[Sequence[int]]
    ) -> dict[str, float] | None:
        """KL and cross-entropy over the sampled answers of `baseline`; None where the two do not
        share a tokenizer.
        """
        inputs = self._divergence_inputs(subject, baseline, prompt_set, answers)
        result: dict[str, float] | None = self._cache.get_or_compute(
            inputs, lambda: self._measure_divergence(subject, baseline, prompt_set, answers)
        )
        return result

    def run_baseline_first(
        self, subject: Subject, baseline: Subject, answers: dict[str, list[list[int]]]
    ) -> None:
        """Run `baseline` on its answers where damage has yet to be measured: it leaves memory when
        `subject` is loaded.
        """
        if slot(subject) == slot(baseline):
            return
        for name, answered in answers.items():
            if self._divergence_inputs(subject, baseline, self._sets[name], answered) not in self._cache:
                self._get_hidden(baseline, self._sets[name], answered)

    def _divergence_inputs(
        self, subject: Subject, baseline: Subject, prompt_set: PromptSet, answers: Sequence[Sequence[int]]
    ) -> JsonObject:
        rows = self.sample_rows(prompt_set)
        asked = hash_of([[prompt_set.rows[row].prompt.to_json(), answers[row]] for row in rows])
        return {
            "kind": "damage with errors",
            "subject": subject.identity,
            "of": baseline.identity,
            "asked": asked,
            **self._made_with,
        }

    def _measure_divergence(
        self, subject: Subject, baseline: Subject, prompt_set: PromptSet, answers: Sequence[Sequence[int]]
    ) -> dict[str, float] | None:
        rows = self.sample_rows(prompt_set)
        answered, prompts = [answers[row] for row in rows], [prompt_set.rows[row].prompt for row in rows]
        with self._progress.timed("damage", len(rows) * self._config.answer_tokens):
            before = self._get_hidden(baseline, prompt_set, answers)
            return self._compare_hidden(subject, baseline, prompt_set, prompts, answered, before)

    def _compare_hidden(
        self,
        subject: Subject,
        baseline: Subject,
        prompt_set: PromptSet,
        prompts: Sequence[Prompt],
        answered: Sequence[Sequence[int]],
        before: Sequence[Float[Tensor, "_ d_model"]],
    ) -> dict[str, float] | None:
        with (
            self._models.model(subject) as chat,
            self._progress(f"{subject.name}: damage on {prompt_set.name}", len(prompts)) as update,
        ):
            head = self._models.head(baseline)
            if chat.architecture.vocab != head.architecture.vocab or chat.tokens(prompts) != head.tokens(
                prompts
            ):
                return None
            after = self._compute_hidden(chat, subject, prompts, answered)
            result = divergence(head, chat, before, after, answered)
            update(len(prompts))
        return result

    def _get_hidden(
        self, baseline: Subject, prompt_set: PromptSet, answers: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "_ d_model"]]:
        key = baseline.name, prompt_set.name
        if key not in self._hidden:
            rows = self.sample_rows(prompt_set)
            with self._models.model(baseline) as chat:
                prompts, answered = (
                    [prompt_set.rows[row].prompt for row in rows],
                    [answers[row] for row in rows],
                )
                self._hidden[key] = self._compute_hidden(chat, baseline, prompts, answered)
        return self._hidden[key]

    def _compute_hidden(
        self, chat: ChatModel, subject: Subject, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
    ) -> list[Float[Tensor, "_ d_model"]]:
        hidden: dict[int, Tensor] = {}
        for rows in portions(subject, len(prompts)):
            result = answer_hidden(
                chat,
                [prompts[row] for row in rows],
                [answers[row] for row in rows],
                self._config.runtime.batch_tokens,
            )
            hidden |= dict(zip(rows, result, strict=True))
        return [hidden[row] for row in range(len(prompts))]

    # Text

    def measure_perplexity(self, subject: Subject, text: str) -> TextPerplexity:
        c = self._config
        inputs = {
            "kind": "perplexity",
            "subject": subject.identity,
            "text": hash_of(text),
            "tokens": c.text_tokens,
            **self._made_with,
        }

        def work() -> JsonObject:
            with self._progress.timed("perplexity", c.text_tokens), self._models.model(subject) as chat:
                return perplexity(chat, text, c.text_tokens, c.runtime.batch_tokens)

        return TextPerplexity.from_json(self._cache.get_or_compute(inputs, work))

    # Tasks

    def score_task(self, subject: Subject, task: HarnessTask) -> TaskScores:
        """The subject's score on each document of a task of the lm-evaluation-harness."""

        def work() -> JsonObject:
            with (
                self._progress.timed("capability", task.requests),
                self._models.model(subject) as chat,
                self._progress(f"{subject.name}: {task.row}", task.requests, "requests") as update,
            ):
                return asdict(task.run(chat, self._config.task_batch, update))

        result = self._cache.get_or_compute(self._scores_inputs(subject, task), work)
        return TaskScores(result["metric"], tuple(result["values"]))

    def needs_scores(self, subject: Subject, task: HarnessTask) -> bool:
        """Whether the task has yet to be run on the subject."""
        return self._scores_inputs(subject, task) not in self._cache

    def _scores_inputs(self, subject: Subject, task: HarnessTask) -> JsonObject:
        # The batch size counts: scores of two subjects are compared, and other batches round
        # differently.
        return {
            "kind": "capability",
            "subject": subject.identity,
            "task": task.name,
            "asked": task.sha256,
            "batch": self._config.task_batch,
            "lm_eval": version("lm_eval"),
            **self._made_with,
        }
