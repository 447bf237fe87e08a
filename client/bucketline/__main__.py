"""The console script. The commands live in the service; where that is not installed, say how to get it."""

from __future__ import annotations

import importlib
import sys

EXTRA_MODULES = frozenset(
    {
        "fastapi",
        "fastapi_offline",
        "httptools",
        "numpy",
        "orjson",
        "plotly",
        "prometheus_client",
        "pyarrow",
        "pydantic",
        "pydantic_settings",
        "pythonjsonlogger",
        "redis",
        "rich",
        "typer",
        "uvicorn",
        "uvloop",
    }
)
"""What ``bucketline[service]`` adds. Any other missing module is a bug, and is to be seen as one."""


def main() -> None:
    try:
        importlib.import_module("bucketline_service.cli").main()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in EXTRA_MODULES and exc.name != "bucketline_service":
            raise
        extras = "service,scan" if sys.argv[1:2] == ["scan"] else "service"
        print(f"bucketline: the commands need {missing}: pip install 'bucketline[{extras}]'", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
