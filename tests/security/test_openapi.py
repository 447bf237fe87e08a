"""Every call of the OpenAPI document, with what it allows and what it does not, and chains of calls: each answer is as
documented, no refusal is a defect."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ServerProcess

from .fuzz import TOKENS, fuzz, start

REQUESTS = re.compile(r'bucketline_requests_total\{method="(\w+)",route="([^"]+)",status="(\d+)"\} (\S+)')
MIN_CASES = 1000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    server = start(tmp_path)
    yield server
    server.close()


@pytest.mark.exhaustive
def test_every_answer_is_as_documented(server: ServerProcess) -> None:
    """By an operator, briefly, and always the same; ``make fuzz`` takes longer, and also sends the other tokens."""
    done = fuzz(server, TOKENS["BUCKETLINE_OPERATOR_TOKEN"], "--generation-deterministic", num_examples=10)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found, done.stdout
    assert int(found[1]) == int(found[2]) > MIN_CASES
    # it got past authentication: every call succeeded, except perhaps those that would remove what the others need
    answers: Counter[tuple[str, str]] = Counter()
    for method, route, status, num in REQUESTS.findall(server.api().ask("GET", "/metrics").text):
        answers[f"{method} {route}", status[0]] += int(float(num))
    calls = {call for call, _ in answers if "/v1/" in call and answers[call, "2"] + answers[call, "4"] > 5}
    assert {call for call in calls if not answers[call, "2"]} <= {
        "DELETE /v1/maps/{map}",
        "DELETE /v1/runs/{run}",
    }
    assert len(calls) >= 15
    status, log = server.stop()
    assert status == 0
    assert '"ERROR"' not in log
    for token in TOKENS.values():
        assert token not in log
