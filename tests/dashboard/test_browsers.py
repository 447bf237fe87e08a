"""What a browser does with the docs, and with foreign pages that call a coordinator on its own machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from playwright.sync_api import expect

from tests.dashboard.browser import REBOUND, Browser
from tests.dashboard.conftest import OpenPage
from tests.server import ServerProcess
from tests.worlds import SMALL


@pytest.mark.exhaustive
def test_the_docs_work_under_their_policy(open_page: OpenPage, server: ServerProcess) -> None:
    page = open_page("docs", token=None).page
    expect(page.get_by_text("/v1/previews", exact=True)).to_be_visible()
    page.get_by_text("/healthz", exact=True).click()
    page.get_by_role("button", name="Try it out").click()
    page.locator("#operations-operations-healthz_healthz_get").get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table tr.response .response-col_status")).to_contain_text("200")
    answer = page.request.get(f"{server.url}/docs")
    assert "'unsafe-inline'" not in answer.headers["content-security-policy"].partition("style-src")[0]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<!doctype html><title>a page of somebody else</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a site whose name resolves to this machine."""
    site = HTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield f"http://{REBOUND}:{site.server_port}"
    site.shutdown()
    thread.join()
    site.server_close()


@pytest.mark.exhaustive
def test_a_page_of_another_site_can_neither_ask_nor_change(
    chromium: Browser, fresh: ServerProcess, elsewhere: str
) -> None:
    api = fresh.api()
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", {"map": "small", "world_size": 1, "batch_size": 8}, 201)
    context = chromium.context()
    page = context.new_page()
    port = fresh.url.rpartition(":")[2]
    # by the name that was made to resolve to this machine: the same site, as the browser sees it
    answer = page.goto(f"http://{REBOUND}:{port}/v1/runs")
    assert answer is not None
    assert answer.status == 421
    forged = (
        "fetch(url, {method: 'POST', mode: 'no-cors', body: JSON.stringify({session: 's', resume: 'start'})})"
    )
    page.goto(elsewhere)
    page.evaluate(f"url => {forged}", f"{fresh.url}/v1/runs/run/sessions")
    page.evaluate("url => fetch(url, {method: 'DELETE'}).catch(String)", f"{fresh.url}/v1/runs/run")
    page.evaluate("url => fetch(url, {mode: 'no-cors'})", f"{fresh.url}/v1/runs/run/ledger")
    assert api.get("/v1/runs/run")["generation"] == 1
    counted = api.ask("GET", "/metrics").text
    assert 'method="POST",route="unmatched",status="421"' in counted
    assert 'method="GET",route="unmatched",status="421"' in counted
    assert "/ledger" not in counted
    context.close()
