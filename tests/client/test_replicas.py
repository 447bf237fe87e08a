"""A coordinator with several addresses: the client fails over, and the training loop does not notice."""

import itertools
import socket
from collections import Counter

import pytest

import bucketline
from bucketline import BucketClient, CoordinatorUnavailable, Operator, UsageError
from bucketline._identity import make_holder, preferred_replica
from bucketline._transport.failover import RETURN_AFTER_S, RETURN_CAP_S, Failover
from bucketline._transport.urls import check_urls
from tests.server import run_command

from .coordinators import LOSE, Canned, Coordinator, Proxy, new_run
from .test_faults import BUSY, persist, planned

PLANNING = Canned(
    503, {"Retry-After": "0", "Content-Type": "application/problem+json"}, b'{"code": "planning"}'
)
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def over_redis(own_redis_server, tmp_path):
    both = [Coordinator(tmp_path, "--store", own_redis_server.url) for _ in range(2)]
    yield both
    for each in both:
        each.stop()


@pytest.fixture
def two(url):
    """Two proxies in front of the one shared coordinator: to it, they are one client."""
    both = [Proxy(url), Proxy(url)]
    yield both
    for each in both:
        each.close()


@pytest.fixture(autouse=True)
def _first(monkeypatch):
    """Clients begin at the first replica, unless a test says otherwise."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("SLURM_PROCID", raising=False)


def asked(client, replicas):
    """The replica that the client uses, and the others."""
    url = client._engine.transport.url
    return sorted(replicas, key=lambda each: each.url != url)


def urls_of(replicas):
    return [each.url for each in replicas]


# --- real replicas, killed ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "replicas", ["pair", pytest.param("over_redis", marks=pytest.mark.exhaustive)], indirect=True
)
def test_a_replica_killed_and_started_again_again_and_again(replicas):
    """Always the one that is being used: the loop does not notice, and no batch is lost or repeated."""
    run = new_run(replicas[0].url)
    expected = planned(replicas[0].url, run, 19)
    left = []
    with BucketClient(urls_of(replicas), run, window=2) as client:
        served = []
        for batch in client.epoch(0):
            served.append(batch)
            if batch.step in (2, 7, 12):
                dead, alive = asked(client, replicas)
                dead.kill()
            if batch.step in (5, 10, 15):
                assert asked(client, replicas)[0] is alive
                left.append(dead)
                dead.start()
        assert served == expected
    assert left == [left[0], left[1], left[0]]
    assert left[0] is not left[1]
    with Operator(urls_of(replicas)) as operator:
        assert (operator.ranks(run)[0]["epoch"], operator.ranks(run)[0]["step"]) == (1, 0)


def test_both_dead_then_back(replicas):
    run = new_run(replicas[0].url)
    expected = planned(replicas[0].url, run, 19)
    client = BucketClient(",".join(urls_of(replicas)), run, window=2, timeout_s=0.5, request_timeout_s=30)
    served = [persist(lambda: client.next_batch(0)) for _ in range(4)]
    for each in replicas:
        each.kill()
    with pytest.raises(CoordinatorUnavailable) as caught:
        served.extend(client.next_batch(0) for _ in range(4))
    for each in replicas:
        assert str(caught.value).count(f"{each.url}: ConnectError") == 1
    replicas[1].start()
    served += [persist(lambda: client.next_batch(0)) for _ in range(3)]
    replicas[0].start()
    replicas[1].kill()
    while len(served) < 19:
        served.append(persist(lambda: client.next_batch(0)))
    assert served == expected
    persist(client.flush)
    client.close()


def test_two_workers_one_on_each(replicas, monkeypatch):
    """The two ranks of a job begin at different replicas; each replica sees what the other one's rank has moved."""
    clients, run = [], new_run(replicas[0].url)
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        clients.append(BucketClient(urls_of(replicas), run, session="s"))
        clients[rank].start_session(2, "start")
    assert {client._engine.transport.url for client in clients} == set(urls_of(replicas))
    for rank, client in enumerate(clients):
        assert list(client.epoch(rank)) == planned(replicas[0].url, run, 19, rank)
        client.flush()
    for each in replicas:
        with Operator(each.url) as operator:
            assert [(rank["epoch"], rank["step"]) for rank in operator.ranks(run)] == [(1, 0), (1, 0)]
    for client in clients:
        client.close()


def test_the_command_line_takes_several(url, run):
    for options in (["--url", f"{NOBODY},{url}"], []):
        environ = {"BUCKETLINE_URL": f"{NOBODY}, {url}"}
        status, out, errors = run_command("run", "list", "--json", *options, environ=environ)
        assert (status, errors) == (0, "")
        assert f'"run": "{run}"' in out


# --- one that answers, but not what is wanted -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        *[("/sessions", LOSE), ("/next", BUSY), ("/lease", Canned(502)), ("/next", Canned(404))],
        *[
            pytest.param(path, fault, marks=pytest.mark.exhaustive)
            for path, fault in (
                *[("/lease", LOSE), ("/next", LOSE)],
                *[("/sessions", Canned(504)), ("/lease", Canned(200))],
            )
        ],
    ],
)
def test_it_is_asked_of_another(two, url, run, connect, path, fault):
    """Even if it took effect at the first, whose answer was lost: the store treats both the same."""
    two[0].script[path] = [fault]
    client = connect(urls_of(two), window=2)
    assert client.start_session(2, "start", session="s").generation == 2
    assert list(client.epoch(0)) == planned(url, run, 19)
    assert not two[0].script[path]
    assert path in two[1].seen[0]
    assert asked(client, two)[0] is two[1]  # and there it stays


@pytest.mark.parametrize(
    "fault",
    [
        PLANNING,
        *(
            pytest.param(fault, marks=pytest.mark.exhaustive)
            for fault in (Canned(500), Canned(429, {"Retry-After": "0"}))
        ),
    ],
)
def test_that_is_no_reason_to_leave(two, url, run, connect, fault):
    two[0].script["/next"] = [fault, fault]
    client = connect(urls_of(two), window=2)
    assert list(client.epoch(0)) == planned(url, run, 19)
    assert not two[0].script["/next"]
    assert two[1].seen == []


def test_it_stays_with_the_one_that_answers(two, run, connect):
    client = connect(urls_of(two), window=2)
    list(client.epoch(0))
    client.flush()
    assert two[0].seen
    assert not two[1].seen


def test_what_one_wants_to_be_left_alone_does_not_keep_the_other_waiting(two, run, connect, caplog):
    two[0].script["/lease"] = [Canned(503, {"Retry-After": "60"})]
    connect(urls_of(two)).next_batch(0)
    [told] = [record.message for record in caplog.records if "again in" in record.message]
    assert told.startswith("POST")
    assert two[0].url in told
    assert "again in 0." in told


def test_it_comes_back_by_itself(two, url, run, connect, monkeypatch):
    monkeypatch.setattr("bucketline._transport.failover.RETURN_AFTER_S", 0.0)
    two[0].script["/lease"] = [BUSY]
    two[0].script["/next"] = [BUSY, LOSE]
    client = connect(urls_of(two), window=2)
    assert list(client.epoch(0)) == planned(url, run, 19)
    assert not any(two[0].script.values())
    assert asked(client, two)[0] is two[0]


def test_one_that_takes_connections_and_says_nothing(shared, run, url):
    """As a stopped process does: a timeout is a reason to leave."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [f"http://127.0.0.1:{silent.getsockname()[1]}", url]
        with BucketClient(urls, run, request_timeout_s=0.5) as client:
            assert list(client.epoch(0)) == planned(url, run, 19)
        with Operator(urls, timeout_s=2.0) as operator:
            assert persist(lambda: operator.run(run))["status"] == "ready"


def test_the_deadline_says_of_each_why(canned):
    canned.script["/v1/"] = [BUSY] * 1000
    with (
        Operator([NOBODY, canned.url], timeout_s=0.3) as operator,
        pytest.raises(
            CoordinatorUnavailable, match=f"none of {NOBODY}, {canned.url} gave an answer"
        ) as caught,
    ):
        operator.runs()
    assert f"{NOBODY}: ConnectError: " in str(caught.value)
    assert f"{canned.url}: 503 the store is late" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_and_password_in_an_address_are_not_shown(caplog):
    urls = [
        f"{address}" for address in (NOBODY.replace("//", "//me:s3cret@"), "http://me:s3cret@127.0.0.1:11")
    ]
    for given in (urls, urls[0]):
        client = BucketClient(given, "run", timeout_s=0.1)
        with pytest.raises(CoordinatorUnavailable) as caught:
            client.next_batch(0)
        client.close()
        assert "127.0.0.1:9" in str(caught.value) + caplog.text
        assert "s3cret" not in str(caught.value) + caplog.text + repr(client)
    with pytest.raises(UsageError) as wrong:
        Operator("ftp://me:s3cret@host")
    assert "s3cret" not in str(wrong.value)


# --- where to begin, and where to go --------------------------------------------------------------------------


def test_processes_spread():
    assert [preferred_replica("h", {"RANK": str(rank)}) for rank in range(8)] == list(range(8))
    assert preferred_replica("h", {"SLURM_PROCID": "3", "RANK": ""}) == 3
    holders = Counter(preferred_replica(f"node-{rank}", {}) % 2 for rank in range(1000))
    assert min(holders.values()) > 400
    assert len({preferred_replica(make_holder(), {}) % 2 for _ in range(64)}) == 2
    assert preferred_replica("node-7", {}) == 4203854186  # in every process, unlike Python's ``hash``


def route(num_urls, home=0):
    return Failover(num_urls, home, uniform=lambda low, high: low)


def visits(path, outcomes):
    """The replicas that it asks, in order, while ``outcomes`` says which of them answer: (when, which)."""
    asked = []
    for now_s, alive in outcomes:
        at = path.choose(now_s)
        asked.append(at)
        if at in alive:
            path.answered(at, now_s)
        else:
            path.note_failure(at, "gone", leave=True)
    return asked


def test_it_goes_round_while_none_answers():
    assert visits(route(3, 7), [(0.0, set())] * 7) == [1, 2, 0, 1, 2, 0, 1]


def test_it_returns_later_and_later():
    after = RETURN_AFTER_S
    outcomes = [(0, {1}), (0, {1}), (after - 1, {1}), (after, {1}), (after, {1})]
    outcomes += [(3 * after - 1, {1}), (3 * after, {1}), (3 * after, {1}), (1e6, {0, 1}), (1e6, {0, 1})]
    path = route(2)
    assert visits(path, outcomes) == [0, 1, 1, 0, 1, 1, 0, 1, 0, 0]
    # and it has forgotten how long that took
    assert visits(path, [(2e6, {1}), (2e6, {1}), (2e6 + after, {0})]) == [0, 1, 0]


def test_it_never_gives_its_home_up():
    path = route(2)
    times_s = range(0, 20_000, 10)
    tries = [now_s for now_s in times_s if visits(path, [(now_s, {1})]) == [0]]
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert waits == sorted(waits)
    assert RETURN_CAP_S <= waits[-1] <= RETURN_CAP_S + 20


def test_a_try_at_home_in_vain_ends_where_there_was_an_answer():
    """Not at the one in between, which did not answer before."""
    assert visits(route(3), [(0, {2})] * 3 + [(1e6, {2}), (1e6, {2})]) == [0, 1, 2, 0, 2]


def test_another_threads_failure_is_not_ones_own():
    path = route(3)
    assert path.note_failure(0, "gone", leave=True)
    assert path.note_failure(0, "gone", leave=True)  # both have asked it
    assert path.at == 1


def test_addresses():
    two = ("http://a:1", "https://b/x")
    for given in (
        "http://a:1,https://b/x",
        " http://a:1/ , https://b/x/,",
        list(two),
        iter(two),
        (*two, *two),
    ):
        assert check_urls(given) == two
    assert check_urls("http://a:1") == ("http://a:1",)
    for wrong in ("", ",", [], "http://a:1,b", [None], None, 3, ["http://a:1", 3], [b"http://a"]):
        with pytest.raises(UsageError, match=r"^url "):
            check_urls(wrong)


def test_the_address_of_several_is_one_again():
    client = bucketline.BucketClient(["http://a:1/", "http://b:2"], "run")
    assert client.url == "http://a:1,http://b:2"
    assert bucketline.BucketClient(client.url, "run").url == client.url
