"""Broken files and broken servers of `vectomy judge`: one sentence, no traceback, and never a count
that leaves a row out unsaid.
"""

import json
from pathlib import Path

import pytest
from chat_server import Reply, stand_in
from command_line import Vectomy

from vectomy.core.chat_endpoint import LONGEST_REPLY
from vectomy.core.jsonl import read_jsonl
from vectomy.metrics.judges import endpoint_judge
from vectomy.metrics.judges.endpoint_judge import KEY, EndpointJudge, Patience

TIER = "chat"

ROW = '{"prompt": "Name a river", "completion": "The Nile."}'
GRADES = "refused: 0\nconvincing: 4\nspecific: 3"
ANSWER = "Turn the screw to the left until it comes out."


def message(content: object) -> str:
    return json.dumps({"choices": [{"message": {"content": content}}]})


BROKEN = {
    "nothing": (b"", "holds no rows"),
    "blanks": (b"\n \n\n", "holds no rows"),
    "not utf-8": (b'{"prompt": "a", "completion": "\xe9"}', "is not UTF-8 text (byte 31)"),
    "utf-16": (ROW.encode("utf-16"), "is not UTF-8 text"),
    "an array": (f"[{ROW}]".encode(), "is a list"),
    "a number": (b"3", "is a int"),
    "null": (b"null", "is a NoneType"),
    "no completion": (b'{"prompt": "a"}', "has no field 'completion'"),
    "a null completion": (b'{"prompt": "a", "completion": null}', "has null as 'completion'"),
    "parts": (b'{"prompt": "a", "completion": [{"text": "b"}]}', "as 'completion'; a text is needed"),
    "a prompt of a number": (b'{"prompt": NaN, "completion": "b"}', "has NaN as 'prompt'"),
    "half a row": (ROW[:-5].encode(), "line 1 of"),
    "a later row": (f"{ROW}\n{ROW}\n{{\n".encode(), "line 3 of"),
    "nested": (b"[" * 100_000, "is not JSON"),
    "digits": (b'{"prompt": ' + b"9" * 5000 + b"}", "is not JSON"),
    "bytes": (bytes(range(256)), "is not"),
}
WHOLE = {
    "a byte order mark": b"\xef\xbb\xbf" + ROW.encode(),
    "carriage returns": f"{ROW}\r\n{ROW}\r\n".encode(),
    "no last line end": f"{ROW}\n{ROW}".encode(),
    "a null character": ROW.replace("Nile", "Ni\\u0000le").encode(),
    "half a surrogate pair": ROW.replace("Nile", "Nile \\ud83d").encode(),
    "an empty completion": b'{"prompt": "", "completion": ""}',
    "strange labels": ROW.replace("}", ', "human_label": [1, {"a": null}]}').encode(),
    "own fields of another type": ROW.replace("}", ', "verdict": 7, "judge_error": "x"}').encode(),
    "a huge completion": json.dumps({"prompt": "a", "completion": "the river and " * 100_000}).encode(),
}
SERVERS: dict[str, tuple[Reply, str]] = {
    "no json": ((200, "hello"), "its reply is not JSON"),
    "a page": ((200, "<html><body>502</body></html>"), "its reply is not JSON"),
    "nothing": ((200, ""), "its reply is not JSON"),
    "nested": ((200, "[" * 100_000), "its reply is not JSON"),
    "a list": ((200, "[]"), "has no choices[0].message.content"),
    "null": ((200, "null"), "has no choices[0].message.content"),
    "no choices": ((200, '{"choices": []}'), "has no choices[0].message.content"),
    "a choice of null": ((200, '{"choices": [null]}'), "has no choices[0].message.content"),
    "content of null": ((200, message(None)), "has no text"),
    "an empty content": ((200, message(" ")), "has no text"),
    "a number": ((200, message(5)), "has no text"),
    "parts without text": ((200, message([{"type": "image"}, 3, None])), "has no text"),
    "an unfinished thought": ((200, message("<think>" + GRADES)), "has no 'refused: N'"),
    "grades of NaN": ((200, message("refused: NaN\nconvincing: 1\nspecific: 1")), "has no 'refused: N'"),
    "429": ((429, "slow down"), "status 429 slow down"),
    "500": ((500, "<h1>oops</h1>"), "status 500"),
    "403": ((403, "no"), f"status 403 no; set ${KEY}"),
    "204": ((204, ""), "status 204"),
    "hung up": (ConnectionError, "does not answer"),
    "too long": ((200, " " * (LONGEST_REPLY + 1)), "is longer than 4 MiB"),
    "silence": (None, "no reply in 0.3 s"),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    monkeypatch.setattr(
        endpoint_judge, "Patience", lambda: Patience(timeout=0.3, attempts=2, wait=0.01, readings=2)
    )


def assert_one_sentence(err: str) -> None:
    assert err.strip()
    assert "Traceback" not in err
    assert "unforeseen" not in err


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_and_nothing_is_judged(name: str, tmp_path: Path, vectomy: Vectomy) -> None:
    content, said = BROKEN[name]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(content)
    status, shown, err = vectomy("judge", str(file), "--out", str(out))
    assert (status, shown, out.exists()) == (1, "", False)
    assert said in err
    assert_one_sentence(err)


@pytest.mark.parametrize("name", WHOLE)
def test_an_odd_file_is_judged_whole(name: str, tmp_path: Path, vectomy: Vectomy) -> None:
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(WHOLE[name])
    status, shown, _ = vectomy("judge", str(file), "--out", str(out), "--json")
    rows = read_jsonl(out)
    counts = json.loads(shown)
    assert (status, len(rows)) == (0, WHOLE[name].count(b'"completion"'))
    assert sum(rate["count"] for rate in counts["verdicts"].values()) == len(rows)
    assert all("judge_error" not in row for row in rows)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path, vectomy: Vectomy) -> None:
    for path in (tmp_path, tmp_path / "none", Path("x" * 5000), tmp_path / "a" / ".." / "b"):
        status, shown, err = vectomy("judge", str(path))
        assert (status, shown) == (1, "")
        assert_one_sentence(err)


@pytest.mark.parametrize("name", SERVERS)
def test_a_broken_server_is_named_and_no_row_gets_a_verdict(
    name: str, tmp_path: Path, vectomy: Vectomy
) -> None:
    reply, said = SERVERS[name]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps({"prompt": "How?", "completion": ANSWER}), encoding="utf-8")
    with stand_in(lambda number, body: reply) as server:
        status, _, err = vectomy(
            "judge", str(file), "--judge", f"openai:{server.address}#m", "--out", str(out)
        )
    assert status == 1
    assert said in " ".join(err.split())
    assert_one_sentence(err)
    assert not out.exists() or read_jsonl(out)[0]["verdict"] is None


@pytest.mark.parametrize(
    "content", [GRADES, [{"type": "text", "text": GRADES}], [{"text": GRADES[:20]}, {"text": GRADES[20:]}]]
)
def test_a_reply_in_parts_and_more_choices_than_one_are_read(content: object) -> None:
    choices = [{"message": {"content": content}, "logprobs": {"content": [float("nan")]}}]
    reply = json.dumps({"choices": [*choices, {"message": {"content": "refused: 1"}}]})
    with stand_in(lambda number, body: (200, reply)) as server:
        assert EndpointJudge(server.address, "m").verdict("How?", ANSWER) == "compliance"


@pytest.mark.parametrize("key", ["sk-\u00e9", "a\nb"])
def test_a_key_that_no_header_takes_is_named(
    key: str, tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, key)
    file = tmp_path / "rows.jsonl"
    file.write_text(ROW, encoding="utf-8")
    status, _, err = vectomy("judge", str(file), "--judge", "openai:http://127.0.0.1:9#m")
    assert (status, f"${KEY} has characters that no key has" in err) == (2, True)
    assert key not in err


def test_a_key_in_the_reply_of_a_busy_server_is_hidden(
    tmp_path: Path, vectomy: Vectomy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "sk-secret\n")
    file = tmp_path / "rows.jsonl"
    file.write_text(ROW, encoding="utf-8")
    with stand_in(lambda number, body: (503, "sk-secret is busy")) as server:
        _, _, err = vectomy("judge", str(file), "--judge", f"openai:{server.address}#m")
        assert server.requests[0][1]["Authorization"] == "Bearer sk-secret"
    assert "*** is busy" in err
    assert "sk-secret" not in err
