"""Python programs in processes forked from a parent that has already imported the service and the client.

Such a process behaves like ``python -m bucketline`` towards everything that talks to it, signals it or waits for it,
but it starts in a tenth of the CPU time. The parent lives as long as the test process, and kills its children when it
ends.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRELOADED = (
    *("bucketline", "bucketline_service.cli", "bucketline_service.server"),
    *("anyio._backends._asyncio", "encodings.idna", "fastapi_offline", "httpcore", "httpx", "numpy.random"),
    *("pyarrow.compute", "pydantic.v1", "redis.asyncio", "redis.asyncio.sentinel", "sqlite3"),
    *("uvicorn.lifespan.on", "uvicorn.loops.uvloop", "bucketline_service.store.sqlite"),
)
"""What almost every program uses, parts that are imported late included."""
LONGEST_REQUEST = 1 << 20
EVERY_FD = 1 << 20
_EXECUTE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]


class Popen(subprocess.Popen[str]):
    """``subprocess.Popen`` of ``[sys.executable, "-m", MODULE, ...]`` or ``[sys.executable, "-c", PROGRAM, ...]``.

    The child has its own streams, environment, working directory and signal handlers. With a ``preexec_fn`` that cannot
    be imported, and on systems other than Linux, a new interpreter is started instead. PYTHON... variables have no
    effect in a fork.
    """

    _status: socket.socket | None = None

    def _execute_child(self, *arguments: Any) -> None:
        given = _EXECUTE.bind(self, *arguments).arguments
        before = given["preexec_fn"]
        name = before and f"{before.__module__}:{before.__qualname__}"
        if "<" in (name or "") or sys.platform != "linux":
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        self._status, theirs = socket.socketpair()
        streams = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        request = {
            "command": [str(each) for each in given["args"][1:]],
            "folder": os.path.abspath(given["cwd"] or os.curdir),
            "environ": dict(os.environ if given["env"] is None else given["env"]),
            "is_session": bool(given["start_new_session"]),
            "before": name,
        }
        with theirs:
            fds = [own if fd == -1 else fd for own, fd in enumerate(streams)]
            socket.send_fds(_control(), [json.dumps(request).encode()], [*fds, theirs.fileno()])
        answer = self._status.recv(4)
        assert answer, "the parent of forked processes has not started"
        self.pid = int.from_bytes(answer, "little")
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
        )

    def _internal_poll(self, *arguments: Any, **options: Any) -> int | None:
        if self._status is None:
            return super()._internal_poll(*arguments, **options)  # type: ignore[misc,no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG) if self.returncode is None else (0, 0)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """``os.waitpid``, which only a parent may call, for a child of another process."""
        if self._status is None:
            return super()._try_wait(flags)  # type: ignore[misc,no-any-return]
        self._status.setblocking(not flags & os.WNOHANG)
        try:
            answer = self._status.recv(4)
        except BlockingIOError:
            return 0, 0
        self._status.close()
        assert answer, "the parent of forked processes has died"
        return self.pid, int.from_bytes(answer, "little")


_parents: list[tuple[int, socket.socket]] = []


def _control() -> socket.socket:
    """The socket on which this process's warm parent takes requests. The first request starts that parent."""
    if not _parents or _parents[-1][0] != os.getpid():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        _parents.append((os.getpid(), ours))
        atexit.register(_end, os.getpid(), ours, process)
    return _parents[-1][1]


def _end(pid: int, control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    if pid == os.getpid():
        control.close()
        process.wait()


# --- the parent -----------------------------------------------------------------------------------------------------


def fork_on_request(control: socket.socket) -> dict[str, Any]:
    """Fork a child for each request. Returns in the child, with its request; the parent reports pids and statuses."""
    poll, children = select.poll(), dict[int, tuple[int, int]]()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in children:
                pid, status = children.pop(fd)
                poll.unregister(fd)
                os.close(fd)
                _tell(status, os.waitpid(pid, 0)[1])
                os.close(status)
                continue
            text, fds, _, _ = socket.recv_fds(control, LONGEST_REQUEST, 4)
            if not text:
                for pid, _ in children.values():
                    os.kill(pid, signal.SIGKILL)
                raise SystemExit
            if not (pid := os.fork()):
                for own, stream in enumerate(fds[:3]):
                    os.dup2(stream, own)
                control.detach()
                os.closerange(3, EVERY_FD)
                request: dict[str, Any] = json.loads(text)
                return request
            for stream in fds[:3]:
                os.close(stream)
            _tell(fds[3], pid)
            watched = os.pidfd_open(pid)
            poll.register(watched, select.POLLIN)
            children[watched] = pid, fds[3]


def _tell(fd: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test process no longer waits for it
        os.write(fd, number.to_bytes(4, "little"))


def become(folder: str, environ: dict[str, str], is_session: bool, before: str | None) -> None:
    """Set what an interpreter takes from its surroundings when it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    tempfile.tempdir = None
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(line_buffering=stream.isatty())  # type: ignore[union-attr]
    if before:
        module, _, name = before.partition(":")
        getattr(importlib.import_module(module), name)()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, whose socket then closes
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    request = fork_on_request(socket.socket(fileno=int(sys.argv[1])))
    kind, name, *arguments = request.pop("command")
    become(**request)
    sys.path[0] = os.getcwd()
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(name, "<string>", "exec"), module.__dict__)


if __name__ == "__main__":
    main()
