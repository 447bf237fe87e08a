"""``bucketline serve``: runs the coordinator. Its options are the settings of ``bucketline_service.settings``."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from bucketline_service.cli.errors import errors
from bucketline_service.store.store_kinds import URL_HELP


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to bind [127.0.0.1]; any other needs tokens.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port [7700]; 0 takes a free one.")] = None,
    store: Annotated[str | None, typer.Option(help=f"{URL_HELP} [SQLite in the data directory].")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Maps, plans, state [./bucketline-data].")] = None,
    store_timeout_s: Annotated[
        float | None, typer.Option(help="How long the store may take before the response is 503 [2.0].")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that share the port [1].")] = None,
    worker_token_file: Annotated[Path | None, typer.Option(help="Workers' tokens, one per line.")] = None,
    operator_token_file: Annotated[Path | None, typer.Option(help="Operators' tokens, one per line.")] = None,
    allowed_hosts: Annotated[
        str | None,
        typer.Option(
            help="Host names, besides localhost, that requests may use while there are no tokens, separated by commas."
        ),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain in PEM: serves https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key in PEM, not encrypted.")] = None,
    map_root: Annotated[
        str | None,
        typer.Option(help="Where replicas share maps: s3://…, gs://…, file:///FOLDER [the data directory]."),
    ] = None,
    map_source: Annotated[
        str | None, typer.Option(help="Folders whose files PUT /v1/maps may name, separated by colons.")
    ] = None,
    max_upload_bytes: Annotated[
        int | None, typer.Option(help="Largest map that may be uploaded [17179869184, which is 16 GiB].")
    ] = None,
    map_timeout_s: Annotated[
        float | None, typer.Option(help="How long reading a map may take [60], plus 1 s for each MB of it.")
    ] = None,
    max_json_bytes: Annotated[int | None, typer.Option(help="Largest JSON body [8388608, 8 MiB].")] = None,
    max_runs: Annotated[int | None, typer.Option(help="Maximum number of runs in the store [1000].")] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="Connections to one process; further ones get 503 [20000].")
    ] = None,
    client_timeout_s: Annotated[
        float | None, typer.Option(help="How long a client may pause within a request or a response [60].")
    ] = None,
    otel: Annotated[
        bool | None, typer.Option("--otel/--no-otel", help="OpenTelemetry traces; see OTEL_… [off].")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
) -> None:
    """Run the coordinator.

    Every option can also be set in the environment: --data-dir is BUCKETLINE_DATA_DIR. The tokens themselves are read
    from the environment only, BUCKETLINE_WORKER_TOKEN and BUCKETLINE_OPERATOR_TOKEN, because other users can read a
    command line.
    """
    given = dict(locals())
    gc.disable()  # nothing that is imported is garbage, and collecting takes a tenth of the start
    from bucketline_service import server
    from bucketline_service.settings import Settings

    gc.enable()
    with errors():
        server.serve(Settings.load(**given))
