"""Two replicas behind a real haproxy and a real nginx, configured as in the docs: one address for both."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter

import httpx
import pytest

from bucketline import BucketClient, Operator
from tests.waiting import until

from .coordinators import ROOT, new_run
from .test_faults import planned

HTTP = httpx.Client(verify=False, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
OPERATIONS = ROOT / "docs" / "how-to" / "load-balancer.md"


def program(name):
    # Debian keeps them where only root's PATH leads
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} is installed here")
    return found


def documented(proxy, listen, servers):
    """The configuration in the documentation, with this test's addresses in place of its own."""
    [text] = re.findall(rf"```{proxy}\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    text, num_listens = re.subn(r"(bind|listen) [^\s;]+", rf"\1 {listen}", text)
    names = iter(servers)
    text, num_servers = re.subn(r"\b[ab]:7700\b", lambda _: next(names), text)
    assert (num_listens, num_servers) == (1, len(servers))
    return text


def haproxy(address, servers, folder):
    file = folder / "haproxy.cfg"
    file.write_text(documented("haproxy", address, servers))
    return [program("haproxy"), "-db", "-f", str(file)]


def nginx(address, servers, folder):
    """One process, which writes to ``folder`` only."""
    file = folder / "nginx.conf"
    text = documented("nginx", f"{address} reuseport", servers)
    buffers = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {name}_temp_path {folder / name};\n" for name in buffers)
    file.write_text(text.replace("http {\n", f"http {{\n{paths}"))
    options = f"daemon off; master_process off; pid {folder / 'nginx.pid'}; error_log {folder / 'nginx.log'};"
    return [program("nginx"), "-p", str(folder), "-c", str(file), "-g", options]


@pytest.fixture(params=[nginx, pytest.param(haproxy, marks=pytest.mark.exhaustive)])
def front(request, replicas, tmp_path):
    """The address of the proxy. A socket holds the port for it without listening, so that nobody else can take it."""
    servers = [each.url.removeprefix("http://") for each in replicas]
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        command = request.param(address, servers, tmp_path)
        with (tmp_path / "proxy.log").open("w") as log:
            proxy = subprocess.Popen(command, stdout=log, stderr=log)
        until_it_listens(proxy, f"http://{address}")
        yield f"http://{address}"
        proxy.kill()
        proxy.wait()


def until_it_listens(proxy, url):
    deadline = time.monotonic() + 30
    while True:
        assert proxy.poll() is None, "the proxy ended: see proxy.log"
        try:
            return HTTP.get(f"{url}/healthz")
        except httpx.TransportError:
            assert time.monotonic() < deadline


def num_nexts(replica):
    """How many requests for batches this one has answered since it was started."""
    metrics = HTTP.get(f"{replica.url}/metrics").text
    found = re.findall(
        r'(?m)^bucketline_requests_total\{.*route="[^"]*/next".*status="200".*\} (\S+)$', metrics
    )
    return sum(map(float, found))


def test_one_killed_mid_epoch_and_then_the_other(replicas, front):
    """No exception reaches the loop, and every batch comes once, in its place."""
    run = new_run(front)
    expected = planned(replicas[0].url, run, 19)
    served = []
    with BucketClient(front, run, window=2) as client:
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
        assert (operator.ranks(run)[0]["epoch"], operator.ranks(run)[0]["step"]) == (1, 0)


def test_both_killed_and_back_and_then_a_large_upload(replicas, front, tmp_path):
    """The upload has more than the 1 MiB that nginx accepts by default."""
    run = new_run(front)
    expected = planned(replicas[0].url, run, 19)
    with BucketClient(front, run, window=2) as client:
        served = [client.next_batch(0) for _ in range(6)]
        for each in replicas:
            each.kill()
        for each in replicas:
            each.start()
        served += client.epoch(0)
    assert served == expected
    large = tmp_path / "large.csv"
    large.write_text("id,width,height\n" + "".join(f"{i:040},640,480\n" for i in range(25_000)))
    assert large.stat().st_size > 1 << 20
    with Operator(front) as operator:
        assert operator.put_map("large", large)["num_images"] == 25_000
        assert "large" in [each["map"] for each in operator.maps()]
        operator.delete_map("large")


def worker(front, run, rank, stop, answers):
    """A rank that asks for batches all the time, as a client that repeats nothing by itself: what each request gave."""
    connection = http.client.HTTPConnection(front.removeprefix("http://"), timeout=60)

    def ask(call, body):
        try:
            connection.request(
                "POST",
                f"/v1/runs/{run}/ranks/{rank}/{call}",
                json.dumps(body),
                {"Content-Type": "application/json"},
            )
            answer = connection.getresponse()
            text, kind = answer.read(), answer.headers.get_content_type()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            answers[f"{call}: {error!r}"] += 1
            return None
        if kind not in ("application/json", "application/problem+json"):
            answers[f"{call}: {answer.status} of the proxy's own"] += 1
            return None
        answers["answered"] += 1
        return json.loads(text) if answer.status == 200 else None

    while not stop.is_set() and not (lease := ask("lease", {"holder": f"h{rank}"})):
        pass
    ack = {}
    while not stop.is_set():
        if found := ask("next", {"lease": lease["lease"], **ack}):
            ack = {"ack": {"epoch": found["batches"][0]["epoch"], "step": found["batches"][0]["step"]}}
    connection.close()


@pytest.mark.parametrize(
    ("num_ranks", "num_rounds"), [(3, 1), pytest.param(16, 2, marks=pytest.mark.exhaustive)]
)
def test_a_rolling_restart_costs_no_request_an_error(replicas, front, num_ranks, num_rounds):
    run = new_run(front, world_size=num_ranks)
    stop, answers = threading.Event(), Counter()
    workers = [
        threading.Thread(target=worker, args=(front, run, rank, stop, answers)) for rank in range(num_ranks)
    ]
    for each in workers:
        each.start()
    try:
        until_both_are_asked(replicas)
        for each in [*replicas] * num_rounds:
            each.stop()
            each.start()
            until_both_are_asked(replicas)
    finally:
        stop.set()
        for each in workers:
            each.join()
    assert set(answers) == {"answered"}, answers


def until_both_are_asked(replicas):
    """The proxy has found out that they are there."""
    until("requests reach both", lambda: all(map(num_nexts, replicas)))
