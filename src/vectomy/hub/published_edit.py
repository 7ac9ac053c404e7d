"""The Edit that a card, an Edit file, a folder or a repository claims to carry, its base, and the
folder or hashes to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vectomy.checkpoint.index import RECORDS
from vectomy.core.errors import UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import MARK, hash_of, read_json
from vectomy.core.suggestions import suggest_path
from vectomy.edits.edit import Edit
from vectomy.hub import download, frontmatter, is_repo_id
from vectomy.hub.provenance import Form, Record, edit_in, record_in

__all__ = ["PublishedEdit", "published_edit_of"]


@dataclass(frozen=True)
class PublishedEdit:
    """`published` is the checkpoint or adapter folder to compare with, None if only hashes were
    recorded; `run` holds the inputs of the search (`config`, and the hashes of its `prompts`);
    `contradictions` are the places where card, record and Edit disagree.
    """

    what: str
    edit: Edit
    form: Form
    record: Record | None
    published: Path | None
    run: dict[str, Any] | None
    contradictions: tuple[str, ...] = ()

    @property
    def base(self) -> str | None:
        """The name of the base: a Hub id, `demo`, or the name of a folder."""
        named = self.record.base.get("model") if self.record else None
        named = named or ((self.run or {}).get("config") or {}).get("model") or self.edit.base.name
        return str(named) if named else None

    @property
    def revision(self) -> str | None:
        revision = self.record.base.get("revision") if self.record else None
        return revision if isinstance(revision, str) else None


def published_edit_of(what: str, revision: str | None = None) -> PublishedEdit:
    """Read the Edit, the record and the run that `what` names.

    Args:
        what: a card (.md), an Edit file, a folder (a run, a checkpoint, an adapter, a published
            repository), OWNER/NAME or OWNER/NAME@REVISION.
        revision: branch or commit of a repository, where `what` names none.

    Raises:
        UsageError: `what` is none of these, or does not name its Edit.
        HubError: the repository does not exist, is not accessible, or the Hub cannot be reached.
        EditError, ArtifactError: the Edit or the record is damaged.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        return _read_folder(path, what)
    if path.suffix == ".md" and path.is_file():
        return _read_card_file(path, what)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path} is neither a card nor an Edit; for a GGUF file or weights, give the Edit or the "
                "repository"
            )
        return _read_edit_file(path, what)
    name, own = split_revision(what)
    if is_repo_id(name):
        return _read_folder(download(name, own or revision), what)
    raise UsageError(
        f"'{what}' is not a file or folder{suggest_path(what)}, and not a repository name (OWNER/NAME)"
    )


def _read_folder(folder: Path, what: str) -> PublishedEdit:
    if (folder / MARK).exists():
        return _read_run(folder, what)
    edit, record = edit_in(folder), record_in(folder)
    if edit is None:
        raise UsageError(
            f"'{what}' does not name its Edit (no {RECORDS}/edit.safetensors and no edit.safetensors); give "
            "the Edit itself"
        )
    weights = [name for name in ("adapter_config.json", "config.json") if (folder / name).is_file()]
    form: Form = (
        "adapter" if weights[:1] == ["adapter_config.json"] else record.form if record else "checkpoint"
    )
    file = folder / RECORDS / "run.json"
    run = read_json(file) if file.is_file() else None
    if run is None and (folder.absolute().parent / MARK).exists():
        run = _run_inputs(folder.absolute().parent)
    card = folder / "README.md"
    contradictions = [
        *_record_contradictions(edit, record),
        *(_card_contradictions(edit, _card_entry(card)) if card.is_file() else []),
    ]
    return PublishedEdit(what, edit, form, record, folder if weights else None, run, tuple(contradictions))


def _read_run(folder: Path, what: str) -> PublishedEdit:
    if not (folder / "edit.safetensors").is_file():
        raise UsageError(f"the run in {folder} has found no Edit yet; finish it first")
    edit = Edit.load(folder / "edit.safetensors")
    places: list[tuple[Form, Path]] = [("checkpoint", folder / "checkpoint"), ("adapter", folder / "adapter")]
    form, place = next((item for item in places if item[1].is_dir()), places[0])
    exists = place.is_dir()
    record = record_in(place) if exists else None
    contradictions = tuple(_record_contradictions(edit, record))
    return PublishedEdit(
        what, edit, form, record, place if exists else None, _run_inputs(folder), contradictions
    )


def _run_inputs(folder: Path) -> JsonObject | None:
    if not (folder / "config.json").is_file() or not (folder / "prompts.json").is_file():
        return None
    prompts = read_json(folder / "prompts.json")
    return {
        "config": read_json(folder / "config.json"),
        "prompts": {side: hash_of(splits) for side, splits in prompts.items()},
    }


def _read_edit_file(path: Path, what: str) -> PublishedEdit:
    edit, folder = Edit.load(path), path.absolute().parent
    folder = folder.parent if folder.name == RECORDS else folder
    neighbour = edit_in(folder)
    if neighbour is not None and neighbour.sha256 == edit.sha256:
        return _read_folder(folder, what)
    return PublishedEdit(what, edit, "checkpoint", None, None, None)


def _read_card_file(path: Path, what: str) -> PublishedEdit:
    head, folder = _card_entry(path), path.absolute().parent
    if edit_in(folder) is not None:
        published = _read_folder(folder, what)
    elif isinstance(head.get("repository"), str):
        published = _read_folder(download(head["repository"]), what)
    else:
        raise UsageError(
            f"{path} names no repository (`vectomy: repository:` in its front matter), and there is no Edit "
            "next to it; give the Edit"
        )
    contradictions = [*published.contradictions, *_card_contradictions(published.edit, head)]
    return replace(published, contradictions=tuple(dict.fromkeys(contradictions)))


def _card_entry(card: Path) -> dict[str, Any]:
    """The entry `vectomy` of a card's front matter."""
    entry = frontmatter(card).get("vectomy")
    return entry if isinstance(entry, dict) else {}


def _record_contradictions(edit: Edit, record: Record | None) -> list[str]:
    if record is None or record.edit_sha256 == edit.sha256:
        return []
    recorded, actual = record.edit_sha256[:12], edit.sha256[:12]
    return [f"the record names the Edit {recorded}, but the Edit in the folder is {actual}"]


def _card_contradictions(edit: Edit, head: dict[str, Any]) -> list[str]:
    actual = {"edit_sha256": edit.sha256, "base_fingerprint": edit.base.fingerprint}
    names = {"edit_sha256": "the Edit", "base_fingerprint": "the base weights"}
    return [
        f"the card names {names[key]} {str(head[key])[:12]}, but the Edit in the folder has {value[:12]}"
        for key, value in actual.items()
        if key in head and head[key] != value
    ]
