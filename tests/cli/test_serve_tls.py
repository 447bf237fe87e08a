"""``bucketline serve --tls-cert --tls-key``: files that cannot work are refused at the start, in one line that names
them."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.cli.commands import run_here
from tests.server import run_command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``cert.pem`` and ``key.pem`` fit, ``other.pem`` is another's key; and files that are no such thing."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    for cert, key in (("cert.pem", "key.pem"), ("unused.pem", "other.pem")):
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(folder / cert)
        issued.private_key_pem.write_to_path(folder / key)
    (folder / "empty.pem").touch()
    (folder / "text.pem").write_text("not PEM\n")
    (folder / "folder.pem").mkdir()
    key = trustme.CA().private_key_pem.bytes()
    (folder / "locked.pem").write_bytes(lock(key))
    return folder


def lock(key: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    private = load_pem_private_key(key, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))


@pytest.mark.parametrize(
    ("cert", "key", "setting", "words"),
    [
        (
            "cert.pem",
            None,
            "tls_key",
            "tls_key: must be set, because tls_cert is set. Set --tls-key or BUCKETLINE_TLS_KEY",
        ),
        (None, "key.pem", "tls_cert", "must be set, because tls_key is set. Set --tls-cert"),
        ("none.pem", "key.pem", "tls_cert", "none.pem cannot be read: No such file"),
        ("cert.pem", "none.pem", "tls_key", "none.pem cannot be read: No such file"),
        ("folder.pem", "key.pem", "tls_cert", "folder.pem cannot be read: Is a directory"),
        ("empty.pem", "key.pem", "tls_cert", "empty.pem has no certificate"),
        ("text.pem", "key.pem", "tls_cert", "text.pem has no certificate"),
        ("key.pem", "key.pem", "tls_cert", "key.pem has no certificate"),
        ("cert.pem", "empty.pem", "tls_key", "empty.pem has no private key"),
        ("cert.pem", "cert.pem", "tls_key", "cert.pem has no private key"),
        ("cert.pem", "other.pem", "tls_key", "other.pem is not the key of the certificate in"),
        ("cert.pem", "locked.pem", "tls_key", "locked.pem is encrypted"),
    ],
)
@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.exhaustive), "2"])
def test_it_does_not_start(
    files: Path, tmp_path: Path, cert: str | None, key: str | None, setting: str, words: str, workers: str
) -> None:
    flags = [
        word
        for name, file in (("--tls-cert", cert), ("--tls-key", key))
        if file
        for word in (name, str(files / file))
    ]
    # on a port that is taken: a run that is not refused for its certificate is refused for that, and ends
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, out, errors = run_here(
            "serve", "--port", port, "--workers", workers, "--data-dir", str(tmp_path / "data"), *flags
        )
    assert (code, out) == (1, "")
    assert errors.startswith(f"bucketline: {setting}: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("workers", [pytest.param("1", marks=pytest.mark.exhaustive), "2"])
def test_no_process_stays_behind(files: Path, tmp_path: Path, workers: str) -> None:
    flags = ["--tls-cert", str(files / "cert.pem"), "--tls-key", str(files / "other.pem")]
    code, out, errors = run_command(
        "serve", "--port", "0", "--workers", workers, "--data-dir", str(tmp_path / "data"), *flags
    )
    assert (code, out, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("bucketline: tls_key: ")


def test_a_key_that_may_not_be_read_is_named(files: Path, tmp_path: Path) -> None:
    """A key that only another user may read, the mistake that is made most often."""
    key = tmp_path / "key.pem"
    key.write_bytes((files / "key.pem").read_bytes())
    key.chmod(0)
    if subprocess.run(["test", "-r", key]).returncode == 0:
        pytest.skip("this user may read everything")
    code, _, errors = run_command(
        "serve", "--port", "0", "--tls-cert", str(files / "cert.pem"), "--tls-key", str(key)
    )
    assert code == 1
    assert "key.pem cannot be read: Permission denied" in errors
