"""Whose certificates a client trusts, and what is wrong with one that it does not trust."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from .._errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

CA_VARIABLE = "BUCKETLINE_CA_FILE"
Verify = Union[str, "os.PathLike[str]", "ssl.SSLContext"]
"""The file with a private CA's certificates, or a complete TLS configuration."""

X509_EXPIRED, X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH = 10, 62, 64
"""OpenSSL's codes of the three errors that trusting another CA does not cure."""


def trusted(verify: Verify | None, addresses: Iterable[str | None]) -> ssl.SSLContext:
    """Whom to trust: ``verify``, else ``BUCKETLINE_CA_FILE``, else what httpx trusts (``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``, else the public authorities). ``UsageError`` for a file that cannot be used.

    If none of these is given and none of ``addresses`` is ``https://``, nobody: loading the authorities takes longer
    than everything else that a client does before its first request."""
    # imported late: importing bucketline needs no network
    import ssl

    import httpx

    if isinstance(verify, ssl.SSLContext):
        return verify
    source, given = "verify", verify
    if given is None:
        source, given = CA_VARIABLE, os.environ.get(CA_VARIABLE, "").strip() or None
    if given is None and not any((address or "").lower().startswith("https:") for address in addresses):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if given is not None:
            return ssl.create_default_context(cafile=os.fspath(given))
        source = "SSL_CERT_FILE or SSL_CERT_DIR"
        return httpx.create_ssl_context()
    except TypeError as exc:
        raise UsageError(
            f"{source} must be the path of a file with a CA's certificates, got {given!r}"
        ) from exc
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        is_empty = isinstance(exc, ssl.SSLError)
        problem = "contains no certificate in PEM format" if is_empty else getattr(exc, "strerror", exc)
        raise UsageError(f"{source}: {given or 'the file that it names'}: {problem}") from exc


def certificate_problem(error: BaseException, url: str) -> str | None:
    """What is wrong with the coordinator's certificate and what to do; None if the error has another cause."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return f"{url} does not speak TLS: use http://, or start it with --tls-cert and --tls-key"
        return None
    problem = cause.verify_message.rstrip(".")
    if cause.verify_code in (X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH):
        advice = "use a name that the certificate is issued for"
    elif cause.verify_code == X509_EXPIRED:
        advice = "renew it, and send the coordinator SIGHUP"
    else:
        advice = f"pass the file with its CA's certificate as verify= or {CA_VARIABLE} (or SSL_CERT_FILE)"
    return f"the certificate of {url} is not trusted ({problem}): {advice}"
