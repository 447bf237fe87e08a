"""Settings of ``bucketline serve``: flags first, then ``BUCKETLINE_…`` in the environment, then these defaults."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from bucketline_service.errors import Invalid, in_words
from bucketline_service.store.store_kinds import URL_HELP

NO_FLAGS = frozenset({"worker_token", "operator_token"})
"""Settings without a flag: every user of a machine can read the command lines of all processes."""


class Settings(BaseSettings):
    """Each field is an environment variable, ``data_dir`` is ``BUCKETLINE_DATA_DIR``, and a flag of
    ``bucketline serve`` unless it is in ``NO_FLAGS``.

    A token variable may hold several tokens, separated by commas, and a token file one on each line. All are valid, so
    that tokens can be replaced without an interruption. Lists of folders are separated by colons.
    """

    model_config = SettingsConfigDict(env_prefix="BUCKETLINE_", extra="ignore", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to bind; any but loopback requires tokens")
    port: int = Field(7700, ge=0, le=65535, description="0 chooses a free one")
    store: str | None = Field(
        None, description=f"cursor store: {URL_HELP}; by default SQLite in the data directory"
    )
    store_timeout_s: float = Field(
        2.0, gt=0, description="how long the store may take before a request is answered with 503"
    )
    data_dir: Path = Field(Path("bucketline-data"), description="maps, plans and the embedded store")
    map_root: str | None = Field(
        None,
        repr=False,
        description="where replicas share maps: s3://BUCKET/PREFIX, gs://…, file:///FOLDER; "
        "by default each keeps them in its data directory",
    )
    workers: int = Field(1, ge=1, le=64, description="processes that share the port")
    worker_token: str | None = Field(None, repr=False, description="may read, move cursors and report images")
    operator_token: str | None = Field(None, repr=False, description="may do everything")
    worker_token_file: Path | None = None
    operator_token_file: Path | None = None
    allowed_hosts: str | None = Field(
        None, description="further host names that clients may use while no token is set, separated by commas"
    )
    tls_cert: Path | None = Field(None, description="certificate chain in PEM format, for HTTPS")
    tls_key: Path | None = Field(None, description="its private key in PEM format")
    map_source: str | None = Field(None, description="folders whose files PUT /v1/maps may read by uri")
    max_upload_bytes: int = Field(16 << 30, gt=0, description="largest map that may be uploaded")
    map_timeout_s: float = Field(
        60.0, gt=0, description="how long reading a map may take; one second more for each MB of the file"
    )
    max_json_bytes: int = Field(
        8 << 20, gt=0, description="largest JSON body, such as a run spec with valid_ids"
    )
    max_runs: int = Field(1000, gt=0, description="how many runs the store may have")
    max_connections: int = Field(
        20_000,
        gt=0,
        description="open connections of one process; requests on further ones are answered with 503",
    )
    client_timeout_s: float = Field(
        60.0, gt=0, description="how long a client may pause while it sends a request or reads a response"
    )
    otel: bool = Field(False, description="export OpenTelemetry traces; configured by the OTEL_… variables")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Raises ``Invalid`` naming the setting. ``given`` are flags, None for those that were not given."""
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            flag = "" if name in NO_FLAGS else f"--{name.replace('_', '-')} or "
            raise Invalid(name, in_words(first), f"Set {flag}BUCKETLINE_{name.upper()}") from None

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{self.data_dir.absolute() / 'state.sqlite'}"

    @property
    def worker_tokens(self) -> frozenset[str]:
        return _tokens("worker_token", self.worker_token, self.worker_token_file)

    @property
    def operator_tokens(self) -> frozenset[str]:
        return _tokens("operator_token", self.operator_token, self.operator_token_file)

    @property
    def is_renewable(self) -> bool:
        """Whether a setting names a file that SIGHUP reads again."""
        return any((self.worker_token_file, self.operator_token_file, self.tls_cert))

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in (self.allowed_hosts or "").split(",") if name.strip())

    @property
    def map_sources(self) -> tuple[Path, ...]:
        return tuple(Path(folder) for folder in (self.map_source or "").split(":") if folder)


def _tokens(name: str, value: str | None, file: Path | None) -> frozenset[str]:
    found = _words(name, (value or "").split(","))
    if file is not None:
        try:
            text = _text(file.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Invalid(f"{name}_file", f"{file} cannot be read: {reason}") from error
        in_file = _words(f"{name}_file", text.splitlines())
        if not in_file:  # an empty file must not turn off authentication
            raise Invalid(f"{name}_file", f"{file} has no token", "Write one on each line")
        found |= in_file
    return found


def _text(data: bytes) -> str:
    """Windows editors and shells write a byte order mark, and may write UTF-16."""
    for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        if data.startswith(mark):
            return data.decode("utf-16")
    return data.decode("utf-8-sig")


def _words(setting: str, parts: list[str]) -> frozenset[str]:
    """Refuse tokens that no HTTP header can hold."""
    words = [part.strip() for part in parts]
    for at, word in enumerate(words, start=1):
        if not word.isprintable():
            detail = f"token {at} has a character that is not printable"
            raise Invalid(setting, detail, "Write it as plain text")
    return frozenset(filter(None, words))
