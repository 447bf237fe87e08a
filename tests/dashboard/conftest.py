"""A served coordinator whose run is being consumed, one without anything, and a Chromium that looks at them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dashboard.browser import Browser, ChromiumMissingError, Watch
from tests.dashboard.job import NASTY, RUN, TOKENS, Job
from tests.server import COCO, ServerProcess

OpenPage = Callable[..., Watch]


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Asks for tokens. Run ``job`` is over COCO: some of its images are pruned, and 4 ranks wait to be moved. Run
    ``nasty`` is over ids that are markup."""
    server = ServerProcess(tmp_path_factory.mktemp("dashboard"), environ=TOKENS)
    api = server.api(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    api.put_csv("coco", COCO.read_bytes(), 201)
    spec = {"map": "coco", "world_size": 4, "batch_size": 8, "assign": {"max_crop_loss": 0.08}}
    api.put(f"/v1/runs/{RUN}", spec, 201)
    api.put_csv("nasty", "id,width,height\n" + "".join(f'"{NASTY}{i}",512,512\n' for i in range(4)), 201)
    api.put("/v1/runs/nasty", {"map": "nasty", "world_size": 1, "batch_size": 1}, 201)
    yield server
    server.close()


@pytest.fixture(scope="package")
def job(server: ServerProcess) -> Iterator[Job]:
    job = Job(server.url)
    yield job
    job.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[ServerProcess]:
    """Asks for no token, and has nothing."""
    server = ServerProcess(tmp_path)
    yield server
    server.close()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    # for this package alone: while it is open no other test of this process could run its own loop
    try:
        with Browser() as browser:
            yield browser
    except ChromiumMissingError as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture
def open_page(chromium: Browser, server: ServerProcess) -> Iterator[OpenPage]:
    """Opens ``hash`` in a new context, logged in with ``token`` unless that is None. Every page is checked at the end:
    no error on the console, nothing asked of anybody else."""
    opened: list[Watch] = []

    def open_(
        hash: str = "#/", *, token: str | None = "worker", url: str = server.url, **options: Any
    ) -> Watch:
        watch = Watch(chromium.context(**options), url)
        opened.append(watch)
        watch.open(hash, token and TOKENS.get(f"BUCKETLINE_{token.upper()}_TOKEN", token))
        return watch

    yield open_
    for watch in opened:
        watch.close()
    for watch in opened:
        assert watch.faults == []
