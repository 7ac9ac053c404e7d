"""The run of a trait at work: the same prompts in two contexts, and what the stages share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from vectomy.core.json_value import JsonObject
from vectomy.core.run_config import Contrast, Source
from vectomy.core.run_folder import read_json
from vectomy.core.tensor_file import read_tensors
from vectomy.data.splits import Splits, split_preserve
from vectomy.data.trait_context import in_context
from vectomy.data.trait_file import Trait, TraitContext
from vectomy.metrics.trait_scorers import Scorer, scorer_of
from vectomy.models import ChatModel
from vectomy.search.distill.closed_forms import Means
from vectomy.search.distill.distill_examples import good_answers
from vectomy.search.distill.trait_bench import TraitBench
from vectomy.workflows.run_workflow import RunWorkflow
from vectomy.workflows.trait_config import TraitRun

__all__ = ["SIDES", "DistillWorkflow"]

SIDES = ("positive", "negative")


@dataclass(kw_only=True)
class DistillWorkflow(RunWorkflow):
    """A run of a trait: the same prompts in two contexts."""

    config: TraitRun

    @cached_property
    def plain_splits(self) -> Splits:
        """The prompts without a context; fit, search and test share none."""
        contrast = self.config.contrast
        source = Source(prompts=self.config.trait.prompts.source)
        sizes = {name: getattr(contrast, name) for name in ("n_fit", "n_search", "n_test")}
        result = split_preserve(
            Contrast(positive=source, negative=source, keep=source, **sizes), self.config.seed, self.log
        )
        assert result is not None
        return result

    @cached_property
    def splits(self) -> tuple[Splits, Splits]:
        trait = self.config.trait
        return self._splits_in(trait.positive), self._splits_in(trait.negative)

    def _splits_in(self, context: TraitContext) -> Splits:
        return Splits(*(tuple(in_context(self.texts(split), context)) for split in ("fit", "search", "test")))

    @cached_property
    def keep(self) -> None:
        return None

    def texts(self, split: str) -> list[str]:
        return [prompt.text for prompt in getattr(self.plain_splits, split)]

    @property
    def contexts(self) -> tuple[TraitContext, TraitContext]:
        """(source, target): in the source context, the edited model is to answer as the base does
        in the target context.
        """
        trait = self.config.trait
        sides = (trait.negative, trait.positive)
        return sides if trait.operation == "induce" else sides[::-1]

    def own_answers(self, side: str, split: str) -> tuple[list[str], list[list[int]], list[str]]:
        """Prompts, answers as tokens and answers as texts, as the base gave them."""
        answers: list[list[int]] = read_json(self.folder.file("answers.json"))[side][split]
        return self.texts(split), answers, [self.chat.text(answer) for answer in answers]

    @property
    def writes_gguf(self) -> bool:
        """A GGUF file takes no added vectors."""
        return False

    @property
    def trait(self) -> Trait:
        return self.config.trait

    @property
    def described_judge(self) -> JsonObject:
        scorer = read_json(self.folder.file("baseline.json"))["scorer"]
        note = f"The trait is shown by {scorer['note']}"
        return {"name": scorer["name"], "version": None, "note": note, "agreement": None}

    @cached_property
    def scorer(self) -> Scorer:
        return scorer_of(
            self.chat,
            self.config.trait,
            self.own_answers("positive", "fit")[:2],
            self.own_answers("negative", "fit")[1],
            self.runtime.batch_tokens,
        )

    def bench(self, split: str, chat: ChatModel | None = None) -> TraitBench:
        """The prompts of a split, ready to be asked."""
        c = self.config
        return TraitBench(
            chat or self.chat,
            c.trait,
            self.scorer,
            self.texts(split),
            c.answer_tokens,
            c.runtime.batch_tokens,
            self.progress,
        )

    def good_fit_answers(self) -> dict[str, list[bool]]:
        """By side, which of the base's own fit answers are as their context says."""
        return {
            side: good_answers(*self.own_answers(side, "fit"), self.scorer, side == "positive")
            for side in SIDES
        }

    def means(self) -> Means:
        """The mean streams of the positive and of the negative context."""
        files = (self.folder.file(f"activations-{side}.safetensors") for side in SIDES)
        positive, negative = (read_tensors(file)[0]["resid_post"] for file in files)
        return positive, negative

    def free(self) -> None:
        super().free()
        # It may hold the model.
        self.__dict__.pop("scorer", None)
