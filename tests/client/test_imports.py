"""A training process loads only what the client needs: the standard library, and httpx for the first request.

A subprocess proves it, because this process has loaded everything.
"""

import functools
import json
import subprocess
import sys

IMPORT = "import bucketline, bucketline.__main__, bucketline.images, bucketline.operator"
UNASKED = (
    IMPORT
    + "; client = bucketline.BucketClient(['http://a:1', 'https://b'], 'run', verify='ca.pem', token='t')"
    + "; import pickle; pickle.loads(pickle.dumps(client)).close()"
    + "; from bucketline.geometry import fit; fit((9, 9), (3, 3))"
)
USE = (
    IMPORT
    + "; bucketline.Operator('http://127.0.0.1:1').close()"
    + "; bucketline.BucketClient('http://127.0.0.1:1', 'run')._start_engine()"
)

SCRIPT = """
import json, sys
before = set(sys.modules)
exec(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""

# what httpx stands on
HTTPX = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna", "sniffio", "typing_extensions"}
# optional extras that httpx, httpcore and anyio take along where they happen to be installed
OPTIONAL = {
    "brotli",
    "brotlicffi",
    "h2",
    "click",
    "pygments",
    "rich",
    "socksio",
    "trio",
    "uvloop",
    "zstandard",
}


# of the standard library, what takes long to import and is only needed to send a request, if at all
SLOW = {"email", "hashlib", "hmac", "http", "secrets", "socket", "ssl", "tarfile", "urllib.request", "uuid"}


@functools.cache
def modules(statement: str) -> set[str]:
    """All modules that a fresh interpreter loads for ``statement``."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, statement], capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout))


def loaded(statement: str) -> set[str]:
    """Top-level modules outside the standard library that a fresh interpreter loads for ``statement``."""
    names = {name.partition(".")[0] for name in modules(statement)}
    return {name for name in names if name not in sys.stdlib_module_names and not name.startswith("_")}


def test_nothing_is_loaded_but_the_standard_library_until_a_request():
    """httpx takes several times as long to import as bucketline, and a client without requests does not need it."""
    assert loaded(UNASKED) == {"bucketline"}


def test_importing_loads_nothing_slow_of_the_standard_library():
    assert not modules(IMPORT) & SLOW
    assert modules(USE) >= {"socket", "ssl"}


def test_using_it_adds_httpx_only():
    found = loaded(USE) - OPTIONAL
    assert "httpx" in found
    assert found <= HTTPX | {"bucketline"}
