"""`vectomy reproduce`: rebuild a published edit from its base, and compare the two."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vectomy.checkpoint import Checkpoint, fingerprint
from vectomy.comparison.folders import FileDifference, against_hashes, compare_files, compare_tensors
from vectomy.core.arguments import require_path
from vectomy.core.errors import UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.output_path import check_new_folder
from vectomy.core.progress import Progress, automatic
from vectomy.core.versions import versions
from vectomy.edits.export import bake, write_lora
from vectomy.hub import is_repo_id
from vectomy.hub.provenance import Form, record_in
from vectomy.hub.published_edit import PublishedEdit, published_edit_of
from vectomy.models import fetch, probe_architecture
from vectomy.models.demo import is_demo, model_folder
from vectomy.workflows.repeat_search import search_again

__all__ = ["Reproduction", "reproduce"]


@dataclass(frozen=True, repr=False)
class Reproduction:
    """The result. `compared` counts tensors, `against` says with what they were compared;
    `versions` are those that differ, as (recorded, here).
    """

    what: str
    form: Form
    base: str
    edit_sha256: str
    against: str
    compared: int
    differences: tuple[FileDifference, ...]
    versions: dict[str, tuple[str, str]]
    notes: tuple[str, ...] = ()
    searched: bool = False

    def __repr__(self) -> str:
        found = "MATCH" if self.matches else f"DIFFERS in {len(self.differences)} places"
        return f"<Reproduction of {self.what:.80}: {found}, {self.compared} tensors compared>"

    @property
    def matches(self) -> bool:
        """Whether nothing differs."""
        return not self.differences

    def to_json(self) -> JsonObject:
        """The values that `vectomy reproduce --json` prints."""
        return {**asdict(self), "matches": self.matches}


def reproduce(
    what: str | Path,
    *,
    base: str | None = None,
    against: str | Path | None = None,
    revision: str | None = None,
    from_scratch: bool = False,
    prompts: str | Path | None = None,
    out: str | Path | None = None,
    trust_remote_code: bool = False,
    progress: Progress = automatic,
) -> Reproduction:
    """Rebuild an edited checkpoint or adapter from its base, and compare it with the published one.

    Args:
        what: a card, an Edit, a folder or OWNER/NAME (hub/published_edit.py).
        base: the base, where its recorded name is not available.
        against: a checkpoint or adapter folder to compare with, instead of the one in `what`.
        revision: branch or commit of the repository.
        from_scratch: repeat the search too, and compare its Edit.
        prompts: a folder with the prompt files of the search, for `from_scratch`.
        out: a new folder for the rebuilt model; None: it is deleted.
        trust_remote_code: run Python code that the base contains; what was recorded does not count.

    Raises:
        UsageError: nothing to compare with, or no base.
        HubError, CheckpointError, EditError, ...: an input cannot be read.
    """
    require_path(what, "what to reproduce")
    if out is not None:
        check_new_folder(out)
    claim = published_edit_of(str(what), revision)
    if against is not None:
        claim = _compare_with(claim, Path(against))
    source = _base_of(claim, base, progress)
    probe_architecture(source, trust_remote_code=trust_remote_code, progress=progress)
    opened = Checkpoint.open(source)
    result = Reproduction(
        what=claim.what,
        form=claim.form,
        base=base or claim.base or str(claim.edit.base),
        edit_sha256=claim.edit.sha256,
        against="",
        compared=0,
        differences=tuple(FileDifference("record", "", text) for text in claim.contradictions),
        versions=_list_version_changes(claim),
    )
    weights = fingerprint(opened)
    if weights != claim.edit.base.fingerprint:
        made_for = claim.edit.base.fingerprint[:12]
        text = f"has weights {weights[:12]}, the Edit was made for {made_for}; nothing was rebuilt"
        return replace(
            result,
            against="nothing",
            differences=(*result.differences, FileDifference("base", result.base, text)),
        )
    if claim.published is None and not (claim.record and claim.record.tensors):
        raise UsageError(
            f"'{what}' records no weights to compare with; name a checkpoint or adapter folder that is said "
            "to carry the Edit: --against DIR"
        )
    with _open_place(out) as folder:
        if claim.form == "adapter":
            write_lora(claim.edit, opened, folder, progress=progress)
        else:
            bake(claim.edit, opened, folder, progress=progress)
        result = _compare_rebuilt(result, claim, folder, progress)
    if not from_scratch:
        return result
    return _repeat_search(result, claim, source, prompts, trust_remote_code, progress)


def _compare_with(claim: PublishedEdit, folder: Path) -> PublishedEdit:
    if not folder.is_dir():
        raise UsageError(f"--against takes a checkpoint or adapter folder; {folder} is none")
    form: Form = "adapter" if (folder / "adapter_config.json").exists() else "checkpoint"
    return replace(claim, form=form, published=folder, record=record_in(folder) or claim.record)


def _base_of(claim: PublishedEdit, given: str | None, progress: Progress) -> Path:
    named = given or claim.base
    if named is not None and is_demo(named):
        return model_folder(named, progress)
    if named is not None and (given is not None or is_repo_id(named)):
        return fetch(named, revision=claim.revision if given is None else None)
    known = f"'{named}'" if named else str(claim.edit.base)
    raise UsageError(
        f"the base was {known}, a folder on the machine that made the edit; say where it is here: --base "
        "MODEL"
    )


def _list_version_changes(claim: PublishedEdit) -> dict[str, tuple[str, str]]:
    """Versions that differ from the recorded ones."""
    here, recorded = versions(), dict(claim.record.versions) if claim.record else {}
    return {
        name: (str(then), here[name])
        for name, then in recorded.items()
        if name in here and here[name] != then
    }


@contextmanager
def _open_place(out: str | Path | None) -> Iterator[Path]:
    if out is not None:
        yield Path(out)
        return
    with tempfile.TemporaryDirectory(prefix="vectomy-reproduce-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "rebuilt"


def _compare_rebuilt(
    result: Reproduction, claim: PublishedEdit, rebuilt: Path, progress: Progress
) -> Reproduction:
    differences, notes = list(result.differences), list(result.notes)
    recorded = claim.record.tensors if claim.record and claim.record.form == claim.form else {}
    against, compared = "the recorded hashes", len(recorded)
    if claim.published is not None:
        against = "what was published"
        compared, tensors = compare_tensors(rebuilt, claim.published, claim.form, progress)
        files, more = compare_files(rebuilt, claim.published, claim.form)
        differences += [*tensors, *files]
        if more:
            notes.append(
                "published beside it, and no part of the edit: "
                f"{', '.join(more[:6])}{' …' if len(more) > 6 else ''}"
            )
    if recorded:
        named = {difference.name for difference in differences}
        differences += [
            d for d in against_hashes(rebuilt, claim.form, recorded, progress) if d.name not in named
        ]
        against += "" if claim.published is None else " and the recorded hashes"
    return replace(
        result, against=against, compared=compared, differences=tuple(differences), notes=tuple(notes)
    )


def _repeat_search(
    result: Reproduction,
    claim: PublishedEdit,
    source: Path,
    prompts: str | Path | None,
    trust_remote_code: bool,
    progress: Progress,
) -> Reproduction:
    base = "demo" if result.base == "demo" else str(source)
    with tempfile.TemporaryDirectory(prefix="vectomy-search-", ignore_cleanup_errors=True) as folder:
        again = search_again(
            claim.run or {},
            claim.edit,
            base,
            Path(folder) / "run",
            prompts=None if prompts is None else Path(prompts),
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    return replace(result, searched=True, differences=(*result.differences, *again.differences))
