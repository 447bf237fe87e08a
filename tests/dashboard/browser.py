"""A headless Chromium, and pages that are watched: their console, and the hosts that they contact."""

from __future__ import annotations

import shutil
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Request, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000
REBOUND = "rebound.example"
"""A name of somebody else's that resolves to this machine."""


class ChromiumMissingError(Exception):
    pass


class Browser:
    def __enter__(self) -> Browser:
        path = next((found for name in NAMES if (found := shutil.which(name))), None)
        if path is None:
            raise ChromiumMissingError(f"none of {', '.join(NAMES)} is on PATH")
        expect.set_options(timeout=WAIT_MS)
        self._playwright = sync_playwright().start()
        # as root, and in containers, its sandbox cannot be set up
        arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1"]
        self._browser = self._playwright.chromium.launch(executable_path=path, args=arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    def context(self, **options: Any) -> BrowserContext:
        context = self._browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(WAIT_MS)
        return context


class Watch:
    """One page. ``faults``: errors on its console, breaches of its policy, and requests that leave the coordinator.
    ``forgiven``: HTTP statuses that the console may report, because the page is meant to get them."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.faults: list[str] = []
        self.asked: list[str] = []
        self.forgiven: set[int] = set()
        self._context = context
        self.page = context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("request", self._asks)

    def open(self, hash: str, token: str | None = None) -> None:
        if token is not None:
            self.page.add_init_script(f"sessionStorage.setItem('bucketline.token', {token!r})")
        self.page.goto(f"{self.url}/{hash}")

    def close(self) -> None:
        self._context.close()

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not any(
            f"status of {status}" in message.text for status in self.forgiven
        ):
            self.faults.append(f"{message.type}: {message.text} {message.location.get('url')}")

    def _asks(self, request: Request) -> None:
        parts = urlsplit(request.url)
        self.asked.append(parts.path)
        if parts.scheme in ("http", "https") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.faults.append(f"asks {request.url}")
