"""An installed Chromium without a window, driven over its DevTools pipe with the standard library
alone.

`--remote-debugging-pipe` makes the browser read commands from file descriptor 3 and write replies
and events to 4, as JSON with a zero byte behind each
(https://chromedevtools.github.io/devtools-protocol).
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Browser", "Tab", "installed"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    # Containers seldom allow what the sandbox needs; what is opened here is our own page, without a
    # network.
    "--no-sandbox",
)
PATIENCE = 60.0


def installed() -> str | None:
    """The browser: that of the environment variable VECTOMY_CHROMIUM, else the first on PATH, else
    None.
    """
    named = os.environ.get("VECTOMY_CHROMIUM")
    return (
        shutil.which(named) if named else next((path for name in NAMES if (path := shutil.which(name))), None)
    )


class Browser:
    """`with Browser(installed()) as browser: browser.open(file)`; no process and no folder are left
    behind.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.number = 0
        self.buffer = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        self.home = tempfile.mkdtemp(prefix="chromium-")
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        nothing = os.open(os.devnull, os.O_RDWR)
        # Duplicated to high numbers first, lest one of ours be 3 or 4 itself.
        high = [os.dup(end) for end in (to_read, to_write)]
        moves = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)]
        moves += [(os.POSIX_SPAWN_DUP2, nothing, standard) for standard in (0, 1, 2)]
        command = [self.path, *FLAGS, f"--user-data-dir={self.home}", "about:blank"]
        self.process = os.posix_spawn(self.path, command, os.environ, file_actions=moves, setpgroup=0)
        for end in (to_read, to_write, nothing, *high):
            os.close(end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.write)
        os.close(self.read)
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its reply; events that come meanwhile are kept.

        Raises:
            RuntimeError: the browser refuses the command, or has ended.
            TimeoutError: no reply within a minute.
        """
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (reply := self.next()).get("id") != self.number:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error'].get('message')}")
        found: dict[str, Any] = reply["result"]
        return found

    def next(self) -> dict[str, Any]:
        """The next message of the browser."""
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{self.path} said nothing for {PATIENCE:g} s")
            more = os.read(self.read, 1 << 20)
            if not more:
                raise RuntimeError(
                    f"{self.path} ended by itself; run it by hand to see why: {self.path} --headless"
                )
            self.buffer += more
        message, _, self.buffer = self.buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, file: Path, **look: Any) -> Tab:
        """A new tab with the file, looked at as `Tab.look` says."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.look(**look)
        tab.load(file)
        return tab


class Tab:
    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **parameters)

    def look(
        self,
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        paper: bool = False,
        scripts: bool = True,
        scale: float = 1,
    ) -> None:
        """As on a screen of that size in CSS pixels, dark or light, or on paper."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def load(self, file: Path) -> None:
        """Open the file, and wait until it is loaded."""
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.browser.events.append(self.browser.next())

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for event in self.browser.events if event.get("sessionId") == self.session]

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]

    @property
    def complaints(self) -> list[str]:
        """What went to the console: errors, warnings, exceptions, breaches of the page's policy."""
        found = []
        for event in self.events:
            if event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                found.append(json.dumps(event["params"]))
        return found

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(json.dumps(reply["exceptionDetails"]))
        return reply["result"].get("value")

    def press(self, key: str) -> None:
        """One key, held and let go."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowDown": 40}
        text = {"Enter": "\r", " ": " "}.get(key)
        common = {"key": key, "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, *, whole: bool = True) -> bytes:
        """A PNG of the whole page, or of what the screen shows."""
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        )

    def printed(self) -> bytes:
        """A PDF of the page."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.events = [
            event for event in self.browser.events if event.get("sessionId") != self.session
        ]
