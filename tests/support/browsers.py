"""Driving a headless browser: open a page without any network, ask it things, and hear what it complains about."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest


class Page:
    """One open page.

    Attributes:
        complaints: errors and warnings on the console, exceptions, and violations of the page's policy.
        requests: every address that was asked for.
    """

    def __init__(self, runner: asyncio.Runner, tab: Any) -> None:
        self._runner, self._tab = runner, tab
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def send(self, command: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        reply = self._runner.run(self._tab.send_command(command, params=params))
        assert "error" not in reply, reply
        return reply["result"]

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page. Works although the page's policy forbids foreign scripts."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as png."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def pause(self, seconds: float) -> None:
        """Let time pass, in which the page's events are heard."""
        self._runner.run(asyncio.sleep(seconds))

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """The value of an expression as soon as it is true in the page's eyes; fails if it is not in time."""
        end = time.monotonic() + seconds
        while not (value := self.ask(expression)):
            assert time.monotonic() < end, f"{expression} is {value!r} after {seconds} s; {self.complaints}"
            self.pause(0.05)
        return value

    def click(self, x: float, y: float) -> None:
        """Move the mouse there, in pixels of the view, press and release its left button."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def click_on(self, selector: str) -> None:
        """Bring the first element of a selector into view and click its middle."""
        self.click(*self.middle(selector))

    def middle(self, selector: str) -> tuple[float, float]:
        """Where the middle of an element is, brought into view, in pixels of the view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.wait(f"!!{element}")
        self.ask(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.pause(0.1)
        box = f"{element}.getBoundingClientRect()"
        x, y = self.ask(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]")
        return x, y

    def type_into(self, selector: str, text: str) -> None:
        """Click a field and write ``text`` in place of what it holds."""
        self.click_on(selector)
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", text=text)

    async def open(self, address: str) -> None:
        self._tab.subscribe("*", self._hear)
        for domain in ("Runtime", "Log", "Network", "Page"):
            await self._tab.send_command(f"{domain}.enable")
        loaded = self._tab.subscribe_once("Page.loadEventFired")
        await self._tab.send_command("Page.navigate", params={"url": address})
        await asyncio.wait_for(loaded, 60)

    async def _hear(self, event: dict[str, Any]) -> None:
        name, params = event.get("method"), event.get("params", {})
        if name == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif name == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif name == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(params["entry"]))


class Browser:
    """A headless browser that reaches this machine and nothing else; it begins with the first page that is opened."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._driven: Any = None

    def opened(self, file: Path, width: int = 1400) -> AbstractContextManager[Page]:
        """The page of a file; skips the test where there is no browser."""
        return self.opened_at(file.as_uri(), width)

    @contextmanager
    def opened_at(self, address: str, width: int = 1400, height: int = 1000) -> Iterator[Page]:
        """The page at an address, in a tab of its own; skips the test where there is no browser."""
        if self._driven is None:
            self._driven = self._runner.run(_begun())
        tab = self._runner.run(self._driven.create_tab("about:blank"))
        try:
            page = Page(self._runner, tab)
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            page.send("Emulation.setDeviceMetricsOverride", **size)
            self._runner.run(page.open(address))
            yield page
        finally:
            self._runner.run(self._driven.close_tab(tab))

    def close(self) -> None:
        """End it."""
        if self._driven is not None:
            self._runner.run(self._driven.close())
        self._runner.close()


def found_browser() -> str:
    """Where a browser is; skips the test where there is none."""
    for name in (os.environ.get("BROWSER_PATH", ""), "chromium", "chromium-browser", "google-chrome"):
        if name and (found := shutil.which(name)):
            return found
    pytest.skip("no Chromium-based browser is installed")


async def _begun() -> Any:
    choreographer = pytest.importorskip("choreographer", reason="choreographer, which drives the browser, is missing")
    logging.getLogger("choreographer").setLevel(logging.ERROR)
    driven = choreographer.Browser(path=found_browser(), headless=True, proxy_server="127.0.0.1:9")
    await driven.open()
    return driven
