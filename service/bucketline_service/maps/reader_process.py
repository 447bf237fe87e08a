"""Reads maps in separate processes, which can be killed.

A parser in C that is given a hostile file may hold the interpreter's lock for any time, take any amount of memory, or
crash. In the coordinator's process each of these would stop every training job. A reader process reads one map at a
time. It is killed on a timeout or when the coordinator ends, and it ends by itself when the coordinator has ended. Idle
readers are kept for a minute, since starting one takes a quarter of a second.

Messages are pickles over standard input and output: a ``ReadTask``, answered by a ``ReadResult`` or an error; then
``True`` to write the object file, which is answered as well; and ``None`` when the map is done."""

from __future__ import annotations

import atexit
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bucketline_service.errors import BucketlineError, Invalid, StoreUnavailable, TooLarge
from bucketline_service.maps.column_names import RequestedColumns, ResolvedColumns
from bucketline_service.maps.decompression_limits import limit_memory
from bucketline_service.maps.formats import FORMATS
from bucketline_service.maps.ingest import read_checked, write_object

DEFAULT_TIMEOUT_S = 60.0
BYTES_PER_S = 1_000_000
"""Added to the timeout: a second for so many bytes of the file. Every format is read many times as fast."""

_IDLE_S = 60.0
"""How long an idle reader, of about 100 MB, is kept."""

_START = (
    "import signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
    "sys.path[:] = sys.argv[1:]\n"
    "from bucketline_service.maps.reader_process import main\n"
    "main()"
)
"""A signal to the process group is for the coordinator, which finishes the maps that are being read."""


class ReadTask(NamedTuple):
    """What to read: see ``ingest.read_checked``. ``directory`` is for its columns and the object file."""

    path: Path
    format: str
    columns: RequestedColumns
    directory: Path
    max_images: int


class ReadResult(NamedTuple):
    """A map that was read and has passed all checks. ``names``: the columns that were read."""

    digest: str
    names: ResolvedColumns
    num_skipped: int
    """Rows left out: see ``RequestedColumns.skip_missing_sizes``."""


class StagedMap(NamedTuple):
    """A map that was read, and the reader process, which can write it."""

    result: ReadResult
    process: _ReaderProcess
    directory: Path

    def write(self) -> Path:
        """Write the object file and its sidecar, synced to disk. Returns the path of the object file."""
        self.process.ask(True)
        return self.directory / "map.arrow"


class ReaderPool:
    """The reader processes of a map store. ``timeout_s``: see ``BYTES_PER_S``."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._busy: set[_ReaderProcess] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    @contextmanager
    def read(self, task: ReadTask) -> Iterator[StagedMap]:
        """Read a file. Raises what ``read_checked`` raises, ``TooLarge`` where that takes too much time or memory, and
        ``StoreUnavailable`` where the store is closed meanwhile."""
        task = task._replace(path=task.path.absolute(), directory=task.directory.absolute())
        num_bytes = task.path.stat().st_size
        limit_s = self._timeout_s + num_bytes / BYTES_PER_S
        process = self._take()
        timer = threading.Timer(limit_s, process.kill, [_too_slow(num_bytes, limit_s)])
        timer.daemon = True
        timer.start()
        try:
            result = process.ask(task)
            try:
                yield StagedMap(result, process, task.directory)
            finally:
                process.finish()
        finally:
            timer.cancel()
            with self._lock:
                self._busy.discard(process)
            process.keep()

    def close(self) -> None:
        """Kill the busy readers; callers that wait for them get ``StoreUnavailable``."""
        with self._lock:
            self._is_closed = True
            for process in self._busy:
                process.kill(_closed())

    def _take(self) -> _ReaderProcess:
        process = _ReaderProcess.idle_or_new()
        with self._lock:
            self._busy.add(process)
            if self._is_closed:
                process.kill(_closed())
        return process


class _ReaderProcess:
    """A reader process, seen from the coordinator. One thread at a time sends messages; any thread may kill it."""

    _idle: list[_ReaderProcess] = []  # noqa: RUF012 - shared by all stores of this process
    _idle_lock = threading.Lock()

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START, *map(os.path.abspath, sys.path)]
        self._popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._killed_for: BucketlineError | None = None
        self._retire: threading.Timer | None = None

    @classmethod
    def idle_or_new(cls) -> _ReaderProcess:
        while True:
            with cls._idle_lock:
                process = cls._idle.pop() if cls._idle else None
            if process is None:
                return cls()
            if process._retire is not None:
                process._retire.cancel()
            if process._popen.poll() is None:
                return process
            process._bury()

    def ask(self, message: Any) -> Any:
        """Send a message and return the answer. Raises the error of the reader, or the reason why it has ended."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            pickle.dump(message, self._popen.stdin)
            self._popen.stdin.flush()
            answer, error, trace = pickle.load(self._popen.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise self._reason(message) from None
        if error is None:
            return answer
        raise error from (None if isinstance(error, BucketlineError) else _InReader(trace))

    def finish(self) -> None:
        """Tell the reader that the map is done. It does not matter whether it was killed meanwhile."""
        with suppress(Exception):
            self.ask(None)

    def kill(self, reason: BucketlineError) -> None:
        """``ask`` raises ``reason``, now and later."""
        self._killed_for = self._killed_for or reason
        self._popen.kill()

    def keep(self) -> None:
        """Keep it for the next map, if it is alive."""
        if self._killed_for is not None or self._popen.poll() is not None:
            self._bury()
            return
        self._retire = threading.Timer(_IDLE_S, self._leave)
        self._retire.daemon = True
        with self._idle_lock:
            self._idle.append(self)
        self._retire.start()

    def _leave(self) -> None:
        with self._idle_lock:
            if self not in self._idle:
                return
            self._idle.remove(self)
        self._bury()

    def _bury(self) -> None:
        """Close its input, on which it ends, and wait for it."""
        for stream in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self._popen.wait()

    def _reason(self, message: Any) -> Exception:
        """The reason why it ended without an answer."""
        code = self._popen.wait()
        if self._killed_for is not None:
            return self._killed_for
        if code == -signal.SIGKILL:
            return TooLarge("reading the map took more memory than is available: its reader was killed")
        if code < 0 and isinstance(message, ReadTask):
            reason = f"the parser crashed with {signal.Signals(-code).name}"
            return Invalid("file", f"cannot be read as {message.format}: {reason}", "It may be damaged")
        return RuntimeError(f"the reader process of a map ended with status {code}")

    @classmethod
    def end_idle(cls) -> None:
        while cls._idle:
            cls._idle.pop()._bury()


atexit.register(_ReaderProcess.end_idle)


class _InReader(Exception):  # noqa: N818 - like multiprocessing's RemoteTraceback
    """The traceback of an unexpected error in the reader."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the coordinator is shutting down: put the map again once it is back")


def _too_slow(num_bytes: int, limit_s: float) -> TooLarge:
    return TooLarge(
        f"reading a map of {num_bytes:,} bytes must take at most {limit_s:,.0f} s. Send it as Parquet, or start the "
        "coordinator with a larger map_timeout_s",
        limit_s=limit_s,
    )


def main() -> None:
    """The main function of a reader process."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # keeps output of libraries apart from answers
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[messages], daemon=True).start()
    while True:
        _serve(messages.get(), messages, answers)


def _listen(messages: queue.SimpleQueue[Any]) -> None:
    """Receive messages in a separate thread, so that a busy reader notices when its coordinator has ended."""
    while True:
        try:
            messages.put(pickle.load(sys.stdin.buffer))
        except BaseException:
            os._exit(0)


def _serve(task: ReadTask, messages: queue.SimpleQueue[Any], answers: BinaryIO) -> None:
    with ExitStack() as stack:
        try:
            limit_memory(task.path.stat().st_size)
            how = FORMATS[task.format]
            checked = read_checked(task.path, how, task.columns, task.directory, task.max_images, stack)
        except Exception as error:
            _send(answers, None, error)
            return
        _send(answers, ReadResult(checked.digest, checked.names, checked.num_skipped))
        while messages.get() is not None:
            try:
                write_object(checked, task.directory / "map.arrow")
                _send(answers, None)
            except Exception as error:
                _send(answers, None, error)
    _send(answers, None)


def _send(answers: BinaryIO, answer: Any, error: Exception | None = None) -> None:
    if isinstance(error, MemoryError):
        error = TooLarge("reading the map takes more memory than is allowed for a file of its size")
    trace = "".join(traceback.format_exception(error)) if error else ""
    pickle.dump((answer, error, trace), answers)
    answers.flush()
