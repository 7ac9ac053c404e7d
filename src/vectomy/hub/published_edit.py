"""What a card, an Edit, a folder or a repository says of itself: which Edit of which base it is,
and what there is to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vectomy.checkpoint.index import RECORDS
from vectomy.core.errors import UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import MARK, hash_of, read_json
from vectomy.edits.edit import Edit
from vectomy.hub import download, frontmatter, is_repo_id
from vectomy.hub.provenance import Form, Record, edit_in, record_in

__all__ = ["PublishedEdit", "published_edit_of"]


@dataclass(frozen=True)
class PublishedEdit:
    """`published` is the checkpoint or adapter folder to compare with, None where only hashes were
    recorded; `run` what the search can be done again by (`config`, and the hashes of its
    `prompts`); `contradictions` are places where it contradicts itself.
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
        """The base as it was named: a Hub id, `demo`, or a folder's name."""
        named = self.record.base.get("model") if self.record else None
        named = named or ((self.run or {}).get("config") or {}).get("model") or self.edit.base.name
        return str(named) if named else None

    @property
    def revision(self) -> str | None:
        found = self.record.base.get("revision") if self.record else None
        return found if isinstance(found, str) else None


def published_edit_of(what: str, revision: str | None = None) -> PublishedEdit:
    """Read what is recorded.

    Args:
        what: a card (.md), an Edit file, a folder (a run, a checkpoint, an adapter, a published
            repository) or OWNER/NAME.
        revision: of a repository, the branch or commit.

    Raises:
        UsageError: it is none of these, or does not say which Edit it carries.
        HubError: the Hub does not give the repository.
        EditError, ArtifactError: an Edit or a record that is damaged.
    """
    path = Path(what).expanduser()
    if path.is_dir():
        return _of_folder(path, what)
    if path.suffix == ".md" and path.is_file():
        return _of_card(path, what)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path} is neither a card nor an Edit; of a GGUF file or weights, give the Edit or the repository"
            )
        return _of_edit(path, what)
    if is_repo_id(what):
        return _of_folder(download(what, revision), what)
    raise UsageError(f"'{what}' is no file or folder here, and no repository name (OWNER/NAME)")


def _of_folder(folder: Path, what: str) -> PublishedEdit:
    if (folder / MARK).exists():
        return _of_run(folder, what)
    edit, record = edit_in(folder), record_in(folder)
    if edit is None:
        raise UsageError(
            f"'{what}' does not say which Edit it carries (no {RECORDS}/edit.safetensors and no edit.safetensors); give the Edit itself"
        )
    weights = [name for name in ("adapter_config.json", "config.json") if (folder / name).is_file()]
    form: Form = (
        "adapter" if weights[:1] == ["adapter_config.json"] else record.form if record else "checkpoint"
    )
    file = folder / RECORDS / "run.json"
    run = read_json(file) if file.is_file() else None
    if run is None and (folder.absolute().parent / MARK).exists():
        run = _run_in(folder.absolute().parent)
    card = folder / "README.md"
    said = [*_against_record(edit, record), *(_against_card(edit, _head(card)) if card.is_file() else [])]
    return PublishedEdit(what, edit, form, record, folder if weights else None, run, tuple(said))


def _of_run(folder: Path, what: str) -> PublishedEdit:
    if not (folder / "edit.safetensors").is_file():
        raise UsageError(f"the run in {folder} has found no Edit yet; finish it first")
    edit = Edit.load(folder / "edit.safetensors")
    places: list[tuple[Form, Path]] = [("checkpoint", folder / "checkpoint"), ("adapter", folder / "adapter")]
    form, place = next((one for one in places if one[1].is_dir()), places[0])
    there = place.is_dir()
    record = record_in(place) if there else None
    said = _against_record(edit, record)
    return PublishedEdit(what, edit, form, record, place if there else None, _run_in(folder), tuple(said))


def _run_in(folder: Path) -> JsonObject | None:
    if not (folder / "config.json").is_file() or not (folder / "prompts.json").is_file():
        return None
    prompts = read_json(folder / "prompts.json")
    return {
        "config": read_json(folder / "config.json"),
        "prompts": {side: hash_of(held) for side, held in prompts.items()},
    }


def _of_edit(path: Path, what: str) -> PublishedEdit:
    edit, beside = Edit.load(path), path.absolute().parent
    beside = beside.parent if beside.name == RECORDS else beside
    near = edit_in(beside)
    if near is not None and near.sha256 == edit.sha256:
        return _of_folder(beside, what)
    return PublishedEdit(what, edit, "checkpoint", None, None, None)


def _of_card(path: Path, what: str) -> PublishedEdit:
    head, beside = _head(path), path.absolute().parent
    if edit_in(beside) is not None:
        found = _of_folder(beside, what)
    elif isinstance(head.get("repository"), str):
        found = _of_folder(download(head["repository"]), what)
    else:
        raise UsageError(
            f"{path} names no repository (`vectomy: repository:` between its lines of dashes), and no Edit lies beside it; give the Edit"
        )
    said = [*found.contradictions, *_against_card(found.edit, head)]
    return replace(found, contradictions=tuple(dict.fromkeys(said)))


def _head(card: Path) -> dict[str, Any]:
    """What a card's front matter says under `vectomy`."""
    found = frontmatter(card).get("vectomy")
    return found if isinstance(found, dict) else {}


def _against_record(edit: Edit, record: Record | None) -> list[str]:
    if record is None or record.edit_sha256 == edit.sha256:
        return []
    return [
        f"the record is of the Edit {record.edit_sha256[:12]}, the Edit that is there is {edit.sha256[:12]}"
    ]


def _against_card(edit: Edit, head: dict[str, Any]) -> list[str]:
    held = {"edit_sha256": edit.sha256, "base_fingerprint": edit.base.fingerprint}
    names = {"edit_sha256": "the Edit", "base_fingerprint": "a base with weights"}
    return [
        f"the card names {names[key]} {str(head[key])[:12]}, the Edit that is there says {value[:12]}"
        for key, value in held.items()
        if key in head and head[key] != value
    ]
