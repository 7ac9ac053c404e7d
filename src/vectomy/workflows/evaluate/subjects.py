"""The subjects of `vectomy evaluate`: models, Edits at some strengths, adapters, and controls.

A subject is written as

    FOLDER, OWNER/NAME, demo    a model
    EDIT[@STRENGTHS]            an Edit file, or a run folder that holds one;
                                strengths such as 0.5 or 0.25,0.5,1
    ADAPTER                     a folder that PEFT wrote, for the base
    openai:URL[#MODEL]          a model on a server, of which only the answers are seen

Every subject has an identity, the hash of everything that decides its answers, and the model that
it is compared with.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from vectomy.checkpoint import Checkpoint, fingerprint, sidecar_digest
from vectomy.checkpoint.gguf import is_gguf
from vectomy.core.chat_endpoint import PREFIX, split_endpoint
from vectomy.core.errors import FingerprintError, UsageError
from vectomy.core.json_value import JsonObject
from vectomy.core.progress import Progress, silent
from vectomy.core.repo_name import split_revision
from vectomy.core.run_folder import hash_of, sha256_file
from vectomy.core.suggestions import suggest_path
from vectomy.data.sources import plain_source
from vectomy.edits.controls import random_control
from vectomy.edits.edit import Edit
from vectomy.models import is_local, probe_architecture
from vectomy.models.demo import model_folder
from vectomy.models.served_model import ServedModel

__all__ = ["Kind", "Subject", "open_subjects", "with_controls"]

Kind = Literal["base", "model", "edit", "adapter", "served", "random", "noise"]
EDIT_FILE, ADAPTER_FILE, ADAPTER_CONFIG = (
    "edit.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)


@dataclass(frozen=True, eq=False)
class Subject:
    """One thing that is measured. `baseline` is the name of the model it is compared with (None for
    the base).

    `sha256` is the Edit's own hash, or that of weights and sidecars. Two subjects with the same
    `identity` give the same answers. Only Edits and random controls have `edit` and `strength`.
    Only a model on a server has `endpoint`, its URL and name; `path` is the base's then, and its
    weights are not known.
    """

    name: str
    kind: Kind
    source: str
    baseline: str | None
    sha256: str
    identity: str
    path: Path
    edit: Edit | None = None
    strength: float | None = None
    note: str | None = None
    fingerprint: str = field(default="", repr=False)
    endpoint: tuple[str, str] | None = None

    @property
    def has_weights(self) -> bool:
        """Whether its logits can be measured, not its answers alone."""
        return self.endpoint is None

    def to_json(self) -> JsonObject:
        keys = ("name", "kind", "source", "strength", "note")
        digest = self.sha256 if self.endpoint is None else None
        return {**{key: getattr(self, key) for key in keys}, "sha256": digest, "of": self.baseline}


def open_subjects(
    specs: Sequence[str],
    base: str | None = None,
    *,
    trust_remote_code: bool = False,
    progress: Progress = silent,
) -> list[Subject]:
    """The subjects in the given order, the base first: `base`, or the first model among them.

    Raises:
        UsageError: a subject of no known kind, strengths that are not numbers, or no model at all.
        FingerprintError: an Edit whose base is not among the models.
        CheckpointError, EditError: a folder or file that is not whole.
    """
    # A base that is also written among the subjects is measured once.
    parsed = [_parse_spec(spec) for spec in dict.fromkeys([*([base] if base else []), *specs])]
    models = [item for item in parsed if item.kind == "model"]
    if not models or (base and parsed[0].kind != "model"):
        what = f"--base {base} is" if base else f"{', '.join(item.spec for item in parsed)}: there is"
        raise UsageError(
            f"{what} no model to compare with; give one first, or with --base MODEL (a folder, a Hub id or "
            "demo)"
        )
    opened = _add_folders([_open_model(item, trust_remote_code, progress) for item in models])
    first = replace(opened[0], kind="base")
    known = [first, *(replace(model, baseline=first.name) for model in opened[1:])]
    by_spec = {item.spec: subject for item, subject in zip(models, known, strict=True)}
    result = [first]
    for item in parsed:
        if item.kind == "adapter":
            result.append(_adapter(item, first))
        elif item.kind == "served":
            result.append(_served(item, first))
        elif item.kind == "edit":
            result += _edits(item, known)
        elif by_spec[item.spec] is not first:
            result.append(by_spec[item.spec])
    return _number_names(result)


ParsedKind = Literal["model", "edit", "adapter", "served"]


@dataclass(frozen=True)
class _ParsedSpec:
    spec: str
    kind: ParsedKind
    path: Path
    name: str
    strengths: tuple[float, ...] | None = None


def _parse_spec(spec: str) -> _ParsedSpec:
    if split_endpoint(spec) is not None:
        return _ParsedSpec(spec, "served", Path(), spec)
    plain, strengths = _strengths(spec)
    path = Path(plain).expanduser()
    if plain == "demo" or is_gguf(plain):
        kind: ParsedKind = "model"
    elif os.path.isfile(path / ADAPTER_CONFIG):
        # Our own adapter folders hold the Edit as well.
        kind = "adapter"
    elif os.path.isfile(path) or os.path.isfile(path / EDIT_FILE):
        file = path if os.path.isfile(path) else path / EDIT_FILE
        # An Edit in a run folder is named after the folder: its file is always edit.safetensors.
        return _ParsedSpec(spec, "edit", file, path.stem if file is path else path.resolve().name, strengths)
    elif os.path.isdir(path) or not is_local(plain):
        kind = "model"
    else:
        raise UsageError(
            f"'{spec}' is nothing to evaluate{suggest_path(plain)}: it is no model (a folder, a Hub id or "
            "demo), no Edit file, no run folder with an Edit and no folder of a PEFT adapter"
        )
    if strengths is not None:
        raise UsageError(f"'{spec}' is a {kind}; only Edits take strengths after an @")
    return _ParsedSpec(
        spec, kind, path, plain if plain == "demo" or not is_local(plain) else path.resolve().name
    )


def _strengths(spec: str) -> tuple[str, tuple[float, ...] | None]:
    result = re.fullmatch(r"(.+)@([^@/]*)", spec)
    if result is None or os.path.exists(os.path.expanduser(spec)):
        return spec, None
    try:
        strengths = tuple(float(part) for part in result[2].split(","))
    except ValueError:
        if split_revision(spec)[1] is not None and not is_local(result[1]):
            return spec, None
        strengths = (math.nan,)
    if not all(math.isfinite(value) for value in strengths):
        raise UsageError(
            f"'{spec}': after the @ come strengths, numbers such as 0.5 or 0.25,0.5,1, not '{result[2]}'"
        )
    return result[1], tuple(dict.fromkeys(strengths))


def _open_model(item: _ParsedSpec, trust_remote_code: bool, progress: Progress) -> Subject:
    path = model_folder(item.spec, progress)
    probe_architecture(path, trust_remote_code=trust_remote_code, progress=progress)
    checkpoint = Checkpoint.open(path)
    weights = fingerprint(checkpoint)
    identity = hash_of([weights, sidecar_digest(checkpoint)])
    return Subject(
        item.name, "model", plain_source(item.spec), None, identity, identity, path, fingerprint=weights
    )


def _adapter(item: _ParsedSpec, base: Subject) -> Subject:
    digest = hash_of(
        [
            sha256_file(item.path / name)
            for name in (ADAPTER_FILE, ADAPTER_CONFIG)
            if (item.path / name).is_file()
        ]
    )
    identity = hash_of([base.identity, digest])
    return Subject(item.name, "adapter", item.path.name, base.name, digest, identity, item.path)


def _served(item: _ParsedSpec, base: Subject) -> Subject:
    endpoint = split_endpoint(item.spec)
    assert endpoint is not None
    server = ServedModel(*endpoint)
    name = server.short_model
    identity = hash_of(["served", server.base, server.model])
    note = (
        "a model on a server: its answers alone are measured, in the tokens of the base; nothing is known "
        "of its weights"
    )
    return Subject(
        name,
        "served",
        f"{PREFIX}{name}",
        base.name,
        identity,
        identity,
        base.path,
        note=note,
        endpoint=(server.base, server.model),
    )


def _edits(item: _ParsedSpec, models: Sequence[Subject]) -> list[Subject]:
    edit = Edit.load(item.path)
    base = next((model for model in models if model.fingerprint == edit.base.fingerprint), None)
    if base is None:
        known_models = ", ".join(f"{model.name} has {model.fingerprint[:12]}" for model in models)
        raise FingerprintError(
            f"the edit {item.spec} is for {edit.base} with weights {edit.base.fingerprint[:12]}, which are "
            f"those of no model here ({known_models}); add the model that it was made for, or name it with "
            "--base"
        )
    result = []
    for strength in item.strengths or (1.0,):
        name = item.name if item.strengths is None else f"{item.name}@{strength:g}"
        result.append(_edit_subject(name, "edit", item.path, base, edit, strength, _describe_search(edit)))
    return result


def _edit_subject(
    name: str, kind: Kind, path: Path, base: Subject, edit: Edit, strength: float, note: str | None
) -> Subject:
    digest = edit.sha256
    identity = hash_of([base.identity, digest, strength])
    return Subject(name, kind, path.name, base.name, digest, identity, base.path, edit, strength, note)


def _describe_search(edit: Edit) -> str | None:
    """The prompts of the search, for a reader who looks for them among the measured sets."""
    contrast = edit.about.get("contrast")
    return f"found on {' and '.join(map(str, contrast))}" if isinstance(contrast, list) and contrast else None


def _add_folders(models: Sequence[Subject]) -> list[Subject]:
    """The models with unique names: those that share one get their parent folder before it, then a
    number after it.
    """
    names = [model.name for model in models]
    longer = [
        replace(model, name=f"{model.path.resolve().parent.name}/{model.name}")
        if names.count(model.name) > 1
        else model
        for model in models
    ]
    return _number_names(longer, fixed=())


def _number_names(subjects: Sequence[Subject], fixed: Collection[Kind] = ("base", "model")) -> list[Subject]:
    """The subjects with unique names: a later one gets a number. Those of `fixed` kinds keep
    theirs, because others refer to them.
    """
    taken = {subject.name for subject in subjects if subject.kind in fixed}
    result = []
    for subject in subjects:
        name, number = subject.name, 2
        while subject.kind not in fixed and name in taken:
            name, number = f"{subject.name} ({number})", number + 1
        taken.add(name)
        result.append(replace(subject, name=name))
    return result


def with_controls(subjects: Sequence[Subject], seed: int) -> list[Subject]:
    """The subjects, a random direction for the first Edit of the base, and the base against itself.

    The control has the Edit's strength 1 if that was asked for, else the largest that was.
    """
    base = subjects[0]
    edits = [subject for subject in subjects if subject.kind == "edit" and subject.baseline == base.name]
    result = list(subjects)
    if edits and edits[0].edit is not None and edits[0].edit.operations:
        first = [subject for subject in edits if subject.sha256 == edits[0].sha256]
        full = max(first, key=lambda subject: (subject.strength == 1.0, abs(subject.strength or 0.0)))
        assert full.edit is not None
        assert full.strength is not None
        note = (
            "control: random directions of the same number, lengths and strengths in the same writers as "
            f"{full.name}, seed {seed}"
        )
        drawn = random_control(full.edit, seed)
        made = _edit_subject("random direction", "random", full.path, base, drawn, full.strength, note)
        result.append(replace(made, source=full.source))
    again = (
        f"the noise floor: {base.name} once more, in other batches, on the sample of prompts that damage is "
        "measured on"
    )
    name, identity = f"{base.name} again", hash_of([base.identity, "again"])
    result.append(replace(base, name=name, kind="noise", baseline=base.name, identity=identity, note=again))
    return result
