"""Rolling upgrades, clients first: a job continues at older coordinators."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator

import pytest

from bucketline import BucketClient, Invalid

from .coordinators import Canned, Proxy
from .test_faults import planned


class Older(Proxy):
    """A coordinator that does not know ``unknown`` in a body, and refuses it as version 0.1.0 does."""

    unknown = "generation_id"

    def _forward(self, handler: http.server.BaseHTTPRequestHandler, body: bytes) -> Canned:
        if body and self.unknown in json.loads(body):
            problem = {
                "type": "urn:bucketline:problem:invalid",
                "status": 422,
                "code": "invalid",
                "field": self.unknown,
                "detail": f"{self.unknown}: There is no such field: is it misspelt?",
            }
            return Canned(422, {"Content-Type": "application/problem+json"}, json.dumps(problem).encode())
        return super()._forward(handler, body)


@pytest.fixture
def older(url: str) -> Iterator[Older]:
    proxy = Older(url)
    yield proxy
    proxy.close()


def test_a_lease_of_a_newer_coordinator_is_good_at_an_older_one(older: Older, run: str) -> None:
    with BucketClient(older.url, run) as client:
        batches = list(client.epoch(0))
        assert batches == planned(older.url, run, len(batches))
        reader = client.reader(1, holder=client.holder)
        assert next(reader.epoch(reader.cursor)).step == 0


def test_what_is_not_dispensable_is_refused(older: Older, run: str) -> None:
    older.unknown = "count"
    with BucketClient(older.url, run) as client, pytest.raises(Invalid, match="count"):
        client.next_batch(0)
