"""The console script. The commands live in the service; where that is not installed, say how to get it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType

EXTRA_MODULES = frozenset(
    {
        "fastapi",
        "fastapi_offline",
        "httptools",
        "ijson",
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


INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    # while nothing is begun, and once everything is done, there is nothing to be told and nothing to wait for
    signal.signal(signal.SIGINT, _leave)
    try:
        commands = importlib.import_module("bucketline_service.cli")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        commands.main()
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in EXTRA_MODULES and exc.name != "bucketline_service":
            raise
        extras = "service,scan" if sys.argv[1:2] == ["scan"] else "service"
        print(f"bucketline: the commands need {missing}: pip install 'bucketline[{extras}]'", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
