"""Checks the certificate and key files of TLS before the server listens, so that errors name the file."""

from __future__ import annotations

import ssl
from pathlib import Path

from bucketline_service.errors import Invalid


def check(cert: Path | None, key: Path | None) -> None:
    """Raises ``Invalid`` naming the setting and the file unless they are a certificate chain and its private key, both
    in PEM format. Both may be None, for plain HTTP."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        there, missing = ("tls_key", "tls_cert") if cert is None else ("tls_cert", "tls_key")
        hint = f"Set --{missing.replace('_', '-')} or BUCKETLINE_{missing.upper()} too, or neither"
        raise Invalid(missing, f"must be set, because {there} is set", hint)
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise Invalid(name, f"{file} cannot be read: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=cert)
    except ssl.SSLError as error:
        raise Invalid("tls_cert", f"{cert} has no certificate in PEM format") from error

    def refuse() -> str:
        # without this OpenSSL asks for the passphrase on the terminal
        raise Invalid("tls_key", f"{key} is encrypted", "Remove the passphrase: openssl pkey -in FILE")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Invalid("tls_key", f"{key} is not the key of the certificate in {cert}") from error
        if error.reason is not None and error.reason.startswith(("EE_", "CA_", "MD_")):
            raise Invalid("tls_cert", f"{cert} is refused by OpenSSL: {error.reason}") from error
        raise Invalid("tls_key", f"{key} has no private key in PEM format") from error
