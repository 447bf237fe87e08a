"""Who may see the dashboard: a token is required, and only this tab keeps it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.dashboard.conftest import OpenPage
from tests.dashboard.job import TOKENS
from tests.server import ServerProcess


def test_a_token_is_asked_for_and_kept_in_the_session_alone(
    open_page: OpenPage, server: ServerProcess
) -> None:
    watch = open_page(token=None)
    watch.forgiven = {401}
    page = watch.page
    field = page.get_by_label("Token")
    expect(field).to_be_focused()
    expect(field).to_have_attribute("type", "password")
    field.fill("guessed")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
    field.fill(TOKENS["BUCKETLINE_WORKER_TOKEN"])
    field.press("Enter")
    expect(page.get_by_role("link", name="job").first).to_be_visible()
    expect(page.get_by_role("status").first).to_have_text("Live")
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href, history.state]")
    assert TOKENS["BUCKETLINE_WORKER_TOKEN"] not in repr(kept)
    assert page.evaluate("Object.values(sessionStorage)") == [TOKENS["BUCKETLINE_WORKER_TOKEN"]]
    page.reload()
    expect(page.get_by_role("link", name="job").first).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    expect(page.get_by_role("link", name="job")).to_have_count(0)
    assert page.evaluate("Object.values(sessionStorage)") == []
    page.reload()
    expect(page.get_by_label("Token")).to_be_visible()


@pytest.mark.exhaustive
def test_a_token_that_is_taken_away_leads_back_to_the_field(open_page: OpenPage) -> None:
    watch = open_page("#/runs/job", token="of yesterday")
    watch.forgiven = {401}
    expect(watch.page.get_by_role("alert")).to_contain_text("no longer valid")
    watch.page.get_by_label("Token").fill(TOKENS["BUCKETLINE_OPERATOR_TOKEN"])
    watch.page.get_by_role("button", name="Log in").click()
    # where one was going
    expect(watch.page.get_by_role("heading", name="job", level=1)).to_be_visible()


@pytest.mark.exhaustive
def test_no_token_no_field_and_what_to_do_first(open_page: OpenPage, fresh: ServerProcess) -> None:
    """An empty coordinator says what to type; what is put appears by itself, down to the end of the run."""
    watch = open_page(url=fresh.url, token=None)
    page = watch.page
    expect(page.get_by_text("bucketline map put my-images")).to_be_visible()
    expect(page.get_by_role("button", name="Log out")).to_be_hidden()
    api = fresh.api()
    api.put_csv("tiny", "id,width,height\n" + "".join(f"{i},512,512\n" for i in range(8)), 201)
    expect(page.get_by_role("link", name="tiny")).to_be_visible()
    expect(page.get_by_text("run put my-run --map tiny")).to_be_visible()
    api.put("/v1/runs/short", {"map": "tiny", "world_size": 1, "batch_size": 4, "epochs": 1}, 201)
    row = page.get_by_role("region", name="Runs, table").get_by_role("row", name=re.compile("short"))
    expect(row).to_contain_text("0 / 2")
    api.ack("short", 0, api.lease("short", 0)["lease"], 0, 1)
    expect(row).to_contain_text("Finished")
    api.ask("DELETE", "/v1/runs/short?force=true", 204)
    expect(row).to_have_count(0)


@pytest.mark.exhaustive
def test_a_coordinator_that_goes_away_is_told_and_comes_back(
    open_page: OpenPage, fresh: ServerProcess
) -> None:
    watch = open_page(url=fresh.url, token=None)
    state = watch.page.get_by_role("status").first
    expect(state).to_have_text("Live")
    fresh.kill()
    expect(state).to_contain_text("Disconnected since")
    fresh.start()
    expect(state).to_have_text("Live")
    # that it could not be reached is all that the console told
    refused = [fault for fault in watch.faults if "ERR_CONNECTION_REFUSED" in fault or "ERR_EMPTY" in fault]
    assert refused
    watch.faults = [fault for fault in watch.faults if fault not in refused]
