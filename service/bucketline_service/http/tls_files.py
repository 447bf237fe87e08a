"""The files that TLS needs, looked at before anything listens, so that the one that is wrong can be named."""

from __future__ import annotations

import ssl
from pathlib import Path

from bucketline_service.errors import Invalid


def check(cert: Path | None, key: Path | None) -> None:
    """Raises ``Invalid`` naming the setting and the file, where a chain in PEM and its private key can not be served
    with; None of both is plain HTTP."""
    if cert is None and key is None:
        return
    if cert is None or key is None:
        there, missing = ("tls_key", "tls_cert") if cert is None else ("tls_cert", "tls_key")
        hint = f"Set --{missing.replace('_', '-')} or BUCKETLINE_{missing.upper()} too, or neither"
        raise Invalid(missing, f"{there} is set and {missing} is not", hint)
    for name, file in (("tls_cert", cert), ("tls_key", key)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise Invalid(name, f"{file} can not be read: {error.strerror}") from error
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=cert)
    except ssl.SSLError as error:
        raise Invalid("tls_cert", f"{cert} holds no certificate in PEM") from error

    def refuse() -> str:
        # OpenSSL would ask for it on the terminal, where nobody is
        raise Invalid(
            "tls_key", f"{key} is encrypted", "Write it without a passphrase: openssl pkey -in FILE"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Invalid("tls_key", f"{key} is not the key of the certificate in {cert}") from error
        if error.reason is not None and error.reason.startswith(("EE_", "CA_", "MD_")):
            raise Invalid("tls_cert", f"{cert} is refused by OpenSSL: {error.reason}") from error
        raise Invalid("tls_key", f"{key} holds no private key in PEM") from error
