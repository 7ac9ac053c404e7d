"""The driver of every command that works in a run folder: stages as values, and one `Workflow`.

A workflow opens its model folder once, loads the model when a stage first needs it, and runs its
stages in order. A stage whose inputs have not changed is not run again; a killed one continues from
its journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from vectomy.architecture import check_covered
from vectomy.checkpoint import Checkpoint, architecture_in, fingerprint, sidecar_digest
from vectomy.core.config import Runtime
from vectomy.core.errors import FinishedRunError, ModelError
from vectomy.core.freed_memory import return_freed_memory
from vectomy.core.progress import Log, Progress, duration, ignore, silent
from vectomy.core.ranks import current_ranks
from vectomy.core.run_folder import RunFolder
from vectomy.core.settings_change import RunSettings
from vectomy.core.threads import use_threads
from vectomy.data.prompts import Prompt
from vectomy.models import ChatModel, check_prompts, load_model, probe_architecture
from vectomy.models.demo import model_folder
from vectomy.workflows.preflight import Check, check_ready
from vectomy.workflows.run_pace import RunPace

__all__ = ["Log", "Stage", "Workflow", "ignore"]

AnyWorkflow = TypeVar("AnyWorkflow", bound="Workflow")
# A stage of every run is a stage of each special run, too.
StagedWorkflow = TypeVar("StagedWorkflow", bound="Workflow", contravariant=True)


@dataclass(frozen=True)
class Stage(Generic[StagedWorkflow]):
    """One stage of a workflow.

    `needs` is all that the stage depends on besides the stages before it, as JSON; `writes` are the
    files and folders that it leaves in the run folder; `run` does the work.

    Of several ranks, all run a stage that is `shared`; others are run by rank 0 alone.
    """

    name: str
    needs: Any
    writes: Sequence[str]
    run: Callable[[StagedWorkflow], None]
    shared: bool = False


@dataclass(kw_only=True)
class Workflow:
    """One command at work: a model, how it is run, and its run folder."""

    model: str
    runtime: Runtime
    folder: RunFolder
    command: str = ""
    progress: Progress = silent
    log: Log = ignore
    overwrite: bool = False
    """Whether finished results of other settings may be replaced."""
    _chat: ChatModel | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # Before the first stage: not every stage loads a model, and all round alike.
        use_threads(self.runtime.threads)

    @cached_property
    def source(self) -> Path:
        """The folder of the model, downloaded or unpacked when first asked for."""
        return model_folder(self.model, self.progress)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.source)

    @property
    def chat(self) -> ChatModel:
        """The live model, loaded when first asked for."""
        if self._chat is None:
            self._chat = self.load(self.source, self.model)
        return self._chat

    def load(self, path: Path, name: str) -> ChatModel:
        return load_model(path, runtime=self.runtime, name=name)

    def free(self) -> None:
        """Give the memory of the live model back."""
        self._chat = None
        return_freed_memory()

    def check_architecture(self) -> None:
        """Raises ArchitectureError: the model is not known, or an edit would miss a writer."""
        probe_architecture(
            self.source, trust_remote_code=self.runtime.trust_remote_code, progress=self.progress
        )
        check_covered(architecture_in(self.checkpoint))

    def check_prompts(self, prompts: Sequence[Prompt], answer_tokens: int) -> ChatModel:
        """Check that prompts reach the model whole and leave room for answers (prompt_checks.py).

        Returns:
            The model without weights.

        Raises:
            ModelError, PromptError: they do not.
        """
        return check_prompts(
            self.source, prompts, answer_tokens, runtime=self.runtime, name=self.model, log=self.log
        )

    def model_digest(self) -> list[str]:
        """Hashes of the weights and of the files beside them."""
        return [fingerprint(self.checkpoint), sidecar_digest(self.checkpoint)]

    def list_checks(self) -> Sequence[Check[Self]]:
        """What is checked before the first stage; a subclass adds its own to these."""
        return ()

    @cached_property
    def settings(self) -> RunSettings:
        """What the results depend on, by names that a person knows."""
        return RunSettings({})

    def stored_settings(self) -> RunSettings | None:
        """The settings of the last command in this folder."""
        return self.folder.read_settings()

    def protect_finished(self, changed: str | None, *, finished: bool, until: str) -> None:
        """Called before anything in the folder is changed.

        Args:
            changed: what would be made anew because of other settings; absent: nothing.
            finished: whether the folder holds finished results.
            until: the last stage of this command.

        Raises:
            FinishedRunError: finished results of other settings would be replaced.
        """
        if changed is not None:
            stored = self.stored_settings()
            differences = self.settings.list_differences(stored) if stored else []
            text = "; ".join(differences) or f"the inputs of {changed}"
            if finished and not self.overwrite:
                raise FinishedRunError(self.folder.path, text)
            kind = "finished" if finished else "unfinished"
            self.log(f"the {kind} results in {self.folder.path} are of other settings and replaced: {text}")
        self.folder.write_settings(self.settings, until)

    def write_inputs(self) -> None:
        """Record in the folder what the command works on. Called before the first stage."""

    def run_stages(
        self: AnyWorkflow, stages: Sequence[Stage[AnyWorkflow]], digest: str, until: str | None = None
    ) -> None:
        """Run the stages that have not been run with the same inputs.

        Args:
            digest: the hash of what all stages depend on. Each stage adds its own inputs and
                outputs to it, so that a change runs all later stages again.
            until: the last stage to run; absent: all.

        Raises:
            PreflightError: a check found a fault; no stage was run.
            FinishedRunError: finished results of other settings would be replaced.
            ModelError: ranks on other machines see other inputs.
        """
        check_ready(self, self.list_checks())
        ranks = current_ranks()
        digests = ranks.gather(digest)
        if len(set(digests)) > 1:
            other = next(rank for rank, own in enumerate(digests) if own != digests[0])
            raise ModelError(
                f"process {other} of this job has another model, other prompts or another version of vectomy "
                "than process 0; give all machines the same files"
            )
        names = [stage.name for stage in stages]
        asked = stages[: names.index(until) + 1] if until in names else stages
        ranks.on_first(partial(self._prepare_folder, stages, asked, digest))
        pace = RunPace(self.plan_seconds())
        for number, stage in enumerate(asked, 1):
            place = f"stage {number} of {len(asked)}: {stage.name}"
            work = partial(self._run_stage, stage, place, pace)
            digest = self.folder.stage(
                stage.name,
                digest,
                stage.needs,
                list(stage.writes),
                work if stage.shared else partial(ranks.on_first, work),
            )
            if stage.name in self.folder.reused:
                self.log(f"{stage.name}: done before with the same inputs, not run again")
            pace.end(stage.name)
        self.free()

    def plan_seconds(self) -> Mapping[str, float]:
        """What each stage takes, in a common unit; empty where it is not planned."""
        return {}

    def _run_stage(self: AnyWorkflow, stage: Stage[AnyWorkflow], place: str, pace: RunPace) -> None:
        seconds = pace.begin()
        self.log(place if seconds is None else f"{place}; some {duration(seconds)} to the end of the run")
        stage.run(self)

    def _prepare_folder(
        self: AnyWorkflow,
        stages: Sequence[Stage[AnyWorkflow]],
        asked: Sequence[Stage[AnyWorkflow]],
        digest: str,
    ) -> None:
        names = [stage.name for stage in stages]
        # The last stage only shows what the others found.
        working = [(stage.name, stage.needs) for stage in asked if stage is not stages[-1]]
        changed = self.folder.find_changed(working, digest)
        finished = self.folder.is_finished(names[-1])
        self.protect_finished(changed, finished=finished, until=asked[-1].name)
        if changed is not None:
            self.folder.forget(names[names.index(changed) :])
        self.write_inputs()
