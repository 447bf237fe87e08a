"""Whom a client trusts, and what is wrong with a certificate that it does not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Union

from .._errors import UsageError

if TYPE_CHECKING:
    import ssl

CA_VARIABLE = "BUCKETLINE_CA_FILE"
Verify = Union[str, "os.PathLike[str]", "ssl.SSLContext"]
"""The file of a private CA's certificates, or all that TLS can be told."""


X509_EXPIRED, X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH = 10, 62, 64
"""OpenSSL's codes of three mistakes, of which only others are mended by trusting another CA."""


def trusted(verify: Verify | None) -> ssl.SSLContext:
    """Whom to trust: ``verify``, else ``BUCKETLINE_CA_FILE``, else what httpx trusts (``SSL_CERT_FILE``,
    ``SSL_CERT_DIR``, else the public authorities). ``UsageError`` for a file that can not be used."""
    import ssl  # here and not above: importing bucketline needs no network, and httpx loads it anyway

    import httpx

    if isinstance(verify, ssl.SSLContext):
        return verify
    source, given = "verify", verify
    if given is None:
        source, given = CA_VARIABLE, os.environ.get(CA_VARIABLE, "").strip() or None
    try:
        if given is not None:
            return ssl.create_default_context(cafile=os.fspath(given))
        source = "SSL_CERT_FILE or SSL_CERT_DIR"
        return httpx.create_ssl_context()
    except TypeError as exc:
        raise UsageError(f"{source}: the file of a CA's certificates was expected, not {given!r}") from exc
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        reason = (
            "holds no certificate in PEM" if isinstance(exc, ssl.SSLError) else getattr(exc, "strerror", exc)
        )
        raise UsageError(f"{source}: {given or 'the file that it names'}: {reason}") from exc


def distrusted(error: BaseException, url: str) -> str | None:
    """What is wrong with the coordinator's certificate and what would do, where that is why it was not asked."""
    import ssl

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return (
                f"{url} does not speak TLS: use http:// there, or have it serve with --tls-cert and --tls-key"
            )
        return None
    said = cause.verify_message.rstrip(".")
    if cause.verify_code in (X509_HOSTNAME_MISMATCH, X509_IP_MISMATCH):
        advice = "use a name that the certificate is made out to"
    elif cause.verify_code == X509_EXPIRED:
        advice = "renew it, and send the coordinator SIGHUP"
    else:
        advice = f"name the file with its CA's certificate, in verify= or {CA_VARIABLE} (or SSL_CERT_FILE)"
    return f"the certificate of {url} is not to be trusted ({said}): {advice}"
