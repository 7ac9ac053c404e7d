"""The measurements of one evaluation, in order, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Self

from vectomy.checkpoint import Checkpoint
from vectomy.core.cache import Cache
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import write_jsonl
from vectomy.core.packages import describe_missing
from vectomy.core.ranks import current_ranks
from vectomy.core.results import (
    EvaluationResults,
    JsonRecord,
    SetNumbers,
    StageCost,
    SubjectNumbers,
    TaskScore,
    TextPerplexity,
)
from vectomy.core.run_folder import read_json, write_json, write_whole
from vectomy.core.settings_change import RunSettings
from vectomy.core.versions import versions
from vectomy.data.prompts import Prompt
from vectomy.metrics.gates import Gate, check_gates
from vectomy.metrics.judges import Judge, describe, measured_errors
from vectomy.metrics.lm_eval.capability import in_rows
from vectomy.metrics.lm_eval.harness import HarnessTask, TaskScores
from vectomy.metrics.prompt_set import PromptSet, sample
from vectomy.metrics.surroundings import after_an_exchange, behind_text
from vectomy.metrics.tool_calls import tool_prompts
from vectomy.models import ChatModel, check_lengths, check_prompts
from vectomy.report import render_evaluation
from vectomy.workflows.evaluate.evaluation_results import (
    SetResult,
    list_completions,
    summarise_context,
    summarise_set,
    summarise_tool_calls,
)
from vectomy.workflows.evaluate.evaluation_settings import LISTS, make_settings, parse_earlier_settings
from vectomy.workflows.evaluate.measurements import SubjectMeasurer
from vectomy.workflows.evaluate.model_cache import ModelCache, slot
from vectomy.workflows.evaluate.pace import Pace
from vectomy.workflows.evaluate.subjects import Subject
from vectomy.workflows.larger_than_memory import explain_too_large
from vectomy.workflows.preflight import Check, check_ready
from vectomy.workflows.stages import Workflow

__all__ = ["EvaluationWorkflow", "find_missing_packages"]

# Prompts that are asked again after an earlier exchange, and after a long text. The latter take the
# time of all its tokens.
MULTI_TURN_PROMPTS, CONTEXT_PROMPTS = 50, 16
# What takes logits, of a model on a server.
NOT_MEASURED = dict.fromkeys(("kl_first_token", "kl_per_token", "kl_per_token_stderr", "ce_own_answers"))
# A tool call is a JSON object, which is not valid when it is cut off.
TOOL_TOKENS = 96


@dataclass(kw_only=True)
class EvaluationWorkflow(Workflow):
    """One evaluation at work. A cache keeps single measurements, where a run keeps stages: one more
    subject costs only itself.
    """

    config: EvaluationConfig
    judge: Judge
    sets: Sequence[PromptSet]
    texts: Mapping[str, str]
    tasks: Sequence[HarnessTask]
    subjects: Sequence[Subject]
    gates: Sequence[Gate] = ()
    loaded: Mapping[Path, ChatModel] = field(default_factory=dict)
    """Models that the caller has in memory, by their folder."""
    answers: dict[str, dict[str, SetResult]] = field(default_factory=dict)
    scores: dict[str, dict[str, TaskScores]] = field(default_factory=dict)

    @cached_property
    def source(self) -> Path:
        return self.subjects[0].path

    @cached_property
    def by_name(self) -> dict[str, Subject]:
        return {subject.name: subject for subject in self.subjects}

    @cached_property
    def models(self) -> ModelCache:
        return ModelCache(self.runtime, self.subjects, self.loaded)

    @cached_property
    def cache(self) -> Cache:
        return Cache(self.folder.file("cache"))

    @cached_property
    def pace(self) -> Pace:
        return Pace(self.progress, self.log)

    @cached_property
    def measurer(self) -> SubjectMeasurer:
        return SubjectMeasurer(
            self.config, self.models, self.cache, self.judge, self.sets, self.pace, self.subjects
        )

    @cached_property
    def settings(self) -> RunSettings:
        engine = self.measurer.answers.name_engine()
        return make_settings(
            self.config, self.judge, self.subjects, self.sets, self.texts, self.tasks, engine
        )

    def stored_settings(self) -> RunSettings | None:
        """Also those of a version that wrote no settings.json."""
        file = self.folder.file("evaluation.json")
        if (stored := super().stored_settings()) or not file.is_file():
            return stored
        return parse_earlier_settings(read_json(file))

    def list_checks(self) -> Sequence[Check[Self]]:
        return (*super().list_checks(), find_missing_packages, find_too_large)

    def evaluate(self) -> JsonObject:
        """Measure every subject and write the results."""
        # Misspelt names in gates are an error now, not after hours.
        check_gates(self.gates, EvaluationResults.from_json(self._named()))
        check_ready(self, self.list_checks())
        self.measurer.answers.check([subject for subject, _ in self._list_unanswered()])
        current_ranks().on_first(self._prepare_evaluation)
        self._check_prompts()
        self._log_work()
        # Now, while the base is loaded.
        self.measurer.describe_setup(self.subjects[0])
        results: dict[str, SubjectNumbers] = {}
        costs: dict[str, StageCost] = {}
        with closing(self.measurer.answers):
            self._measure_all(results, costs)
        self.models.free()
        names = [subject.name for subject in self.subjects]
        measured = EvaluationResults.from_json(
            {
                **self._about(),
                "seconds": {
                    name: round(spent, 1) for name in names if (spent := costs[name].seconds) is not None
                },
                "costs": {name: costs[name].to_json() for name in names},
                "results": {name: results[name] for name in names},
            }
        )
        checked = check_gates(self.gates, measured)
        evaluation = (
            measured.model_copy(update={"gates": tuple(checked)}) if checked else measured
        ).to_json()
        answered = list_completions(self.sets, {name: self.answers[name] for name in names})
        rows = [row.to_json() for row in answered]
        current_ranks().on_first(partial(self._write, evaluation, rows))
        return evaluation

    def _measure_all(self, results: dict[str, SubjectNumbers], costs: dict[str, StageCost]) -> None:
        for number, subject in enumerate(self._in_order(), 1):
            self.log(f"{number} of {len(self.subjects)}: {subject.name}")
            self.cache.start()
            results[subject.name] = self._measure(subject)
            costs[subject.name] = self.cache.cost

    def _prepare_evaluation(self) -> None:
        stored = self.stored_settings()
        changed = "the evaluation" if stored and self.settings.list_differences(stored) else None
        finished = self.folder.file("evaluation.json").exists()
        self.protect_finished(changed, finished=finished, until="evaluation")

    def _write(self, evaluation: JsonObject, rows: Sequence[JsonObject]) -> None:
        write_jsonl(self.folder.file("completions.jsonl"), rows)
        write_json(self.folder.file("evaluation.json"), evaluation)
        with write_whole(self.folder.file("report.html")) as path:
            path.write_text(render_evaluation(evaluation, rows), encoding="utf-8", newline="\n")

    def _check_prompts(self) -> None:
        """Check all prompts of all measures, with each model's template."""
        c = self.config
        prompts = [prompt for prompt_set in self.sets for prompt in prompt_set.prompts]
        if c.multi_turn:
            prompts += [after_an_exchange(prompt) for prompt in self._sample(MULTI_TURN_PROMPTS)]
        checked: set[Path] = set()
        for subject in self.subjects:
            if subject.kind not in ("base", "model") or subject.path in checked:
                continue
            checked.add(subject.path)
            chat = check_prompts(
                subject.path, prompts, c.answer_tokens, runtime=self.runtime, name=subject.name, log=self.log
            )
            if c.context_tokens:
                behind_text(chat, self._sample(CONTEXT_PROMPTS), c.context_tokens, c.answer_tokens)
            if c.tool_calls:
                tools = [item.prompt for item in tool_prompts()]
                tokens, remedy = chat.tokens(tools), "or measure no tool calls (--no-tool-calls)"
                check_lengths(chat, tools, tokens, TOOL_TOKENS, self.log, remedy=remedy, fixed=True)

    def _in_order(self) -> list[Subject]:
        """Subjects that share weights follow one another, after the model that they are compared
        with.
        """
        slots = list(dict.fromkeys(slot(subject) for subject in self.subjects))
        return sorted(
            self.subjects, key=lambda item: (slots.index(slot(item)), item.kind not in ("base", "model"))
        )

    def _measure(self, subject: Subject) -> SubjectNumbers:
        baseline = self.by_name[subject.baseline] if subject.baseline is not None else subject
        baseline_results = self.answers.get(baseline.name)
        if baseline_results is not None:
            answered = {name: stored.answered.tokens for name, stored in baseline_results.items()}
            self.measurer.run_baseline_first(subject, baseline, answered)
        results = self.answers[subject.name] = {
            prompt_set.name: self._answer_set(subject, prompt_set) for prompt_set in self.sets
        }
        numbers: dict[str, SetNumbers] = {}
        for prompt_set in self.sets:
            baseline_result = baseline_results[prompt_set.name] if baseline_results is not None else None
            asked = (baseline_result or results[prompt_set.name]).answered.tokens
            damaged = (
                self.measurer.measure_divergence(subject, baseline, prompt_set, asked)
                if subject.has_weights
                else NOT_MEASURED
            )
            numbers[prompt_set.name] = summarise_set(
                prompt_set,
                results[prompt_set.name],
                baseline_result,
                damaged,
                measured_errors(self.judge.name),
                same_tokens=damaged is not None,
            )
        if subject.kind == "noise":
            return SubjectNumbers(sets=numbers)
        for prompt_set in self.sets:
            plain = self.measurer.refuse_without_thinking(
                subject, prompt_set.prompts, f"{prompt_set.name} without thinking"
            )
            if plain is not None:
                update = {"refusal_without_thinking": plain}
                numbers[prompt_set.name] = numbers[prompt_set.name].model_copy(update=update)
        return self._measure_beyond_sets(subject).model_copy(update={"sets": numbers})

    def _answer_set(self, subject: Subject, prompt_set: PromptSet) -> SetResult:
        rows = self._rows(subject, prompt_set)
        c = self.config
        prompts = [prompt_set.rows[row].prompt for row in rows]
        answered = self.measurer.answer(
            subject, prompts, prompt_set.name, tokens=c.answer_tokens, budgets=c.all_budgets
        )
        return SetResult(rows, answered)

    def _rows(self, subject: Subject, prompt_set: PromptSet) -> list[int]:
        """All prompts of a set; a sample where only the noise between batches is measured."""
        return (
            self.measurer.sample_rows(prompt_set)
            if subject.kind == "noise"
            else list(range(len(prompt_set.rows)))
        )

    def _measure_beyond_sets(self, subject: Subject) -> SubjectNumbers:
        c, ask = self.config, self.measurer.answer
        result: dict[str, JsonRecord | dict[str, JsonRecord]] = {}
        if self.texts:
            result["perplexity"] = {
                name: self.measurer.measure_perplexity(subject, text)
                if subject.has_weights
                else TextPerplexity(nats_per_token=None, perplexity=None, tokens=None)
                for name, text in self.texts.items()
            }
        if c.multi_turn:
            prompts = [after_an_exchange(prompt) for prompt in self._sample(MULTI_TURN_PROMPTS)]
            result["multi_turn"] = summarise_context(
                ask(subject, prompts, "second turns", tokens=c.answer_tokens)
            )
        if c.context_tokens:
            prompts = self._sample(CONTEXT_PROMPTS)
            answered = ask(
                subject, prompts, "long contexts", tokens=c.answer_tokens, context=c.context_tokens
            )
            result["long_context"] = summarise_context(answered, c.context_tokens)
        if c.tool_calls:
            tools = tool_prompts()
            answered = ask(subject, [item.prompt for item in tools], "tool calls", tokens=TOOL_TOKENS)
            result["tool_calls"] = summarise_tool_calls(tools, answered)
        if self.tasks and subject.has_weights:
            results = {task.name: self.measurer.score_task(subject, task) for task in self.tasks}
            self.scores[subject.name] = results
            rows = in_rows(
                self.tasks, results, None if subject.baseline is None else self.scores[subject.baseline]
            )
            result["capability"] = {row: TaskScore.from_json(item.to_json()) for row, item in rows.items()}
        return SubjectNumbers.from_json(result)

    def _sample(self, count: int) -> list[Prompt]:
        prompts = [prompt for prompt_set in self.sets for prompt in prompt_set.prompts]
        return [prompts[at] for at in sample(len(prompts), count, self.config.seed)]

    def _log_work(self) -> None:
        counts = {
            (subject.name, prompt_set.name): len(self._rows(subject, prompt_set))
            for subject in self.subjects
            for prompt_set in self.sets
        }
        unanswered = self._list_unanswered()
        missing = sum(counts[subject.name, prompt_set.name] for subject, prompt_set in unanswered)
        total = sum(counts.values())
        kept = f", {total - missing:,} of them kept from before" if missing < total else ""
        self.log(
            f"{len(self.subjects)} subjects ({', '.join(subject.name for subject in self.subjects)}) on "
            f"{sum(len(prompt_set.rows) for prompt_set in self.sets):,} prompts of {len(self.sets)} sets: "
            f"{total:,} answers of up to {self.config.answer_tokens} tokens{kept}; judge {self.judge.name} "
            f"{self.judge.version}"
        )
        self._count_left(unanswered)
        if self.tasks:
            self._log_tasks()

    def _list_unanswered(self) -> list[tuple[Subject, PromptSet]]:
        return [
            (subject, prompt_set)
            for subject in self.subjects
            for prompt_set in self.sets
            if self.measurer.answers.are_missing(
                subject, [prompt_set.rows[row].prompt for row in self._rows(subject, prompt_set)]
            )
        ]

    def _count_left(self, unanswered: Sequence[tuple[Subject, PromptSet]]) -> None:
        """Tell the pace how much work there is, by its kinds: what is measured beside the answers
        may take longer than they do.
        """
        c, left = self.config, self.pace.left
        for subject, prompt_set in unanswered:
            left["answers"] += len(self._rows(subject, prompt_set)) * c.answer_tokens
            left["damage"] += (
                subject.has_weights * len(self.measurer.sample_rows(prompt_set)) * c.answer_tokens
            )
        prompts = sum(len(prompt_set.rows) for prompt_set in self.sets)
        measured = {subject.name: subject for subject, _ in unanswered if subject.kind != "noise"}
        for subject in measured.values():
            left["perplexity"] += subject.has_weights * len(self.texts) * c.text_tokens
            beside = min(prompts, MULTI_TURN_PROMPTS) * c.multi_turn
            beside += min(prompts, CONTEXT_PROMPTS) * bool(c.context_tokens)
            left["answers"] += beside * c.answer_tokens + c.tool_calls * len(tool_prompts()) * TOOL_TOKENS
            left["capability"] += sum(
                task.requests
                for task in self.tasks
                if subject.has_weights and self.measurer.needs_scores(subject, task)
            )

    def _log_tasks(self) -> None:
        subjects = [item for item in self.subjects if item.kind != "noise" and item.has_weights]
        runs = [self.measurer.needs_scores(subject, task) for subject in subjects for task in self.tasks]
        kept = f", {len(runs) - sum(runs):,} of them kept from before" if not all(runs) else ""
        self.log(
            f"{len(subjects)} subjects on {sum(task.documents for task in self.tasks):,} documents of "
            f"{len(self.tasks)} tasks ({', '.join(dict.fromkeys(task.row for task in self.tasks))}): "
            f"{len(runs):,} runs of a task{kept}"
        )

    def _about(self) -> JsonObject:
        c = self.config
        return {
            "format": "vectomy-evaluation",
            "version": 1,
            "behaviour": "refusal",
            "command": self.command,
            "base": self.subjects[0].name,
            "judge": describe(self.judge),
            "settings": {
                **c.model_dump(
                    mode="json",
                    exclude={*LISTS, "gates", "requests", "reply_seconds"},
                ),
                "engine": self.measurer.answers.name_engine(),
                "budgets": c.all_budgets,
                "tasks": list(dict.fromkeys(task.row for task in self.tasks)),
                **self.measurer.describe_setup(self.subjects[0]),
            },
            "versions": {**versions(), **({"lm_eval": version("lm_eval")} if self.tasks else {})},
            **self._named(),
        }

    def _named(self) -> JsonObject:
        """The subjects and sets, known before anything is measured."""
        return {
            "subjects": [subject.to_json() for subject in self.subjects],
            "sets": [prompt_set.to_json() for prompt_set in self.sets],
        }


def find_missing_packages(work: EvaluationWorkflow) -> str | None:
    """Adapters are loaded, and vLLM is started, when their turn comes; that they can be is checked
    before.
    """
    adapters = any(subject.kind == "adapter" for subject in work.subjects)
    return (describe_missing("measuring an adapter", "peft") if adapters else None) or (
        describe_missing("--engine vllm", "vllm") if work.config.engine == "vllm" else None
    )


def find_too_large(work: EvaluationWorkflow) -> str | None:
    """A model whose weights do not fit into what is free, before any is read."""
    paths = dict.fromkeys(subject.path for subject in work.subjects if subject.kind in ("base", "model"))
    reasons = (explain_too_large(Checkpoint.open(path), work.runtime) for path in paths)
    return next((reason for reason in reasons if reason), None)
