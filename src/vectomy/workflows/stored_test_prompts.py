"""The test prompts of a run as files that `--prompts` takes. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vectomy.core.errors import ArtifactError
from vectomy.core.json_value import JsonObject, JsonValue
from vectomy.core.jsonl import write_jsonl
from vectomy.core.run_folder import read_json

__all__ = ["write_test_prompts"]


def write_test_prompts(run: Path, folder: Path) -> dict[str, Path]:
    """Write the prompts that no stage before the evaluation has seen, a file for each side.

    A source of the run is not given itself: where it has no test set of its own, the direction was
    fitted on some of its prompts.

    Args:
        folder: made if it is not there.

    Returns:
        By side (positive, negative, and keep where there is one).

    Raises:
        ArtifactError: the run holds no test prompts.
    """
    stored = read_json(run / "prompts.json")
    result = {}
    for side, splits in stored.items():
        given = splits.get("test") if isinstance(splits, Mapping) else None
        rows = [{"messages": _turns_of(row)} for row in given or () if isinstance(row, Mapping)]
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            result[side] = folder / f"test-{side}.jsonl"
            write_jsonl(result[side], rows)
    if not result:
        raise ArtifactError(
            f"{run / 'prompts.json'} holds no test prompts; give others: "
            f"`vectomy evaluate {run} --prompts SRC`"
        )
    return result


def _turns_of(prompt: Mapping[str, JsonValue]) -> list[JsonValue]:
    """A stored prompt as turns with `role` and `content`."""
    system, history = prompt.get("system"), prompt.get("history")
    first: list[JsonObject] = [] if system is None else [{"role": "system", "content": system}]
    earlier = history if isinstance(history, list) else []
    return [*first, *earlier, {"role": "user", "content": prompt.get("text")}]
