"""The page's files: who gets them, what their headers say, and that they contact no other host."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from importlib.resources import files

import httpx
import pytest

from tests.dashboard.job import TOKENS
from tests.server import ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, verify=False, trust_env=False) as client:
        yield client


def names_of(page: str) -> list[str]:
    return re.findall(r'(?:src|href)="(assets/[^"]+)"', page)


def policy(response: httpx.Response) -> dict[str, str]:
    header = response.headers["content-security-policy"]
    return dict(rule.strip().split(" ", 1) for rule in header.split(";"))


def test_the_page_needs_no_token_and_tells_nothing(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not any(told in page.text for told in ("job", "coco", *TOKENS.values()))
    assert client.get("/v1/runs").status_code == 401
    assert client.head("/").status_code == 200


def test_nothing_comes_from_elsewhere_and_nothing_runs_inline(client: httpx.Client) -> None:
    page = client.get("/")
    rules = policy(page)
    assert (rules["default-src"], rules["script-src"], rules["connect-src"]) == ("'none'", "'self'", "'self'")
    assert (rules["frame-ancestors"], rules["base-uri"]) == ("'none'", "'none'")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "://" not in page.text
    assert re.findall(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page.text) == []
    modules = [name for name in names_of(page.text) if name.endswith(".js")]
    seen = set()
    while modules:
        name = modules.pop()
        seen.add(name)
        script = client.get(name)
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert (
            re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", script.text) == []
        )
        assert set(re.findall(r"https?://[\w.]+", script.text)) <= {"http://www.w3.org"}
        imported = re.findall(r'from "\./([\w-]+\.js)"', script.text)
        modules += {f"{name.rpartition('/')[0]}/{each}" for each in imported} - seen
    assert len(seen) > 10


def test_files_are_packed_once_and_kept_for_ever(client: httpx.Client) -> None:
    folder = names_of(client.get("/").text)[0].rpartition("/")[0]
    plain = client.get(f"{folder}/plotly.min.js", headers={"Accept-Encoding": "identity"})
    packed = client.get(f"{folder}/plotly.min.js", headers={"Accept-Encoding": "gzip"})
    assert plain.content == packed.content == (files("plotly") / "package_data/plotly.min.js").read_bytes()
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < len(gzip.compress(plain.content, 1))
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["vary"] == "Accept-Encoding"
    assert packed.headers["etag"] != plain.headers["etag"]
    again = client.get(f"{folder}/plotly.min.js", headers={"If-None-Match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_itself_is_asked_for_again(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["cache-control"] == "no-cache"
    assert client.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304


def test_a_page_of_another_release_gets_what_is_here(client: httpx.Client) -> None:
    """During an update, with an older replica behind the same address."""
    found = client.get("/assets/0123456789abcdef/app.js")
    assert (found.status_code, found.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize("name", ["none.js", "index.html", "..%2froutes.py", "%2e%2e/routes.py"])
def test_there_are_no_other_files(client: httpx.Client, name: str) -> None:
    found = client.get(f"/assets/0123456789abcdef/{name}")
    assert (found.status_code, found.json()["code"]) == (404, "not_found")
