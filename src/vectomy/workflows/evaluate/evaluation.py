"""`vectomy evaluate`: any number of models, Edits and adapters, measured on the same prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vectomy.checkpoint import Checkpoint
from vectomy.core.arguments import name_of, require_path
from vectomy.core.errors import ArtifactError, PromptError, UsageError
from vectomy.core.evaluation_config import EvaluationConfig, parse_evaluation
from vectomy.core.output_path import check_run_output
from vectomy.core.progress import Progress, automatic, silent, tell_in_notebook
from vectomy.core.results import EvaluationResults
from vectomy.core.run_folder import RunFolder, cache_folder
from vectomy.core.suggestions import suggest_path
from vectomy.core.text_file import read_text
from vectomy.edits.edit import Edit
from vectomy.metrics.gates import parse_gate
from vectomy.metrics.judges import open_judge
from vectomy.metrics.lm_eval.harness import load_tasks
from vectomy.metrics.prompt_set import read_sets
from vectomy.models import ChatModel, explain_divided, join_ranks
from vectomy.workflows.evaluate.evaluation_workflow import EvaluationWorkflow
from vectomy.workflows.evaluate.subjects import open_subjects, with_controls
from vectomy.workflows.needed_packages import list_missing_for_evaluation
from vectomy.workflows.preflight import refuse
from vectomy.workflows.stages import Log, ignore

__all__ = ["evaluate_models", "name_subject"]

SubjectSource = str | Path | ChatModel | Edit


def evaluate_models(
    subjects: SubjectSource | Sequence[SubjectSource] | EvaluationConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = automatic,
    log: Log = tell_in_notebook,
    **options: Any,
) -> EvaluationResults:
    """Measure all subjects on all prompt sets, and write the results into the folder `out`. Several
    processes of a launcher share the work; each of them has to call this.

    Measurements that `out` already has for the same inputs are not repeated: a killed evaluation
    resumes, and a new subject does not repeat the others.

    Args:
        subjects: models, Edits and adapters as on the command line, a `ChatModel` (measured as it
            is loaded; its weights have to be in a folder) or an `Edit`; or a whole configuration.
        overwrite: replace finished results of other settings in `out`.
        command: the command line, for the record.
        log: is called with lines for a person: the plan, and the subject being measured.
        options: other keys of `EvaluationConfig`: prompts, answer_tokens, limit, ...

    Returns:
        The values of evaluation.json, as fields and as keys.

    Raises:
        UsageError, ConfigError: an argument or option that is not known, or of another type.
        FinishedRunError: `out` holds finished results of other settings, or of subjects or sets
            that are left out now; nothing was changed.
        VectomyError: see core/errors.py; finished measurements stay.
    """
    require_path(out, "the folder `out`")
    loaded: dict[Path, ChatModel] = {}
    if isinstance(subjects, EvaluationConfig):
        config = subjects
    else:
        given = [subjects] if isinstance(subjects, str | Path | ChatModel | Edit) else subjects
        specs = [name_subject(subject, loaded) for subject in given]
        config = parse_evaluation({"subjects": tuple(specs), **options})
    refuse(*list_missing_for_evaluation(config), explain_divided(config.runtime))
    if not join_ranks(config.runtime.device, config.runtime.tensor_parallel).is_first:
        progress, log = silent, ignore
    out = Path(out)
    check_run_output(out)
    if (out / "stages").exists():
        raise ArtifactError(
            f"{out} is the folder of a `vectomy run`, which has an evaluation of its own; choose another "
            "--out"
        )
    gates = [parse_gate(text) for text in config.gates]
    judge = open_judge(config.judge)
    sets = read_sets(config.prompts, config.limit, config.seed, log)
    texts = _read_texts(config.texts)
    tasks = load_tasks(",".join(config.tasks), config.task_limit, progress=progress) if config.tasks else []
    opened = open_subjects(
        config.subjects, config.base, trust_remote_code=config.runtime.trust_remote_code, progress=progress
    )
    check_run_output(out, *(subject.path for subject in opened))
    if config.controls:
        opened = with_controls(opened, config.seed)
    with RunFolder(out) as folder:
        work = EvaluationWorkflow(
            model=opened[0].name,
            runtime=config.runtime,
            folder=folder,
            command=command,
            progress=progress,
            log=log,
            overwrite=overwrite,
            config=config,
            judge=judge,
            sets=sets,
            texts=texts,
            tasks=tasks,
            gates=gates,
            subjects=opened,
            loaded=loaded,
        )
        return EvaluationResults.from_json(work.evaluate())


def name_subject(subject: object, loaded: dict[Path, ChatModel]) -> str:
    """A subject as text. Adds a loaded model to `loaded`; an Edit is stored in the cache folder
    under its hash.

    Raises:
        UsageError: it is no subject.
        CheckpointError: the weights of the model are in no folder.
    """
    if isinstance(subject, str | Path):
        return str(subject)
    if isinstance(subject, ChatModel):
        path = Checkpoint.of(subject).path
        loaded[path] = subject
        return str(path)
    if isinstance(subject, Edit):
        file = cache_folder() / "edits" / f"edit-{subject.sha256[:12]}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        subject.save(file)
        return str(file)
    raise UsageError(
        f"a subject is {name_of(subject)}; give a model, Edit or adapter as text, a ChatModel or an Edit"
    )


def _read_texts(files: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for file in files:
        path = Path(file).expanduser()
        if path.name in texts:
            raise PromptError(f"two texts are called '{path.name}'; rename one")
        try:
            texts[path.name] = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = (
                "is not UTF-8 text"
                if isinstance(error, UnicodeDecodeError)
                else f"cannot be read: {error.strerror}"
            )
            raise PromptError(
                f"the text {file} {reason}{suggest_path(path)}; give a UTF-8 text file"
            ) from None
    return texts
