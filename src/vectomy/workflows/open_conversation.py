"""A conversation with what a person names: a run, an Edit, or an adapter."""

from __future__ import annotations

from pathlib import Path

from vectomy.core.config import LoadIn, Runtime
from vectomy.core.errors import UsageError
from vectomy.core.packages import describe_missing
from vectomy.core.progress import Progress, silent
from vectomy.models import load_model, missing_quantiser, with_adapter
from vectomy.workflows.conversation import Conversation
from vectomy.workflows.named_model import (
    adapter_base,
    base_named_by,
    is_foreign_adapter,
    kind_of,
    open_base,
    open_edit,
)
from vectomy.workflows.preflight import refuse
from vectomy.workflows.run_points import RunPoints, open_point, read_points
from vectomy.workflows.trait_config import read_run_config

__all__ = ["open_conversation"]


def open_conversation(
    name: str,
    base: str | None = None,
    *,
    point: str | None = None,
    load_in: LoadIn | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> tuple[Conversation, RunPoints | None]:
    """The conversation with the live base, and the points of a finished run.

    A run's own settings load its model; its right to run code does not count here.

    Args:
        name: a run, an Edit, or whatever holds one; or an adapter of PEFT.
        base: the unedited model, where `name` does not name it.
        point: the name of one of the run's points; its rule's if not given.

    Raises:
        UsageError: the base is not known, or a point of something that is no finished run.
        VectomyError: something cannot be opened.
    """
    folder, is_run = Path(name).expanduser(), kind_of(name) == "run"
    foreign = is_foreign_adapter(name)
    refuse(missing_quantiser(load_in), describe_missing("loading an adapter", "peft") if foreign else None)
    edit = None if foreign else open_edit(name)
    points = read_points(name) if is_run and (folder / "summary.json").is_file() else None
    if point is not None and points is None:
        raise UsageError(f"--point is of a finished run; {name} is {_with_article(kind_of(name))}")
    taken = None if points is None else points.chosen if point is None else points.find(point)
    if points is not None and taken is not None and point is not None:
        edit = open_point(points.folder, taken)
    model = base or (adapter_base(name) if foreign else base_named_by(name))
    if model is None:
        made_for = "an unnamed model" if edit is None else str(edit.base)
        raise UsageError(
            f"{name} was made for {made_for}, which is not at hand; give that model with --base MODEL"
        )
    runtime = read_run_config(folder).runtime if is_run else Runtime()
    if device is not None:
        runtime = runtime.model_copy(update={"device": device})
    opened = open_base(model, progress, trust_remote_code=trust_remote_code)
    chat = load_model(
        opened, runtime=runtime, trust_remote_code=trust_remote_code, load_in=load_in, name=model
    )
    if edit is None:
        chat = with_adapter(chat, folder)
    else:
        edit.check_base(chat.checkpoint)
    return Conversation(chat, edit, point=taken.name if taken else None), points


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
