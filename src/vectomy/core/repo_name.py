"""Names of repositories on the Hugging Face Hub: OWNER/NAME and OWNER/NAME@REVISION.
Loads no torch.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["explain_gated", "split_revision"]

REPOSITORY = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95})@(?P<revision>\w[\w./-]{0,199})"
)


def split_revision(name: str) -> tuple[str, str | None]:
    """OWNER/NAME and the branch, tag or commit behind an @, if there is one. A path that exists is
    no repository.
    """
    match = REPOSITORY.fullmatch(name)
    if match is None or Path(name).exists():
        return name, None
    return match["name"], match["revision"]


def explain_gated(repo_id: str, kind: str = "model") -> str:
    """What to do about a repository whose owner wants its terms accepted.

    Args:
        kind: model or data set.
    """
    folder = "datasets/" if kind == "data set" else ""
    return (
        f"the {kind} '{repo_id}' is gated; accept its terms on https://huggingface.co/{folder}{repo_id}, and "
        "log in with `hf auth login` (or set HF_TOKEN) as the user who accepted them"
    )
