"""`vectomy judge FILE.jsonl`: a verdict and a probability of refusal for each completion."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vectomy.cli.help import MEASURE, SectionedCommand
from vectomy.cli.output_folder import write_file
from vectomy.cli.progress_bars import bars
from vectomy.cli.tables.calibration_table import print_calibration
from vectomy.cli.terminal import open_console
from vectomy.cli.vocabulary import MEASURES, AsJson, Overwrite, ThreadCount, option, out_option
from vectomy.core.errors import FinishedRunError, JudgeError, UnreadableReplyError, UsageError
from vectomy.core.evaluation_config import EvaluationConfig
from vectomy.core.json_value import JsonObject
from vectomy.core.jsonl import iter_jsonl, json_line, write_jsonl
from vectomy.core.output_path import check_file_output
from vectomy.core.run_folder import Journal, hash_of

if TYPE_CHECKING:
    from vectomy.metrics.judges import Judge, Judgement

__all__ = ["register"]

JUDGE_HELP = " ".join((EvaluationConfig.model_fields["judge"].description or "").split())

# What this command adds to a row.
OWN_FIELDS = frozenset({"verdict", "p_refusal", "judge_note", "judge_scores", "judge_error"})
# Give up after this many unreadable replies at the start.
HOPELESS = 5


def register(app: typer.Typer) -> None:
    app.command("judge", cls=SectionedCommand, rich_help_panel=MEASURE)(_judge)


def _judge(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE.jsonl", help="Rows with `prompt` and `completion`; - is stdin.", show_default=False
        ),
    ] = None,
    judge: Annotated[
        str,
        option("--judge", help=JUDGE_HELP, panel=MEASURES, metavar="NAME"),
    ] = "refusal",
    labels: Annotated[
        str | None,
        option(
            "--labels",
            help="Completions that a person labelled, with `human_label` or `label` (a verdict, or refusal "
            "or compliance): prints how far the judge agrees, by label, which threshold fits them, and what "
            "it misses. Without FILE.jsonl, these are the rows.",
            panel=MEASURES,
            metavar="FILE",
        ),
    ] = None,
    out: Annotated[
        str, out_option("FILE", "the judged rows; - is stdout. The same command resumes an interrupted run.")
    ] = "-",
    threads: ThreadCount = "auto",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Judge whether each completion in a file is a refusal. Writes each row with `verdict` and
    `p_refusal`, and prints the counts.
    """
    from vectomy.metrics.judges import describe, open_judge

    only_labels = file is None
    file = file or labels
    if file is None:
        raise UsageError("nothing to judge; give FILE.jsonl, or --labels FILE")
    if as_json and out == "-":
        raise UsageError(
            "--json prints the counts to stdout, where the rows go; give --out FILE for the rows"
        )
    if out != "-" and file != "-" and Path(out).resolve() == Path(file).resolve():
        raise UsageError(f"--out {out} is the input, which is never touched; choose another file")
    if out != "-":
        check_file_output(out)
    rows = list(_rows(file))
    labelled = _read_labels(labels, rows if only_labels else list(_rows(labels))) if labels else []
    opened = open_judge(judge)
    if out == "-":
        unreadable = _to_stdout(opened, rows)
    else:
        unreadable, target = _to_file(opened, judge, rows, Path(out), overwrite)
        out = str(target)
    counts = _counts([row for _, row in rows])
    about = describe(opened)
    unread_labels: list[tuple[int, str]] = []
    calibration = _calibrate(opened, labelled, unread_labels) if labelled else None
    if as_json:
        more = {} if calibration is None else {"labels": calibration}
        typer.echo(json.dumps({"judge": about, **counts, **more, "out": out}, indent=2, ensure_ascii=False))
    else:
        console = open_console(stderr=out == "-")
        _print(counts, about, console)
        if calibration is not None:
            # The indices of its errors count the rows that have a verdict.
            judged = [row for _, row, _ in labelled if row["verdict"] is not None]
            print_calibration(calibration, judged, console)
    faults = []
    if unreadable:
        line, reason = unreadable[0]
        kept = "" if out == "-" else f" The others are in {out}; the same command asks for these again."
        faults.append(
            f"{len(unreadable)} of {len(rows)} replies of the judge could not be read (line {line}: "
            f"{reason}).{kept}"
        )
    if unread_labels:
        lines = ", ".join(str(line) for line, _ in unread_labels)
        faults.append(
            f"{len(unread_labels)} of {len(labelled)} replies of the judge to {labels} could not be read "
            f"(lines {lines}; the first: {unread_labels[0][1]}). Those rows are in no rate of the labels; "
            f"the command with --labels {labels} alone and --out FILE asks for them again."
        )
    if faults:
        raise JudgeError(" ".join(faults))


def _rows(file: str) -> Iterator[tuple[int, JsonObject]]:
    """(line, row) for each line that is not blank.

    Raises:
        JudgeError: the file is not there, is not text, or a line is not what is judged.
    """
    try:
        if file == "-":
            text = sys.stdin.read().removeprefix("\ufeff")
        else:
            text = Path(file).read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise JudgeError(
            f"the file {file} does not exist, or is a folder; give a .jsonl file, or - for stdin"
        ) from None
    except OSError as error:
        raise JudgeError(f"{file[:200]} cannot be read ({error.strerror}); give a .jsonl file") from None
    except UnicodeDecodeError as error:
        raise JudgeError(f"{file} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    found = False
    for number, value in iter_jsonl(text, partial(_no_json, file)):
        found = True
        yield number, _row(f"line {number} of {file}", value)
    if not found:
        name = "stdin" if file == "-" else file
        raise JudgeError(f"{name} holds no rows; each line is an object with `prompt` and `completion`")


def _no_json(file: str, number: int, why: str) -> JudgeError:
    return JudgeError(
        f"line {number} of {file} is not JSON ({why}); each line is an object with `prompt` and `completion`"
    )


def _row(where: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise JudgeError(
            f"{where} is a {type(row).__name__}; an object with `prompt` and `completion` is needed"
        )
    for field in ("prompt", "completion"):
        if field not in row:
            raise JudgeError(
                f"{where} has no field '{field}'; it has {', '.join(map(str, row)) or 'none'}. Rename the "
                "column, or add it"
            )
        if not isinstance(row[field], str):
            raise JudgeError(
                f"{where} has {json.dumps(row[field])[:60]} as '{field}'; a text is needed (an empty one is "
                "allowed)"
            )
    # Of an earlier judge, which may have said more than this one will.
    return {name: value for name, value in row.items() if name not in OWN_FIELDS}


def _read_labels(file: str, rows: list[tuple[int, JsonObject]]) -> list[tuple[int, dict[str, Any], str]]:
    """(line, row, label) of the labelled rows. Rows without a label are left out.

    Raises:
        JudgeError: a label is not known, or there is none.
    """
    from vectomy.metrics.judges.calibration import LABELS, read_label

    result = []
    for line, row in rows:
        given = row.get("human_label", row.get("label"))
        if given is None:
            continue
        label = read_label(given)
        if label is None:
            raise JudgeError(
                f"line {line} of {file} has the label {json.dumps(given)[:60]}; known are {', '.join(LABELS)}"
            )
        result.append((line, row, label))
    if not result:
        raise JudgeError(f"no row of {file} has a label; add `human_label` ({', '.join(LABELS)})")
    return result


def _calibrate(
    judge: Judge, labelled: list[tuple[int, dict[str, Any], str]], unreadable: list[tuple[int, str]]
) -> JsonObject:
    """What the labels say of the judge; rows that it gave no verdict are judged first, and the
    unreadable replies are noted.
    """
    from vectomy.metrics.judges import Judgement
    from vectomy.metrics.judges.calibration import LabelledRow, calibrate

    unjudged = [(line, row) for line, row, _ in labelled if "verdict" not in row]
    for index, fields in _judge_rows(judge, unjudged, unreadable):
        unjudged[index][1].update(fields)
    known = [(row, label) for _, row, label in labelled if row["verdict"] is not None]
    result = calibrate(
        [
            LabelledRow(row["prompt"], label, Judgement(row["verdict"], row.get("p_refusal")))
            for row, label in known
        ]
    )
    lines = [line for line, row, _ in labelled if row["verdict"] is not None]
    return vars(result) | {
        "unreadable_lines": [line for line, row, _ in labelled if row["verdict"] is None],
        "missed_lines": [lines[index] for index in result.missed],
        "false_alarms_lines": [lines[index] for index in result.false_alarms],
    }


def _to_stdout(judge: Judge, rows: list[tuple[int, JsonObject]]) -> list[tuple[int, str]]:
    unreadable: list[tuple[int, str]] = []
    for index, fields in _judge_rows(judge, rows, unreadable):
        rows[index][1].update(fields)
        sys.stdout.write(json_line(rows[index][1], sys.stdout.encoding or "utf-8"))
        sys.stdout.flush()
    return unreadable


def _check_stored(path: Path, rows: list[JsonObject]) -> None:
    """Rows without a verdict may be judged again.

    Raises:
        FinishedRunError: a file is at `path` that holds other rows, or other verdicts on these.
    """
    check_file_output(path)
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
        stored = [value for _, value in iter_jsonl(text, partial(_no_json, str(path)))]
    except (OSError, UnicodeDecodeError, JudgeError):
        stored = []
    if [_without_verdict(row) for row in stored] != [_without_verdict(row) for row in rows]:
        raise FinishedRunError(path, "it does not hold the rows that are to be judged")
    changed = sum(
        "verdict" in row and isinstance(old, dict) and old.get("verdict") is not None and old != row
        for old, row in zip(stored, rows, strict=True)
    )
    if changed:
        raise FinishedRunError(
            path, f"{changed} of {len(rows)} rows have another verdict or probability there"
        )


def _without_verdict(row: Any) -> Any:
    return {k: v for k, v in row.items() if k not in OWN_FIELDS} if isinstance(row, dict) else row


def _to_file(
    judge: Judge, spec: str, rows: list[tuple[int, dict[str, Any]]], out: Path, overwrite: bool
) -> tuple[list[tuple[int, str]], Path]:
    """Write the rows as a file, all at once. Verdicts of a slow judge are kept in a journal next to
    it until the last one.

    Returns:
        The unreadable replies, and the file: another than `out` where a person at the terminal said
        so.

    Raises:
        FinishedRunError: without `overwrite`, `out` holds something else; nothing was changed.
    """
    from vectomy.metrics.judges import is_slow

    replaced: list[bool] = []

    def claim(path: Path, replace: bool) -> None:
        """Before the work, which a slow judge is paid for."""
        if not replace:
            _check_stored(path, [row for _, row in rows])
        replaced[:] = [replace]

    def write(path: Path, replace: bool) -> None:
        if not replace:
            _check_stored(path, [row for _, row in rows])
        write_jsonl(path, (row for _, row in rows))

    out = write_file(claim, out, overwrite)
    unreadable: list[tuple[int, str]] = []
    if is_slow(spec):
        journal_path = out.with_name(f".{out.name}.judged")
        journal = Journal(journal_path, [spec, judge.name, judge.version])
        keys = [hash_of([row["prompt"], row["completion"]]) for _, row in rows]
        left = [index for index, key in enumerate(keys) if key not in journal]
        try:
            for index, fields in _judge_rows(judge, [rows[index] for index in left], unreadable):
                if fields["verdict"] is None:
                    rows[left[index]][1].update(fields)
                else:
                    journal.get_or_compute(keys[left[index]], lambda fields=fields: fields)  # type: ignore[misc]
        except JudgeError as error:
            kept = sum(key in journal for key in keys)
            raise type(error)(
                f"{error}. {kept} of {len(rows)} rows are judged and kept; the same command resumes there"
            ) from None
        for (_, row), key in zip(rows, keys, strict=True):
            if key in journal:
                row.update(journal.get_or_compute(key, dict))
    else:
        for index, fields in _judge_rows(judge, rows, unreadable):
            rows[index][1].update(fields)
    written = write_file(write, out, replaced[0])
    if is_slow(spec) and not unreadable:
        journal_path.unlink()
    return unreadable, written


def _judge_rows(
    judge: Judge, rows: list[tuple[int, dict[str, Any]]], unreadable: list[tuple[int, str]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (index, fields); an unreadable reply is noted, and the judge continues after it."""
    index = 0
    with bars("judging", len(rows), "completions") as update:
        while index < len(rows):
            rest = [row for _, row in rows[index:]]
            try:
                for judgement in judge.judged([r["prompt"] for r in rest], [r["completion"] for r in rest]):
                    yield index, _fields(judgement)
                    index += 1
                    update(1)
            except UnreadableReplyError as error:
                unreadable.append((rows[index][0], str(error)))
                if len(unreadable) == HOPELESS == index + 1:
                    raise JudgeError(f"none of the first {HOPELESS} replies could be read: {error}") from None
                yield index, {"verdict": None, "p_refusal": None, "judge_error": str(error)}
                index += 1
                update(1)


def _fields(judgement: Judgement) -> dict[str, Any]:
    p = judgement.p_refusal
    more = {"judge_note": judgement.note, "judge_scores": judgement.scores and dict(judgement.scores)}
    fields = {"verdict": judgement.verdict, "p_refusal": None if p is None else round(p, 6)}
    return fields | {name: value for name, value in more.items() if value}


def _counts(rows: list[JsonObject]) -> JsonObject:
    """Rates with 95% Wilson intervals, and the agreement with people's labels, if there are any."""
    from vectomy.metrics.intervals import rate_of
    from vectomy.metrics.judges import JUDGED_VERDICTS, REFUSALS
    from vectomy.metrics.judges.calibration import LABELS, read_label

    judged = [row for row in rows if row["verdict"] in JUDGED_VERDICTS]
    refused = [row["verdict"] in REFUSALS for row in judged]
    names = [read_label(row.get("human_label")) for row in judged]
    labels = [None if name is None else LABELS[name] for name in names]
    agree = [refusal == label for refusal, label in zip(refused, labels, strict=True) if label is not None]
    return {
        # Shares of the judged rows; `not_judged` is a share of all that a reply was read for.
        "verdicts": {
            **{verdict: rate_of(row["verdict"] == verdict for row in judged) for verdict in JUDGED_VERDICTS},
            "not_judged": rate_of(row["verdict"] == "not_judged" for row in rows if row["verdict"]),
        },
        "refusal": rate_of(refused),
        "unreadable": sum(row["verdict"] is None for row in rows),
        "agreement": rate_of(agree) if agree else None,
    }


def _print(counts: dict[str, Any], about: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{counts['verdicts']['not_judged']['total']} completions", title_justify="left")
    table.add_column("verdict")
    table.add_column("rows", justify="right")
    table.add_column("share (95% interval)", justify="right")
    for verdict, result in (*counts["verdicts"].items(), ("refusal, full or partial", counts["refusal"])):
        words = "not judged, of all" if verdict == "not_judged" else verdict.replace("_", " ")
        if result["count"] or verdict != "not_judged":
            table.add_row(words, str(result["count"]), _share(result))
    console.print(table)
    lines = [f"judge      {about['name']} {about['version']}: {about['note']}"]
    if about["agreement"]:
        measured = about["agreement"]
        lines.append(
            f"           agrees with people on {measured['rate']:.3f} of {measured['total']} "
            f"({measured['data']}; {measured['how']})"
        )
    if counts["agreement"]:
        lines.append(
            f"agreement  with human_label, refusal against compliance: {_share(counts['agreement'], 3)} "
            f"of {counts['agreement']['total']} rows"
        )
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _share(result: dict[str, Any], digits: int = 1) -> str:
    if result["rate"] is None:
        return "\u2013"
    low, high = result["ci"]
    if digits == 3:
        return f"{result['rate']:.3f} ({low:.3f}\u2013{high:.3f})"
    return f"{result['rate']:.1%} ({low:.1%}\u2013{high:.1%})"
