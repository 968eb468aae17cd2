"""Driving a headless browser: open a page without any network, ask it things, and hear what it complains about."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def opened(file: Path, width: int = 1400) -> Iterator[Page]:
    """The page of a file in a browser that has no network; skips where there is no browser."""
    choreographer = pytest.importorskip("choreographer", reason="choreographer, which drives the browser, is missing")
    names = (os.environ.get("BROWSER_PATH", ""), "chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium-based browser is installed")
    logging.getLogger("choreographer").setLevel(logging.ERROR)

    async def start() -> tuple[Any, Any]:
        browser = choreographer.Browser(path=path, headless=True, proxy_server="127.0.0.1:9")
        await browser.open()
        return browser, await browser.create_tab("about:blank")

    with asyncio.Runner() as runner:
        browser, tab = runner.run(start())
        try:
            page = Page(runner, tab)
            size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
            page.send("Emulation.setDeviceMetricsOverride", **size)
            runner.run(page.open(file.as_uri()))
            yield page
        finally:
            runner.run(browser.close())
