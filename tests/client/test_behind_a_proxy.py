"""Two replicas behind a real haproxy, configured as docs/operations.md has it: one address, whoever is behind."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from bucketline import BucketClient, Operator

from .coordinators import ROOT, Coordinator, put_run
from .test_faults import planned

OPERATIONS = ROOT / "docs" / "operations.md"
# Debian keeps it where only root's PATH leads
HAPROXY = shutil.which("haproxy", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


def documented(listen, servers):
    """The configuration in the documentation, with this test's addresses in the place of its own."""
    [text] = re.findall(r"```haproxy\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    text, num_binds = re.subn(r"bind \S+", f"bind {listen}", text)
    names = iter(servers)
    text, num_servers = re.subn(r"(?m)^( +server \w+ )\S+", lambda found: found[1] + next(names), text)
    assert (num_binds, num_servers) == (1, len(servers))
    return text


@pytest.fixture
def replicas(tmp_path):
    both = [Coordinator(tmp_path) for _ in range(2)]
    put_run(both[0].url, "run")
    yield both
    for each in both:
        each.stop()


@pytest.fixture
def front(replicas, tmp_path):
    """The address of the proxy. It gets a socket that listens already, so that nobody else can take its port."""
    if HAPROXY is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no haproxy is installed here")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file = Path(tmp_path, "haproxy.cfg")
        file.write_text(
            documented(f"fd@{listener.fileno()}", [each.url.removeprefix("http://") for each in replicas])
        )
        command = [HAPROXY, "-db", "-f", str(file)]
        with (tmp_path / "haproxy.log").open("w") as log:
            proxy = subprocess.Popen(command, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        proxy.kill()
        proxy.wait()


def num_nexts(replica):
    """How many requests for batches this one has answered since it was started."""
    metrics = httpx.get(f"{replica.url}/metrics").text
    found = re.findall(
        r'(?m)^bucketline_requests_total\{.*route="[^"]*/next".*status="200".*\} (\S+)$', metrics
    )
    return sum(map(float, found))


def test_one_killed_mid_epoch_and_then_the_other(replicas, front):
    """No exception reaches the loop, and every batch comes once, in its place."""
    expected = planned(replicas[0].url, "run", 19)
    served = []
    with BucketClient(front, "run", window=2) as client:
        for batch in client.epoch(0):
            served.append(batch)
            if batch.step == 5:
                assert all(num_nexts(each) for each in replicas)  # it deals requests out to both
                replicas[0].kill()
            if batch.step == 10:
                replicas[0].start()
                replicas[1].kill()
            if batch.step == 15:
                replicas[1].start()
    assert served == expected
    with Operator(front) as operator:
        assert (operator.ranks("run")[0]["epoch"], operator.ranks("run")[0]["step"]) == (1, 0)


def test_both_killed_and_back(replicas, front):
    expected = planned(replicas[0].url, "run", 19)
    with BucketClient(front, "run", window=2) as client:
        served = [client.next_batch(0) for _ in range(6)]
        for each in replicas:
            each.kill()
        for each in replicas:
            each.start()
        served += client.epoch(0)
    assert served == expected
