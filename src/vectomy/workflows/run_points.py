"""The points of a finished run: the edits that its search measured, which one its rule took, and
the Edit of each.

What a run holds depends on its recipe: `gradient`, `selective` and `tpe` store the Edits of their
frontier; a trait stores one Edit, of which its other strengths are multiples; `arditi`, `cosmic`
and `article` store the directions, each of which makes an Edit. Loads no torch until an Edit is
opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vectomy.core.errors import ArtifactError, UsageError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.results import FormMetrics, RunResults, SearchResults
from vectomy.core.results.search_json import Candidate
from vectomy.core.run_folder import read_json
from vectomy.core.suggestions import suggest
from vectomy.workflows.stored_result import read_result

if TYPE_CHECKING:
    from vectomy.edits.edit import Edit

__all__ = ["RunPoint", "RunPoints", "open_point", "read_points"]

# Names of points in a message.
NAMED = 12


@dataclass(frozen=True)
class RunPoint:
    """An edit that a search measured on its search prompts; None is not measured there.

    Attributes:
        name: what a person types; the step, `STEP@STRENGTH`, the trial, or `LAYER:POSITION`.
        chosen: the rule of the recipe took it.
        rate: share of the positive search prompts that still show the behaviour.
        kl: in nats on the negative search prompts; `kl_of` says of what.
        score: of a direction, by its recipe's rule.
        edit: the file of its Edit in the run folder; None where it is made from its direction.
        factor: its Edit is the one in `edit` times this.
        direction: (site, layer, position) where it was read.
        about: what its Edit says of where the search found it; None: as its file has it.
        rejected: why the rule left it out.
        missing: why the run does not hold its Edit.
    """

    name: str
    chosen: bool = False
    strength: float | None = None
    rate: float | None = None
    kl: float | None = None
    degenerate: float | None = None
    harmless: float | None = None
    score: float | None = None
    edit: str | None = None
    factor: float = 1.0
    direction: tuple[str, int, int] | None = None
    about: JsonObject | None = None
    rejected: str | None = None
    missing: str | None = None


@dataclass(frozen=True)
class RunPoints:
    """The points of a run, in the order in which they are shown.

    Attributes:
        rule: how the recipe takes a point.
        kl_of: what `kl` of a point is of.
        score_of: what `score` of a point is; empty where points are whole edits.
        notes: what the run does not hold.
        base, taken: numbers on the test prompts, of the base and of the point that the rule took.
    """

    folder: Path
    results: RunResults
    rule: str
    kl_of: str
    points: tuple[RunPoint, ...]
    score_of: str = ""
    notes: tuple[str, ...] = ()
    base: FormMetrics = field(default_factory=FormMetrics)
    taken: FormMetrics = field(default_factory=FormMetrics)

    @property
    def chosen(self) -> RunPoint:
        """The point that the rule took."""
        return next(point for point in self.points if point.chosen)

    @property
    def shown(self) -> tuple[RunPoint, ...]:
        """The points that the rule did not leave out, and the one that it took."""
        return tuple(point for point in self.points if point.chosen or point.rejected is None)

    def find(self, name: str) -> RunPoint:
        """Raises UsageError: the run has no such point."""
        names = [point.name for point in self.points]
        if name not in names:
            listed = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
            raise UsageError(
                f"the run {self.folder} has no point '{name}'{suggest(name, names)}; it has {listed}"
            )
        return self.points[names.index(name)]

    def to_json(self) -> JsonObject:
        return {
            "format": "vectomy-points",
            "version": 1,
            "run": str(self.folder),
            "model": self.results.model,
            "recipe": self.results.recipe,
            "rule": self.rule,
            "chosen": self.chosen.name,
            "kl_of": self.kl_of,
            "score_of": self.score_of or None,
            "base": self.base.to_json(),
            "taken": self.taken.to_json(),
            "points": [asdict(point) for point in self.points],
            "notes": list(self.notes),
        }


def read_points(folder: str | Path) -> RunPoints:
    """The points of the finished run in `folder`, a trait's too.

    Raises:
        ArtifactError: it is no finished run, or a file of it is damaged.
    """
    folder = Path(folder).expanduser()
    results = RunResults.from_json(read_result(folder))
    stored = read_json(folder / "scores.json")
    scores = SearchResults.from_json(stored)
    read = READERS.get(results.recipe or "")
    if read is None or scores.chosen is None:
        raise ArtifactError(
            f"{folder} holds no points of a search (recipe {results.recipe}); give the --out of `vectomy run`"
        )
    listed = read(folder, results, scores, stored)
    if not any(point.chosen for point in listed.points):
        raise ArtifactError(f"{folder / 'scores.json'} names no chosen point; run the same command again")
    notes = (*([scores.note] if scores.note else []), *listed.notes)
    return replace(listed, base=results.base, taken=results.edited, notes=notes)


def open_point(folder: str | Path, point: RunPoint, strength: float = 1.0) -> Edit:
    """The Edit of a point, times `strength`.

    Raises:
        UsageError: the run does not hold it.
        EditError: its file is damaged.
    """
    from vectomy.edits.edit import Edit

    folder = Path(folder).expanduser()
    if point.missing:
        raise UsageError(f"the run {folder} does not hold point {point.name}: {point.missing}")
    edit = Edit.load(folder / (point.edit or "edit.safetensors"))
    if point.edit is None and point.direction is not None:
        edit = _along(edit, folder, point.direction)
    if point.about is not None and point.about != edit.about.get("direction"):
        # Frontiers were written with the place of the chosen edit once.
        edit = replace(edit, about={**edit.about, "direction": point.about})
    if point.factor != 1.0:
        edit = replace(edit * point.factor, about={**edit.about, "strength": point.strength})
    return edit if strength == 1.0 else edit * strength


def _along(edit: Edit, folder: Path, place: tuple[str, int, int]) -> Edit:
    """An Edit with the direction that was read at a place instead of its own."""
    from vectomy.core.linalg import symmetric_basis
    from vectomy.search.estimators import Directions

    site, layer, position = place
    vector = Directions.load(folder / "directions.safetensors").at(site, layer, position)  # type: ignore[arg-type]
    if not bool(vector.any()):
        raise UsageError(f"at layer {layer}, position {position} the two prompt sets do not differ at all")
    basis = symmetric_basis(vector.detach().cpu().double()[None]).float()
    about = {**edit.about, "direction": {"site": site, "layer": layer, "position": position}}
    operations = tuple(replace(operation, basis=basis) for operation in edit.operations)
    return replace(edit, operations=operations, about=about)


def _read_searched(
    folder: Path, results: RunResults, scores: SearchResults, stored: Mapping[str, JsonValue]
) -> RunPoints:
    """Of recipes that store a frontier of whole edits."""
    rows = list(scores.frontier)
    taken = next((row for row in scores.candidates if row.edit_key == scores.chosen_edit), None)
    if taken is not None and all(row.edit_key != taken.edit_key for row in rows):
        rows.append(taken)
    rows.sort(key=lambda row: row.kl if row.kl is not None else float("inf"))
    points = [_searched_point(row, scores) for row in rows]
    untried = len(scores.candidates) - len(points)
    lacking = sum(point.degenerate is None for point in points)
    answers = (
        "harmless refusals"
        if not lacking
        else "degenerate answers and harmless refusals"
        if lacking == len(points)
        else f"harmless refusals, and degenerate answers of {lacking} of {len(points)} points,"
    )
    measured = (
        f"{answers} were measured on the test prompts alone, of the taken point; "
        f"`vectomy evaluate {results.model} EDIT` measures another one"
    )
    notes = [measured]
    if untried > 0:
        notes.append(f"{untried} other edits of the search are not stored: each is beaten by a point")
    budget, target = results.settings.get("kl_budget"), results.settings.get("target_rate")
    rule = (
        f"the fewest refusals within a KL of {budget} nats"
        if budget is not None
        else f"the least KL at which at most {_percent(target)} of the search prompts show the behaviour"
    )
    if (most := results.settings.get("max_degenerate")) is not None:
        rule += f", of the edits with at most {_percent(most)} more degenerate answers than the base"
    kl_of = "first token" if results.recipe == "tpe" else "token"
    return RunPoints(folder, results, rule, kl_of, tuple(points), notes=tuple(notes))


def _searched_point(row: Candidate, scores: SearchResults) -> RunPoint:
    number, strength = row.edit_key or (0, 1.0)
    chosen = row.edit_key == scores.chosen_edit
    return RunPoint(
        name=str(number) if strength == 1.0 else f"{number}@{strength:g}",
        chosen=chosen,
        strength=strength if row.is_step else None,
        rate=row.rate,
        kl=row.kl,
        degenerate=row.degenerate,
        edit="edit.safetensors" if chosen else row.edit,
        about=None if chosen else _found_at(row, scores),
        missing=None if chosen or row.edit else "its Edit was not stored",
    )


def _found_at(row: Candidate, scores: SearchResults) -> JsonObject:
    """Where the search found an edit: its step and strength, or its trial."""
    if not row.is_step:
        return {"number": row.number} if row.direction is None else row.direction.to_json()
    place = {} if scores.chosen is None else scores.chosen.to_json()
    return {**place, "step": row.step, "strength": row.strength}


def _read_trait(
    folder: Path, results: RunResults, scores: SearchResults, stored: Mapping[str, JsonValue]
) -> RunPoints:
    """Of a trait: one Edit, at the strengths that were tried."""
    given = stored.get("candidates")
    rows = [row for row in given if isinstance(row, Mapping)] if isinstance(given, Sequence) else []
    taken = next((row for row in rows if row.get("number") == scores.trial), {})
    base = _number(taken.get("strength")) or 1.0
    points = []
    for row in rows:
        strength = _number(row.get("strength"))
        same = row.get("read_at") == taken.get("read_at") and strength is not None
        points.append(
            RunPoint(
                name=str(row.get("number")),
                chosen=row is taken,
                strength=strength,
                rate=_number(row.get("rate")),
                kl=_number(row.get("kl")),
                degenerate=_number(row.get("degenerate")),
                edit="edit.safetensors",
                factor=strength / base if same and strength is not None and row is not taken else 1.0,
                missing=None
                if same
                else f"it is of layer {row.get('read_at')}, and the run stores the Edit "
                f"of layer {taken.get('read_at')}; points of that layer can be taken",
            )
        )
    operation = results.trait.operation if results.trait else None
    target, budget = results.settings.get("target_rate"), results.settings.get("kl_budget")
    bound = "at least" if operation == "induce" else "at most"
    within = "" if budget is None else f" and a KL of {budget} nats"
    rule = (
        f"the least KL at which {bound} {_percent(target)} of the search answers show the trait, within few "
        f"degenerate answers{within}"
    )
    notes = ("refusals of harmless prompts are not a trait's; they were not measured",)
    return RunPoints(folder, results, rule, "token", tuple(points), notes=notes)


RULES: dict[str, tuple[str, str]] = {
    "arditi": ("refusal_score", "the least refusal score of the directions within the limits of the paper"),
    "cosmic": ("score", "the highest score of the directions within the KL threshold"),
    "article": ("score", "the fewest refusals among the answers of the best-scored directions, or a person"),
}


def _read_directions(
    folder: Path, results: RunResults, scores: SearchResults, stored: Mapping[str, JsonValue]
) -> RunPoints:
    """Of recipes that choose one direction: each makes an Edit of the same writers."""
    key, rule = RULES[results.recipe or ""]
    chosen = scores.chosen
    rows = [row for row in scores.candidates if row.is_direction and row.layer is not None]
    rows = [row for row in rows if row.position is not None]
    several = len({row.site for row in rows}) > 1
    points = []
    for row in rows:
        place = (str(row.site or "resid_pre"), int(row.layer or 0), int(row.position or 0))
        is_taken = chosen is not None and place == (chosen.site, chosen.layer, chosen.position)
        points.append(
            RunPoint(
                name=f"{f'{place[0]}:' if several else ''}{place[1]}:{place[2]}",
                chosen=is_taken,
                kl=row.kl_div_score,
                score=getattr(row, key),
                edit="edit.safetensors" if is_taken else None,
                direction=place,
                rejected=row.rejected or (None if row.passed or is_taken else "it was not tried"),
            )
        )
    points.sort(key=lambda point: _sort_score(point, lower=key == "refusal_score"))
    note = (
        "a run of this recipe measures scores of directions, and refusals of the taken one alone; "
        f"`vectomy evaluate {results.model} EDIT` measures another one"
    )
    return RunPoints(
        folder, results, rule, "first token", tuple(points), score_of=key.replace("_", " "), notes=(note,)
    )


def _sort_score(point: RunPoint, lower: bool) -> tuple[bool, float]:
    score = point.score
    return score is None, 0.0 if score is None else score if lower else -score


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _percent(value: object) -> str:
    number = _number(value)
    return "an unrecorded share" if number is None else f"{number:.0%}"


Reader = Callable[[Path, RunResults, SearchResults, Mapping[str, JsonValue]], RunPoints]
READERS: dict[str, Reader] = {
    **dict.fromkeys(("gradient", "selective", "tpe"), _read_searched),
    **dict.fromkeys(("arditi", "cosmic", "article"), _read_directions),
    "distill": _read_trait,
}
