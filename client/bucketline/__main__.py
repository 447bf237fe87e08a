"""The console script. The commands are part of the service; if that is not installed, say how to install it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType

EXTRA_MODULES = {
    *("cachetools", "fastapi", "fastapi_offline", "highspy", "httptools", "ijson", "numpy", "orjson"),
    *(
        "plotly",
        "prometheus_client",
        "pyarrow",
        "pydantic",
        "pydantic_settings",
        "pythonjsonlogger",
        "redis",
        "rich",
    ),
    *("starlette", "typer", "uvicorn", "uvloop"),
}
"""What ``bucketline[service]`` adds. Any other missing module is a bug, and its traceback is shown."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


def main() -> None:
    # before the command begins and after it has ended there is nothing to report or to wait for
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
