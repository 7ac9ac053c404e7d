"""The files that are published: what makes the model, the card, the Edit, and what reproducing it
needs. Nothing else goes along.
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
from vectomy.hub import Item, is_repo_id, licence_of
from vectomy.hub.card_text import safety_of, use_of
from vectomy.hub.published_source import PublishedSource, published_source_of
from vectomy.report import render_card
from vectomy.report.pages.model_card import Kind

__all__ = ["Upload", "pack"]

# Weights that run code when they are read; no part of what vectomy writes.
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
# Of an adapter's folder: what PEFT and transformers read, and the record.
ADAPTER_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt"}


@dataclass(frozen=True)
class Upload:
    """What a push sends. `left` are files that stay here, each with the reason; `notes` what a
    person should know.
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
) -> Upload:
    """Gather what is published of `path`.

    Args:
        path: a checkpoint, adapter or run folder, an Edit, or a GGUF file or a folder of them.
        base_model: OWNER/NAME of the base, where it was a folder here.
        source: the run folder or Edit it was made of, where it does not say so itself.
        form: of a run folder, what of it.
        evaluations: evaluation.json files (or their folders), whose numbers go into the card.
        card: a file to publish as the card, instead of the one that is written here.

    Raises:
        UsageError, EditError, ArtifactError, CheckpointError: see published_source.py and
        checkpoint/.
    """
    origin = published_source_of(Path(path), None if source is None else Path(source), form)
    base = base_model or origin.base_model
    linked, notes = is_repo_id(base), list(origin.notes)
    if not linked:
        notes.append(
            f"the base is known as '{base}' alone, so the card links to no model; name it with --base-model OWNER/NAME"
        )
    files, left = _files(origin, base if linked and not origin.is_demo else None)
    text = _card(origin, repo_id, base, files, evaluations, notes) if card is None else _given(Path(card))
    items = [Item("README.md", text.encode()), *files, *_provenance(origin, files)]
    return Upload(origin, base, tuple(sorted(items, key=lambda item: item.name)), left, tuple(notes))


def _card(
    origin: PublishedSource,
    repo_id: str,
    base: str,
    files: list[Item],
    evaluations: tuple[str | Path, ...],
    notes: list[str],
) -> str:
    """The card; what a person should know of it is added to `notes`."""
    licence = origin.summary.get("license") or licence_of(base)
    if not licence:
        notes.append(
            "the base's licence is not known, so the card names none; its card on the Hub may say it"
        )
    summary = {**origin.summary, "base_model": base, "license": licence}
    summary["safety"] = summary.get("safety") or safety_of(summary)
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
        use=use_of(origin.kind, repo_id, base, [item.name for item in files]),
        evaluations=[_evaluation(Path(file)) for file in evaluations],
    )


def _given(card: Path) -> str:
    try:
        return card.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the card {card} cannot be read ({error}); --card takes a Markdown file") from None


def _files(origin: PublishedSource, base: str | None) -> tuple[list[Item], tuple[tuple[str, str], ...]]:
    """What makes the model itself, and what of its folder stays behind."""
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
    """PEFT looks for the base where the configuration names it: on the Hub that is a repository,
    not a folder of this machine.
    """
    if name != "adapter_config.json" or base is None:
        return Item(name, folder / name)
    config = {**read_json(folder / name), "base_model_name_or_path": base}
    return Item(name, (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _provenance(origin: PublishedSource, files: list[Item]) -> list[Item]:
    """The Edit, the record and the run's configuration, where `files` do not hold them."""
    there = {item.name for item in files}
    found: list[Item] = []
    if not there & {"edit.safetensors", f"{RECORDS}/edit.safetensors"}:
        found.append(Item(f"{RECORDS}/edit.safetensors", origin.edit.to_bytes()))
    if f"{RECORDS}/record.json" not in there and origin.record is not None:
        found.append(Item(f"{RECORDS}/record.json", _json(origin.record.to_json())))
    run = origin.run_json()
    if run is not None:
        found.append(Item(f"{RECORDS}/run.json", _json(run)))
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _evaluation(path: Path) -> JsonObject:
    found = read_json(path / "evaluation.json" if path.is_dir() else path)
    if not isinstance(found, dict) or found.get("format") != "vectomy-evaluation":
        raise ArtifactError(f"{path} is no evaluation that `vectomy evaluate` wrote")
    return found
