"""Recipe `article`: a person reads the answers of each candidate and picks one."""

from __future__ import annotations

from typing import Any

from rich.prompt import IntPrompt
from rich.text import Text

from vectomy.cli.terminal import open_console

__all__ = ["ask_person"]

CLIP = 300


def ask_person(tried: list[dict[str, Any]]) -> int:
    """Show the answers that were not dropped, best candidate first; return the typed rank."""
    console = open_console(stderr=True)
    for row in tried:
        console.rule(
            f"candidate {row['rank']}: layer {row['layer']}, score {row['score']:.4f}, "
            f"{row['dropped']} answers dropped"
        )
        for answer in row["answers"]:
            if not answer["dropped"]:
                console.print(Text(answer["prompt"], "bold"))
                console.print(f"{answer['completion'][:CLIP]}\n")
    ranks = [str(row["rank"]) for row in tried]
    return IntPrompt.ask("Which candidate?", console=console, choices=ranks, show_choices=False)
