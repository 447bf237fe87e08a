"""Maps are read by processes of their own, which can be killed.

A parser in C that is given a hostile file may run for any time with the interpreter's lock held, take any amount of
memory, or crash. In the coordinator's own process each of these would stop every training job. A reader is a process
that reads one map at a time. It is killed when its time is over or when the coordinator ends, and it ends by itself
when the coordinator is gone. An idle one is kept for a minute, since starting it takes a quarter of a second.

Messages are pickles over the reader's standard input and output: a ``ReadTask``; the answer, ``ReadResult`` or an
error; then ``True`` to write the map's object file, which is answered as well, and ``None`` where
nothing more is wanted."""

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
"""Beyond the timeout a file has this much time for its size. Every format is read many times as fast."""

_IDLE_S = 60.0
"""How long a reader is kept that has nothing to do: it has some 100 MB."""

_START = (
    "import signal, sys\n"
    "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
    "sys.path[:] = sys.argv[1:]\n"
    "from bucketline_service.maps.reader_process import main\n"
    "main()"
)
"""Signals to the whole group are for the coordinator, which finishes what it has begun."""


class ReadTask(NamedTuple):
    """What to read: see ``ingest.read_checked``. ``directory``: for its columns, and for the object file."""

    path: Path
    format: str
    columns: RequestedColumns
    directory: Path
    max_images: int


class ReadResult(NamedTuple):
    """What is told of a map that was read and checked whole. ``names``: the columns that were read."""

    digest: str
    names: ResolvedColumns
    num_skipped: int
    """Rows that were left out: see ``RequestedColumns.skip_missing_sizes``."""


class StagedMap(NamedTuple):
    """A map that was read, and its reader, which waits for what becomes of it."""

    read: ReadResult
    process: _ReaderProcess
    directory: Path

    def write(self) -> Path:
        """The object file, it and its sidecar on the disk when this returns."""
        self.process.ask(True)
        return self.directory / "map.arrow"


class ReaderPool:
    """Those that read for one map store. ``timeout_s``: see ``BYTES_PER_S``."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._busy: set[_ReaderProcess] = set()
        self._is_closed = False
        self._lock = threading.Lock()

    @contextmanager
    def read(self, task: ReadTask) -> Iterator[StagedMap]:
        """Have a file read. Raises what ``read_checked`` raises, ``TooLarge`` where that takes too much time or memory,
        and ``StoreUnavailable`` where the store was closed meanwhile."""
        task = task._replace(path=task.path.absolute(), directory=task.directory.absolute())
        num_bytes = task.path.stat().st_size
        limit_s = self._timeout_s + num_bytes / BYTES_PER_S
        process = self._take()
        timer = threading.Timer(limit_s, process.kill, [_too_slow(num_bytes, limit_s)])
        timer.daemon = True
        timer.start()
        try:
            read = process.ask(task)
            try:
                yield StagedMap(read, process, task.directory)
            finally:
                process.finish()
        finally:
            timer.cancel()
            with self._lock:
                self._busy.discard(process)
            process.keep()

    def close(self) -> None:
        """Kill those that read: whoever waits for them gets ``StoreUnavailable``."""
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
    """A reader, as the coordinator sees it. One thread at a time asks it; any may kill it."""

    _idle: list[_ReaderProcess] = []  # noqa: RUF012 - of all stores of this process
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
        """Its answer to a message; or raise what it answers with, or why there is no answer."""
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
        """Nothing more is wanted of the map. That it was killed meanwhile no longer matters."""
        with suppress(Exception):
            self.ask(None)

    def kill(self, reason: BucketlineError) -> None:
        """Whoever asks it raises ``reason``."""
        self._killed_for = self._killed_for or reason
        self._popen.kill()

    def keep(self) -> None:
        """For the next map, if it is alive."""
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
        """It ends when its input does, unless it has ended."""
        for stream in (self._popen.stdin, self._popen.stdout):
            with suppress(OSError):
                if stream is not None:
                    stream.close()
        self._popen.wait()

    def _reason(self, message: Any) -> Exception:
        """Why it has ended before it answered."""
        code = self._popen.wait()
        if self._killed_for is not None:
            return self._killed_for
        if code == -signal.SIGKILL:
            return TooLarge("reading the map took more memory than there is: its reader was killed")
        if code < 0 and isinstance(message, ReadTask):
            reason = f"its parser was ended by {signal.Signals(-code).name}"
            return Invalid("file", f"cannot be read as {message.format}: {reason}", "It may be damaged")
        return RuntimeError(f"the reader of a map has ended with status {code}")

    @classmethod
    def end_idle(cls) -> None:
        while cls._idle:
            cls._idle.pop()._bury()


atexit.register(_ReaderProcess.end_idle)


class _InReader(Exception):  # noqa: N818 - as multiprocessing's RemoteTraceback
    """Where in the reader an error was raised that nobody expects."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _closed() -> StoreUnavailable:
    return StoreUnavailable("the coordinator is ending: put the map again when it is back")


def _too_slow(num_bytes: int, limit_s: float) -> TooLarge:
    return TooLarge(
        f"reading the map took longer than the {limit_s:,.0f} s that a file of {num_bytes:,} bytes has. Send it as "
        "Parquet, or start the coordinator with a larger map_timeout_s",
        limit_s=limit_s,
    )


def main() -> None:
    """The reader itself."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[messages], daemon=True).start()
    while True:
        _serve(messages.get(), messages, answers)


def _listen(messages: queue.SimpleQueue[Any]) -> None:
    """In a thread of its own, so that a reader notices in the midst of a file that its coordinator is gone."""
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
        error = TooLarge("reading the map takes more memory than there is for a file of its size")
    trace = "".join(traceback.format_exception(error)) if error else ""
    pickle.dump((answer, error, trace), answers)
    answers.flush()
