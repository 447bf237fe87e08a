"""What an operator asks of a coordinator, from scripts and from the command line.

| module | its calls |
| --- | --- |
| `_maps` | put, look at and delete resolution maps; `_map_files`: which files a map consists of |
| `_runs` | put, look at and delete runs; where an image is, and the batches of a plan |
| `_tables` | as files: which images epochs leave out or repeat, and which bucket and size each image has |
| `_previews` | what plans would cost, side by side |
| `_connection` | the connection under them; events, and the coordinator's status |
"""

from .._checks import seconds
from .._transport.tls import Verify
from .._transport.transport import Transport
from .._transport.urls import Urls, check_urls
from ._maps import MapCalls
from ._previews import PreviewCalls
from ._runs import RunCalls
from ._tables import TableCalls

__all__ = ["Operator"]


class Operator(MapCalls, RunCalls, TableCalls, PreviewCalls):
    """An operator's connection to a coordinator: maps, runs, previews, events.

    ```python
    with Operator("http://coordinator:7700") as operator:
        operator.put_map("photos", "photos.parquet")
        operator.put_run("sdxl-base", {"map": "photos", "world_size": 8, "batch_size": 16})
    ```

    Answers are the coordinator's documents unchanged. Every call is repeated until `timeout_s` has passed, and raises
    `CoordinatorUnavailable` then. Must not be shared with a forked child.

    Args:
        url: the coordinator's address, or those of its replicas, of which the first is asked first; as in
            `BucketClient`.
        token: `BUCKETLINE_TOKEN` unless given.
        timeout_s: how long a call may take, in seconds.
        verify: a private CA, as in `BucketClient`.

    Raises:
        UsageError: if an argument is wrong.
    """

    def __init__(
        self, url: Urls, token: str | None = None, *, timeout_s: float = 60.0, verify: Verify | None = None
    ) -> None:
        self._timeout_s = seconds("timeout_s", timeout_s)
        urls = check_urls(url)
        # a replica that accepts connections and never answers must leave time to ask the others
        attempt_s = min(30.0, self._timeout_s / len(urls))
        self._transport = Transport(urls, token, request_timeout_s=attempt_s, verify=verify)
