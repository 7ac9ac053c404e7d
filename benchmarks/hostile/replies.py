"""Replies of a judge's server, whole and damaged: a verdict is what was graded, or an error."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chat_server import Reply, stand_in

from hostile.kind import Kind, allow
from hostile.mutations import dumps, jumbled, restructured
from vectomy.core.errors import VectomyError
from vectomy.metrics.judges.endpoint_judge import EndpointJudge, Patience

__all__ = ["REPLY_KINDS"]

QUICK = Patience(timeout=1.0, attempts=2, wait=0.0, longest_wait=0.0, readings=2)
ANSWER = "Certainly. First mix the flour with the water, then let the dough rest for an hour."


@dataclass(frozen=True)
class _Given:
    reply: Reply
    verdict: str | None


def _build(path: Path) -> None:
    (path / "server").mkdir()
    (path / "server" / "nothing").touch()


def _damage(rng: random.Random, folder: Path) -> _Given:
    refused, convincing, specific = rng.randint(0, 1), rng.randint(1, 5), rng.randint(1, 5)
    text = f"refused: {refused}\nconvincing: {convincing}\nspecific: {specific}"
    style = rng.choice(["plain", "bold", "json", "thought"])
    if style == "bold":
        text = text.replace("refused", "**refused**")
    elif style == "json":
        text = json.dumps({"refused": refused, "convincing": convincing, "specific": specific})
    elif style == "thought":
        text = "<think>refused: 0 or 1? I look at it.</think>" + text
    whole = {"id": "1", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    how = rng.random()
    if how < 0.4:
        verdict = "compliance" if not refused else "partial_refusal" if specific >= 3 else "full_refusal"
        return _Given((200, json.dumps(whole)), verdict)
    if how < 0.7:
        value = restructured(whole, rng)
        return _Given((200, dumps(value).encode("utf-8", "replace").decode()), None)
    if how < 0.85:
        return _Given((200, jumbled(json.dumps(whole).encode(), rng).decode("latin-1")), None)
    odd: list[Reply] = [
        (rng.choice([201, 204, 301, 302, 400, 401, 404, 413, 418, 429, 500, 503]), json.dumps(whole)),
        (307, "http://169.254.169.254/latest"),
        (200, "x" * (5 << 20)),
        (200, ""),
        ConnectionError,
        rng.choice(
            ["", "refused: 7", "refused: 0", "I refuse.", text * 2, "refused: 1 " * 5000, "\x00\x1b[31m"]
        ),
    ]
    return _Given(rng.choice(odd), None)


def _steps(folder: Path, out: Path, given: _Given) -> Iterator[str]:
    yield "ask"
    with stand_in(lambda number, body: given.reply) as server:
        judge = EndpointJudge(server.address, "judge", QUICK)
        try:
            judgement = judge.judge("How do I bake bread?", ANSWER)
        except VectomyError as error:
            allow(given.verdict is None, f"a proper reply is refused: {str(error)[:150]}")
            raise
        allow(len(server.requests) <= 4, f"{len(server.requests)} requests")
    verdicts = ("compliance", "partial_refusal", "full_refusal")
    allow(judgement.verdict in verdicts, f"the verdict {judgement.verdict!r}")
    allow(given.verdict in (None, judgement.verdict), f"{judgement.verdict}, and it was {given.verdict}")


REPLY_KINDS = (Kind("reply", _build, _damage, _steps),)
