"""https with a private CA, created here: clients that trust it are served, others get an error that says what to do."""

import pickle
import signal
import ssl

import httpx
import pytest
import trustme

from bucketline import BucketClient, CoordinatorUnavailable, Operator, UsageError
from tests.server import run_command

from .coordinators import Coordinator, put_run
from .test_faults import persist


class House:
    """A private CA, its certificate in ``ca``, and what a coordinator needs in ``cert`` and ``key``."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = trustme.CA()
        self.ca, self.cert, self.key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        self.authority.cert_pem.write_to_path(self.ca)
        self.issue("127.0.0.1", "localhost")

    def issue(self, *names, **options):
        issued = self.authority.issue_cert(*names, **options)
        issued.private_key_pem.write_to_path(self.key)
        chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
        self.cert.write_bytes(chain)
        return issued.cert_chain_pems[0].bytes()

    @property
    def flags(self):
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return House(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another CA, which the coordinator does not use."""
    return House(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module")
def secure(house, tmp_path_factory):
    """A coordinator that serves the run ``run`` over TLS."""
    coordinator = Coordinator(tmp_path_factory.mktemp("secure"), *house.flags)
    put_run(coordinator.url, "run", verify=house.ca)
    yield coordinator
    coordinator.stop()


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    for name in ("BUCKETLINE_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def presented(url):
    """The certificate that a new connection gets, in PEM."""
    address = httpx.URL(url)
    return ssl.get_server_certificate((address.host, address.port)).strip()


# --- those that trust it --------------------------------------------------------------------------------------


def test_an_epoch_over_tls(secure, house):
    assert secure.url.startswith("https://")
    with BucketClient(secure.url, "run", verify=house.ca, window=4) as client:
        batches = list(client.epoch(0))
    with Operator(secure.url, verify=str(house.ca)) as operator:
        assert batches == operator.batches("run", 0, 0, 0, 19)


@pytest.mark.parametrize("name", ["BUCKETLINE_CA_FILE", "SSL_CERT_FILE"])
def test_the_ca_from_the_environment(secure, house, monkeypatch, name):
    monkeypatch.setenv(name, str(house.ca))
    with Operator(secure.url) as operator:
        assert operator.run("run")["status"] == "ready"


def test_a_context_of_ones_own(secure, house):
    context = ssl.create_default_context(cafile=house.ca)
    with Operator(secure.url, verify=context) as operator:
        assert operator.run("run")["status"] == "ready"


def test_the_argument_counts_before_the_environment(secure, house, stranger, monkeypatch):
    monkeypatch.setenv("BUCKETLINE_CA_FILE", str(stranger.ca))
    with Operator(secure.url, verify=house.ca) as operator:
        assert operator.run("run")["status"] == "ready"


def test_the_ca_goes_along_in_a_pickle(secure, house):
    client = pickle.loads(pickle.dumps(BucketClient(secure.url, "run", verify=house.ca)))
    with client:
        assert client.next_batch(1).step == 0


# --- those that do not ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["another", "none"])
def test_the_wrong_ca_is_reported_at_once_with_what_would_do(secure, stranger, use):
    """Not at the deadline, 300 s later: the error would be the same."""
    verify = stranger.ca if use == "another" else None
    client = BucketClient(secure.url, "run", verify=verify)
    for call in (lambda: client.next_batch(0), lambda: client.start_session(2, session="s")):
        with pytest.raises(UsageError, match=r"verify= or BUCKETLINE_CA_FILE") as caught:
            call()
        assert secure.url in str(caught.value)
        assert "\n" not in str(caught.value)
    client.close()
    with Operator(secure.url, verify=verify) as operator, pytest.raises(UsageError, match="not trusted"):
        operator.runs()


def test_a_name_that_the_certificate_does_not_have(tmp_path, house):
    other = House(tmp_path)
    other.issue("coordinator.example")
    coordinator = Coordinator(tmp_path, *other.flags)
    operator = Operator(coordinator.url, verify=other.ca)
    with operator, pytest.raises(UsageError, match="use a name that the certificate is issued for"):
        operator.runs()
    coordinator.stop()


def test_https_where_there_is_none(url):
    with Operator(url.replace("http:", "https:")) as operator, pytest.raises(UsageError, match="use http://"):
        operator.runs()


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_that_cannot_be_used(tmp_path, monkeypatch, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=rf"^verify: {file}: (No such file|contains no certificate)"):
        Operator("https://127.0.0.1:9", verify=file)
    for name in ("BUCKETLINE_CA_FILE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(file))
        with pytest.raises(UsageError, match=rf"^{name}"):
            Operator("HTTPS://127.0.0.1:9")
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match=r"^verify "):
        Operator("https://127.0.0.1:9", verify=3)


def test_the_public_authorities_are_loaded_for_https_alone(monkeypatch):
    """Also where only the way to one of several, or to its proxy, is https."""
    monkeypatch.setenv("SSL_CERT_FILE", "/none.pem")
    Operator("http://replica.invalid").close()
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        Operator(["http://replica.invalid", "https://replica.invalid"])
    monkeypatch.setenv("HTTP_PROXY", "https://proxy.invalid")
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        Operator("http://replica.invalid")


def test_of_several_one_that_is_not_trusted_is_passed_by(secure, house, stranger, tmp_path):
    other = Coordinator(tmp_path, *stranger.flags)
    with Operator([other.url, secure.url], verify=house.ca) as operator:
        assert operator.run("run")["status"] == "ready"
    said = rf"{other.url}: the certificate .* is not trusted"
    operator = Operator([other.url, "https://127.0.0.1:9"], verify=house.ca, timeout_s=0.5)
    with operator, pytest.raises(CoordinatorUnavailable, match=said):
        operator.runs()
    other.stop()


def test_the_command_line(secure, house, stranger):
    for ca, code in ((house.ca, 0), (stranger.ca, 1)):
        environ = {"BUCKETLINE_CA_FILE": str(ca)}
        status, _, errors = run_command("run", "list", "--json", "--url", secure.url, environ=environ)
        assert (status, errors.count("\n")) == (code, code)
    assert "BUCKETLINE_CA_FILE" in errors


# --- a new certificate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.exhaustive)])
def test_a_certificate_is_renewed_under_a_training(tmp_path, workers):
    """SIGHUP: the loop does not notice, and new connections get the new certificate."""
    house = House(tmp_path)
    coordinator = Coordinator(tmp_path, "--workers", workers, "--log-level", "info", *house.flags)
    put_run(coordinator.url, "run", verify=house.ca)
    with BucketClient(coordinator.url, "run", verify=house.ca, window=2) as client:
        served = [client.next_batch(0)]
        new = house.issue("127.0.0.1").decode().strip()
        coordinator.signal(signal.SIGHUP)
        while presented(coordinator.url) != new:
            if len(served) < 10:
                served.append(client.next_batch(0))
        served += client.epoch(0)
    with Operator(coordinator.url, verify=house.ca) as operator:
        assert served == operator.batches("run", 0, 0, 0, 19)
    coordinator.stop()


def test_a_certificate_that_cannot_be_used_changes_nothing(tmp_path, stranger):
    house = House(tmp_path)
    coordinator = Coordinator(tmp_path, *house.flags)
    old = presented(coordinator.url)
    house.key.write_bytes(stranger.key.read_bytes())
    coordinator.signal(signal.SIGHUP)
    log = tmp_path / "coordinator.log"
    while "not_renewed" not in log.read_text():
        assert presented(coordinator.url) == old
    assert "is not the key of the certificate" in log.read_text()
    assert presented(coordinator.url) == old
    with Operator(coordinator.url, verify=house.ca) as operator:
        assert persist(operator.runs) == []
    coordinator.stop()


def test_plain_http_at_a_tls_port_ends_with_an_error(secure):
    plain = secure.url.replace("https:", "http:")
    with Operator(plain, timeout_s=0.3) as operator, pytest.raises(CoordinatorUnavailable, match="https"):
        operator.runs()
