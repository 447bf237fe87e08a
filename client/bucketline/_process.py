"""What belongs to one process: a client's engine, started on first use, and left behind by fork and by pickle."""

from __future__ import annotations

import abc
import os
import threading
import weakref
from typing import Any

from ._engine import Engine, forget_engines
from ._errors import ClientClosed
from ._identity import make_holder
from ._types import State

_PROCESS_ATTRIBUTES = ("_lock", "_engine", "_finalizer", "_loaded", "_generated_holder")


class ProcessBound(abc.ABC):
    """The part of a client that must not leave its process. Subclasses call ``_reset`` in their constructor.

    A forked child and an unpickled copy keep the configuration, and start an engine of their own on first use.
    """

    _engine: Engine | None
    _is_closed: bool

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._engine = None
        self._finalizer: weakref.finalize[..., ProcessBound] | None = None
        self._loaded: State | None = None
        self._generated_holder: str | None = None
        self._is_closed = False
        _clients.add(self)

    @abc.abstractmethod
    def _make_engine(self) -> Engine: ...

    def _process_holder(self) -> str:
        """A holder name that is new in every process."""
        if self._generated_holder is None:
            self._generated_holder = make_holder()
        return self._generated_holder

    def _start_engine(self) -> Engine:
        with self._lock:
            if self._is_closed:
                raise ClientClosed("the client is closed")
            if self._engine is None:
                self._engine = self._make_engine()
                self._finalizer = weakref.finalize(self, self._engine.stop)
                self._finalizer.atexit = False  # the engine's module handles the end of the interpreter
            return self._engine

    def _shut(self) -> Engine | None:
        """Mark the client as closed; the engine, which the caller stops."""
        with self._lock:
            engine, self._engine, self._is_closed = self._engine, None, True
            return engine

    def _after_fork_in_child(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
        was_closed = self._is_closed
        self._reset()
        self._is_closed = was_closed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _PROCESS_ATTRIBUTES}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
        self._is_closed = state["_is_closed"]


_clients: weakref.WeakSet[ProcessBound] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    forget_engines()
    for client in list(_clients):
        client._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
