"""Puts files as maps, in a process with limited memory: ``python -m tests.security.put MEGABYTES FILE…`` prints the
result for each, as JSON."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

from bucketline_service.errors import BucketlineError
from bucketline_service.maps import MapStore


def main(megabytes: int, files: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = MapStore(Path(folder))
        limit = _size_bytes() + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps({file.name: _told(store, file) for file in files}))


def _told(store: MapStore, file: Path) -> str:
    try:
        return f"read {store.put(file.stem, file, file.suffix[1:])[0].num_images}"
    except BucketlineError as error:
        return f"{error.code}: {error.detail}"


def _size_bytes() -> int:
    """Of this process' address space, which the libraries have taken much of."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
