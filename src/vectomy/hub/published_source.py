"""The source of an upload: its kind, its Edit, the run that made it, and the run's measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.results import RunResults
from vectomy.core.run_folder import MARK, hash_of, read_json
from vectomy.edits.edit import Edit
from vectomy.edits.strength import strength_of
from vectomy.hub.provenance import Record, base_name, edit_in, record_in
from vectomy.models.demo import DEMO_BASE, DEMO_LICENCE, DEMO_NOTE
from vectomy.report import without_places
from vectomy.report.pages.model_card import Kind

__all__ = ["PublishedSource", "published_source_of"]

EDIT = "edit.safetensors"


@dataclass(frozen=True)
class PublishedSource:
    """`path`: file or folder to publish. `run`: the folder of the run that made it, if known."""

    kind: Kind
    path: Path
    edit: Edit
    run: Path | None
    record: Record | None
    summary: dict[str, Any]
    """summary.json of the run; without a run, the keys that the Edit records."""
    notes: tuple[str, ...] = ()

    @property
    def base_model(self) -> str:
        """The name of the base: a Hub id, or the name of a folder."""
        named = self.record.base.get("model") if self.record else None
        if self.is_demo:
            return DEMO_BASE
        return str(
            self.summary.get("base_model") or named or self.edit.base.name or self.edit.base.model_type
        )

    @property
    def is_demo(self) -> bool:
        """Whether the base is the demo model, which has no repository of its own on the Hub."""
        names = {
            self.summary.get("model"),
            self.edit.base.name,
            self.record.base.get("model") if self.record else None,
        }
        return "demo" in names

    def run_json(self) -> JsonObject | None:
        """The inputs that repeat the search, without the folders of this machine; None without a
        run.
        """
        if self.run is None or not (self.run / "config.json").is_file():
            return None
        config, prompts = read_json(self.run / "config.json"), read_json(self.run / "prompts.json")
        if not (
            isinstance(config, dict) and isinstance(config.get("model"), str) and isinstance(prompts, dict)
        ):
            raise ArtifactError(
                f"config.json or prompts.json of {self.run} does not hold what a run writes; run the same "
                "command again"
            )
        config["model"] = base_name(config["model"])
        return {
            "format": "vectomy-run-record",
            "version": 1,
            "config": without_places(config),
            "prompts": {side: hash_of(splits) for side, splits in prompts.items()},
            "edit_sha256": self.edit.sha256,
            "summary": without_places(self.summary),
        }


def published_source_of(path: Path, source: Path | None = None, form: Kind | None = None) -> PublishedSource:
    """Tell the kind of `path` and find its Edit, run and record.

    Args:
        source: the run folder or Edit that made `path`, if `path` does not record it (a GGUF file).
        form: which part of a run folder; by default the checkpoint if there is one, else the Edit.

    Raises:
        UsageError: `path` cannot be published, or does not name its Edit.
        EditError, ArtifactError: the Edit, the record or the run is damaged.
    """
    path = path.expanduser()
    kind, place = _find_kind(path, form)
    run = _find_run(source, place)
    edit = Edit.load(place) if kind == "edit" else _find_edit(place, run, source)
    notes = []
    if run is not None and (run / EDIT).is_file() and Edit.load(run / EDIT).sha256 != edit.sha256:
        notes.append("the run found another Edit (another strength, for example); its numbers are left out")
        run = None
    record = record_in(place) if place.is_dir() else None
    if record is None and kind in ("checkpoint", "adapter"):
        notes.append(
            f"nobody has measured whether {place.name} carries this Edit; `vectomy verify` measures it"
        )
    elif record is None and run is not None:
        record = record_in(run / "checkpoint") or record_in(run / "adapter")
    if record is not None and record.edit_sha256 != edit.sha256:
        raise ArtifactError(
            f"the record in {place} names the Edit {record.edit_sha256[:12]}, but the Edit in it is "
            f"{edit.sha256[:12]}; apply the Edit again"
        )
    summary = _read_summary(run, edit)
    if run is not None and not summary.get("base"):
        notes.append(
            "the run has not reached its report stage, so the card has no measurements; finish the run first"
        )
    return PublishedSource(kind, place, edit, run, record, summary, tuple(notes))


def _find_kind(path: Path, form: Kind | None) -> tuple[Kind, Path]:
    if not path.exists():
        raise UsageError(
            f"{path} does not exist; give a checkpoint, adapter or run folder, an Edit or a GGUF file"
        )
    if path.is_dir() and (path / MARK).exists():
        return _part_of_run(path, form)
    if form is not None:
        raise UsageError(f"{path} is not a run folder, so --part {form} does not apply; leave it out")
    if path.suffix == ".gguf" or (
        path.is_dir() and not (path / "config.json").exists() and any(path.glob("*.gguf"))
    ):
        return "gguf", path
    if path.is_file():
        return "edit", path
    if (path / "adapter_config.json").exists():
        return "adapter", path
    if (path / "config.json").exists():
        return "checkpoint", path
    if (path / EDIT).exists():
        return "edit", path / EDIT
    raise UsageError(
        f"{path} holds nothing to publish: no config.json of a checkpoint, no adapter_config.json, no "
        f"{EDIT}, no .gguf; give the folder of a finished run, a checkpoint, an adapter or an Edit file"
    )


def _part_of_run(run: Path, form: Kind | None) -> tuple[Kind, Path]:
    places: dict[Kind, Path] = {
        "checkpoint": run / "checkpoint",
        "adapter": run / "adapter",
        "edit": run / EDIT,
    }
    if form == "gguf":
        return "gguf", run
    wanted: tuple[Kind, ...] = ("checkpoint", "edit") if form is None else (form,)
    kind = next((kind for kind in wanted if places[kind].exists()), None)
    if kind is None:
        raise UsageError(f"the run in {run} has written no {' and no '.join(wanted)}; finish it first")
    return kind, places[kind]


def _find_run(source: Path | None, place: Path) -> Path | None:
    """The run folder `source`, or the one around `place`; None if there is none."""
    if source is not None:
        source = source.expanduser()
        if not source.exists():
            raise UsageError(f"{source} does not exist; --from takes a run folder or an Edit file")
        return source if (source / MARK).exists() else None
    return next((folder for folder in (place, place.absolute().parent) if (folder / MARK).exists()), None)


def _find_edit(place: Path, run: Path | None, source: Path | None) -> Edit:
    stored = edit_in(place) if place.is_dir() else None
    if stored is not None:
        return stored
    if run is not None and (run / EDIT).is_file():
        return Edit.load(run / EDIT)
    if source is not None:
        return Edit.load(source / EDIT if source.is_dir() else source)
    raise UsageError(
        f"{place} does not name its Edit; give the run or the Edit that made it: --from RUN|EDIT"
    )


def _read_summary(run: Path | None, edit: Edit) -> dict[str, Any]:
    if run is not None and (run / "summary.json").is_file():
        summary = read_json(run / "summary.json")
        if isinstance(summary, dict) and RunResults.from_json(summary).edit.sha256 == edit.sha256:
            return RunResults.repair(summary)
    about = edit.about
    known: dict[str, Any] = {
        key: about[key] for key in ("behaviour", "recipe", "estimator", "seed", "direction") if key in about
    }
    direction = known.get("direction")
    if not isinstance(direction, dict) or "layer" not in direction:
        known.pop("direction", None)
    demo = {"license": DEMO_LICENCE, "notes": [DEMO_NOTE]} if edit.base.name == "demo" else {}
    return {**known, **demo, "strength": strength_of(edit), "edit": {"path": EDIT, "sha256": edit.sha256}}
