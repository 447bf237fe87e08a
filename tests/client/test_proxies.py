"""The proxies of the environment: which one leads to a coordinator, and that errors name it."""

import sys
import traceback

import pytest

from bucketline import BucketClient, CoordinatorUnavailable, Operator, ProtocolError, UsageError
from bucketline._transport.proxies import proxy_for, without_userinfo

from .coordinators import Canned
from .test_transport import OK

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
NOBODY = "http://me:s3cret@127.0.0.1:9"


@pytest.fixture
def environ(monkeypatch):
    """An environment without proxies, to put some into."""
    for name in (*PROXIES, *(name.upper() for name in PROXIES)):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch.setenv


def elsewhere(canned):
    """The address of ``canned`` as one that is not this machine's loopback, though it leads there."""
    return canned.url.replace("127.0.0.1", "0.0.0.0")


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_no_proxy_leads_back_to_this_machine(canned, environ, name):
    environ(name, "http://127.0.0.1:9")
    canned.script["/v1/"] = [OK, OK]
    for url in (canned.url, canned.url.replace("127.0.0.1", "LOCALHOST")):
        with Operator(url, timeout_s=5.0) as operator:
            assert operator.run("r") == {"status": "ready"}


def test_other_hosts_are_asked_through_the_proxy(canned, environ):
    canned.script["/v1/"] = [OK, OK]
    for proxy in (canned.url, canned.url.removeprefix("http://")):
        environ("http_proxy", proxy)
        with Operator("http://coordinator.invalid:7700") as operator:
            assert operator.run("r") == {"status": "ready"}
    assert canned.seen == ["http://coordinator.invalid:7700/v1/runs/r"] * 2


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    "listed", ["0.0.0.0", "0.0.0.0/8", "fe80::/10, 0.0.0.0/1", "*", "other.example 0.0.0.0"]
)
def test_a_host_that_is_listed_is_asked_without(canned, environ, name, listed):
    environ(name, "socks5://127.0.0.1:9" if name == "ALL_PROXY" else NOBODY)
    environ("NO_PROXY", listed)
    canned.script["/v1/"] = [OK]
    with Operator(elsewhere(canned), timeout_s=5.0) as operator:
        assert operator.run("r") == {"status": "ready"}


def test_each_replica_has_its_own_way(canned, environ):
    environ("HTTP_PROXY", NOBODY)
    environ("NO_PROXY", "0.0.0.0/8")
    canned.script["/v1/"] = [OK]
    with Operator(["http://coordinator.invalid", elsewhere(canned)]) as operator:
        assert operator.run("r") == {"status": "ready"}


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://10.1.2.3:7700", "10.0.0.0/8"),
        ("http://10.1.2.3:7700", "10.1.2.3/8"),
        ("http://10.1.2.3:7700", "192.168.0.0/16,10.1.2.3"),
        ("http://10.1.2.3:7700", "10.1.2.3:7700"),
        ("http://10.1.2.3:7700", "10.0.0.0/8:7700"),
        ("http://[fe80::1]:7700", "fe80::/10"),
        ("http://[fe80::1]:7700", "[fe80::1]"),
        ("http://[fe80::1]:7700", "[fe80::1]:7700"),
        ("http://[fe80::1]", "FE80:0::1"),
        ("http://[::ffff:10.1.2.3]", "10.0.0.0/8"),
        ("http://trainer.example", "trainer.example"),
        ("http://trainer.example", ".trainer.example"),
        ("http://TRAINER.example", "Example"),
        ("http://a.b.trainer.example", "trainer.example"),
        ("http://a.trainer.example.", ".trainer.example"),
        ("http://a.trainer.example", "*.trainer.example."),
        ("http://trainer.example", "trainer.example:80"),
        ("https://trainer.example", "trainer.example:443"),
        ("http://trainer.example", "http://trainer.example"),
        ("http://trainer.example", "*"),
    ],
)
def test_what_no_proxy_covers(url, listed):
    proxies = {"http": "http://proxy:3128", "https": "http://proxy:3128", "no": f"other.example, {listed}"}
    assert proxy_for(url, proxies) is None


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("http://11.1.2.3:7700", "10.0.0.0/8"),
        ("http://10.1.2.3:7700", "10.1.2.3:7701"),
        ("http://10.1.2.3:7700", "10.1.2.3/33"),
        ("http://10.1.2.3:7700", "2.3"),
        ("http://10.1.2.3:7700", "fe80::/10"),
        ("http://[fe80::1]:7700", "10.0.0.0/8,[fe80::1]:7701,fe80::2"),
        ("http://trainer.example", "ainer.example"),
        ("http://trainer.example", "a.trainer.example"),
        ("http://trainer.example", "trainer.example:7700"),
        ("http://trainer.example", "https://trainer.example"),
        ("http://trainer.example", "10.0.0.0/8"),  # whatever it resolves to
        ("http://trainer.example", ".,,  "),
    ],
)
def test_what_no_proxy_does_not_cover(url, listed):
    assert proxy_for(url, {"http": "proxy:3128", "no": listed}) == "http://proxy:3128"


def test_the_proxy_of_the_scheme_counts_before_that_of_all():
    proxies = {"http": "http://one", "all": "socks5://all"}
    assert proxy_for("http://host", proxies) == "http://one"
    assert proxy_for("https://host", proxies) == "socks5://all"
    assert proxy_for("https://host", {"http": "http://one"}) is None


# --- what errors say ------------------------------------------------------------------------------------------


def test_an_error_names_the_proxy_and_not_its_password(environ, caplog):
    environ("HTTP_PROXY", NOBODY)
    client = BucketClient("http://coordinator.invalid:7700", "r", timeout_s=0.1)
    with pytest.raises(CoordinatorUnavailable, match=r"through the proxy http://127\.0\.0\.1:9") as caught:
        client.next_batch(0)
    client.close()
    assert "s3cret" not in caplog.text + "".join(traceback.format_exception(caught.value))


def test_so_does_what_a_proxy_answers_in_the_coordinators_place(canned, environ):
    environ("HTTP_PROXY", canned.url)
    canned.script["/v1/"] = [Canned(403, {"Content-Type": "text/html"}, b"<h1>Policy</h1>")] * 1000
    told = f"403 text/html 'Policy' .*through the proxy {canned.url}"
    with (
        Operator("http://coordinator.invalid", timeout_s=0.1) as operator,
        pytest.raises(ProtocolError, match=told),
    ):
        operator.run("r")


def test_socks_without_its_package_says_what_would_do(environ, monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    environ("ALL_PROXY", "socks5://me:s3cret@proxy:1080")
    with pytest.raises(UsageError, match=r"proxy socks5://proxy:1080 .*httpx\[socks\].*NO_PROXY") as caught:
        Operator("http://coordinator.invalid:7700")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("proxy", ["gopher://proxy", "http://me:s3cret#x@proxy", "http://proxy:port"])
def test_what_is_not_a_proxy_is_reported(environ, proxy):
    environ("HTTP_PROXY", proxy)
    with pytest.raises(UsageError, match=r"^the proxy .*HTTP_PROXY.* must be"):
        Operator("http://coordinator.invalid:7700")


def test_a_proxy_is_shown_without_what_may_be_a_password():
    for proxy in ("http://proxy:80", "http://me:s3/c@ret@proxy:80/path", "http://me:s3#c?ret@proxy:80"):
        assert without_userinfo(proxy) == "http://proxy:80"
