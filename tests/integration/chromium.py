"""Drives a headless Chromium over a pipe with its DevTools protocol: no driver, no port, no package."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
    "--window-size=1440,1100",
)


def find() -> str | None:
    """Path of a Chromium; None when there is none."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    candidates = (Path(folder) / name for name in _NAMES for folder in folders)
    return next((str(path) for path in candidates if os.access(path, os.X_OK)), None)


class Chromium:
    """One browser with one tab. What its console or its policy complains of is in `complaints`."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads its commands from descriptor 3 and answers on 4.
        command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *flags],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._sent = 0
        self._buffer = b""
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self._session = ""
        (target,) = [one for one in self._call("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(timeout=20)
        self._profile.cleanup()

    # -- what a user does ------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go there, and wait until the page and its scripts are loaded."""
        self.complaints.clear()
        self.requested.clear()
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def press(self, key: str) -> None:
        """Press a key where the focus is: "Enter", "Tab", "ArrowLeft" ..."""
        text = {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self._call("Input.dispatchKeyEvent", type="keyDown", **common, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def hover(self, x: float, y: float) -> None:
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    @contextmanager
    def blocking(self, pattern: str) -> Iterator[None]:
        """Let no request to such an address through."""
        self._call("Network.setBlockedURLs", urls=[pattern])
        yield
        self._call("Network.setBlockedURLs", urls=[])

    # -- what is on the page ---------------------------------------------------------------------

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self) -> str:
        """All that can be read on the page."""
        return str(self.ask("document.body.innerText"))

    def until(self, expression: str, *, within_s: float = 30) -> None:
        """Wait until a JavaScript expression is true."""
        self._wait(lambda: bool(self.ask(f"Boolean({expression})")), expression, within_s)

    def until_text(self, text: str, *, within_s: float = 30) -> None:
        self._wait(lambda: text in self.text(), f"{text!r} on the page", within_s)

    def _wait(self, condition: Callable[[], bool], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {within_s:g} s for {what}\n{self.complaints}\n{self.text()}")
            time.sleep(0.05)

    # -- the protocol ----------------------------------------------------------------------------

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 30
        while True:
            received = self._receive(deadline, method)
            if received.get("id") == self._sent:
                if "error" in received:
                    raise AssertionError(f"{method}: {received['error']}")
                result: dict[str, Any] = received["result"]
                return result
            self._note(received)

    def _receive(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 16) if ready else b""
            if not chunk:
                raise AssertionError(f"Chromium did not answer {method}; exit code {self._process.poll()}")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        received: dict[str, Any] = json.loads(text)
        return received

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.requested.append(params["request"]["url"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str(params["args"]))
