"""The files of an upload: the model, the card, the Edit, and the record that reproduces it. No
other file is sent.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.checkpoint import Checkpoint
from vectomy.checkpoint.index import INDEX, RECORDS
from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.run_folder import read_json
from vectomy.core.suggestions import suggest_path
from vectomy.core.text_file import read_text
from vectomy.hub import Item, is_repo_id, licence_of
from vectomy.hub.card_text import loading_lines, unmeasured_warning
from vectomy.hub.published_source import PublishedSource, published_source_of
from vectomy.report import render_card
from vectomy.report.pages.model_card import Kind

__all__ = ["Upload", "pack"]

# Weights that run code when they are read; vectomy never writes them.
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# The files of an adapter folder that PEFT and transformers read, and the record.
ADAPTER_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt"}


@dataclass(frozen=True)
class Upload:
    """The content of a push. `left` are the files that are not sent, each with the reason; `notes`
    are remarks for the user.
    """

    origin: PublishedSource
    base_model: str
    items: tuple[Item, ...]
    left: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        return self.origin.kind

    @property
    def bytes(self) -> int:
        return sum(item.size for item in self.items)

    @property
    def card(self) -> str:
        return next(
            str(item.source, "utf-8")
            for item in self.items
            if item.name == "README.md" and isinstance(item.source, bytes)
        )


def pack(
    path: str | Path,
    repo_id: str,
    *,
    base_model: str | None = None,
    source: str | Path | None = None,
    form: Kind | None = None,
    evaluations: tuple[str | Path, ...] = (),
    card: str | Path | None = None,
    offline: bool = False,
) -> Upload:
    """Collect the files to publish for `path`.

    Args:
        path: a checkpoint, adapter or run folder, an Edit, or a GGUF file or a folder of them.
        base_model: OWNER/NAME of the base, if the base was a local folder.
        source: the run folder or Edit that made `path`, if `path` does not record it.
        form: which part of a run folder to publish.
        evaluations: evaluation.json files (or their folders), whose numbers go into the card.
        card: a file to publish as the card, instead of the generated one.
        offline: ask the Hub nothing; the licence of the base is known from its cache alone.

    Raises:
        UsageError, EditError, ArtifactError, CheckpointError: see published_source.py and
        checkpoint/.
    """
    origin = published_source_of(Path(path), None if source is None else Path(source), form)
    base = base_model or origin.base_model
    linked, notes = is_repo_id(base), list(origin.notes)
    if not linked:
        notes.append(
            f"the base is known only as '{base}', so the card links to no model; name it with "
            "--base OWNER/NAME"
        )
    files, left = _files(origin, base if linked and not origin.is_demo else None)
    text = (
        _write_card(origin, repo_id, base, files, evaluations, notes, offline)
        if card is None
        else _read_card(Path(card))
    )
    items = [Item("README.md", text.encode()), *files, *_provenance(origin, files)]
    return Upload(origin, base, tuple(sorted(items, key=lambda item: item.name)), left, tuple(notes))


def _write_card(
    origin: PublishedSource,
    repo_id: str,
    base: str,
    files: list[Item],
    evaluations: tuple[str | Path, ...],
    notes: list[str],
    offline: bool,
) -> str:
    """The card; remarks on it are appended to `notes`."""
    licence = origin.summary.get("license") or licence_of(base, offline=offline)
    if not licence and offline:
        notes.append("the base's licence is not known here; the push itself asks the Hub for it")
    elif not licence:
        notes.append(
            "the base's licence is not known, so the card names none; look at the base's card on the Hub"
        )
    summary = {**origin.summary, "base_model": base, "license": licence}
    summary["safety"] = summary.get("safety") or unmeasured_warning(summary)
    record = {
        "kind": origin.kind,
        "repository": repo_id,
        "base_fingerprint": origin.edit.base.fingerprint,
        "edit_sha256": origin.edit.sha256,
    }
    return render_card(
        summary,
        kind=origin.kind,
        repository=repo_id,
        linked=is_repo_id(base),
        record=record,
        use=loading_lines(origin.kind, repo_id, base, [item.name for item in files]),
        evaluations=[_read_evaluation(Path(file)) for file in evaluations],
    )


def _read_card(card: Path) -> str:
    try:
        return read_text(card.expanduser())
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(
            f"the card {card} cannot be read ({reason}){suggest_path(card)}; --card takes a Markdown file"
        ) from None


def _files(origin: PublishedSource, base: str | None) -> tuple[list[Item], tuple[tuple[str, str], ...]]:
    """The files of the model itself, and the files of its folder that are not sent."""
    path = origin.path
    if origin.kind == "checkpoint":
        opened = Checkpoint.open(path)
        own = [
            "config.json",
            *([INDEX] if opened.index is not None else []),
            *(shard.name for shard in opened.shards),
        ]
        records = [
            f"{RECORDS}/{name}"
            for name in ("edit.safetensors", "record.json")
            if (path / RECORDS / name).is_file()
        ]
        kept = [*own, *(name for name in opened.sidecars if name != "README.md"), *records]
        why = {True: "pickle, which can run code", False: "other weights than the edited ones"}
        left = [(name, why[Path(name).suffix in PICKLES]) for name in opened.other_weights]
        return [Item(name, path / name) for name in kept], tuple(left)
    if origin.kind == "gguf":
        files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
        if not files:
            raise ArtifactError(f"{path} holds no .gguf file; export one first")
        modelfile = [path / "Modelfile"] if (path / "Modelfile").is_file() else []
        return [Item(file.name, file) for file in [*files, *modelfile]], ()
    if origin.kind == "edit":
        return [Item("edit.safetensors", path)], ()
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    visible = [
        name
        for name in names
        if not any(part.startswith(".") for part in Path(name).parts) and name != "README.md"
    ]
    kept = [name for name in visible if Path(name).suffix in ADAPTER_SUFFIXES]
    left = [(name, "no part of an adapter") for name in visible if name not in kept]
    return [_adapter_item(path, name, base) for name in kept], tuple(left)


def _adapter_item(folder: Path, name: str, base: str | None) -> Item:
    """One file of an adapter. PEFT loads the base that adapter_config.json names; a published one
    names a repository instead of a folder of this machine.
    """
    if name != "adapter_config.json" or base is None:
        return Item(name, folder / name)
    config = {**read_json(folder / name), "base_model_name_or_path": base}
    return Item(name, (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _provenance(origin: PublishedSource, files: list[Item]) -> list[Item]:
    """The Edit, the record and the run's configuration, if `files` lack them."""
    names = {item.name for item in files}
    items: list[Item] = []
    if not names & {"edit.safetensors", f"{RECORDS}/edit.safetensors"}:
        items.append(Item(f"{RECORDS}/edit.safetensors", origin.edit.to_bytes()))
    if f"{RECORDS}/record.json" not in names and origin.record is not None:
        items.append(Item(f"{RECORDS}/record.json", _json(origin.record.to_json())))
    run = origin.run_json()
    if run is not None:
        items.append(Item(f"{RECORDS}/run.json", _json(run)))
    return items


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_evaluation(path: Path) -> JsonObject:
    evaluation = read_json(path / "evaluation.json" if path.is_dir() else path)
    if not isinstance(evaluation, dict) or evaluation.get("format") != "vectomy-evaluation":
        raise ArtifactError(
            f"{path} is not an evaluation.json of `vectomy evaluate`; give its folder or file"
        )
    return evaluation
