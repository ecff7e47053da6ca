"""A headless Chromium behind the DevTools protocol's pipe: what a page asks for, what it logs, what it shows."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 120.0
"""Seconds for one answer: the machine may be busy."""


def chromium() -> str:
    """The browser's path; skips loudly where there is none."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"NOT TESTED: the page in a browser, because none of {', '.join(NAMES)} is installed")
    return found


@dataclass
class Browser:
    """One page. `events` holds everything the browser said by itself."""

    send: Callable[[bytes], None]
    receive: Callable[[], bytes]
    session: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _last: int = 0

    def call(self, method: str, **params: Any) -> Any:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.send(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self.receive())
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, method: str) -> None:
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.receive()))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def requested(self) -> list[str]:
        """Addresses of everything the page loaded or tried to."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the page or the browser wrote to the console: errors, violations of the policy, exceptions."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(e["params"]) for e in self.events if e.get("method") in kinds]

    def screenshot(self) -> bytes:
        """PNG of what is in view."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def opened(path: Path, profile: Path) -> Iterator[Browser]:
    """Open a local file; leaves no process behind."""
    to_browser, ours = os.pipe()
    theirs, from_browser = os.pipe()
    reader, writer = theirs, ours
    command = f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}'
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        ["bash", "-c", command, chromium(), *flags, "--no-first-run", "--window-size=1100,900", "about:blank"],
        pass_fds=(to_browser, from_browser),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    buffer = b""

    def receive() -> bytes:
        nonlocal buffer
        deadline = time.monotonic() + WAIT
        while b"\0" not in buffer:
            assert select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0], "the browser is silent"
            part = os.read(reader, 1 << 16)
            assert part, "the browser ended"
            buffer += part
        message, _, buffer = buffer.partition(b"\0")
        return message

    def send(message: bytes) -> None:
        while message:
            message = message[os.write(writer, message) :]

    try:
        browser = Browser(send, receive)
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=path.as_uri())
        browser.wait_for("Page.loadEventFired")
        yield browser
    finally:
        process.kill()
        process.wait()
        os.close(writer)
        os.close(reader)
