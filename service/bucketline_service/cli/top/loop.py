"""``bucketline top``'s loop: looks again and again, on a screen or line by line."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from rich.console import Console, RenderableType
from rich.live import Live

from bucketline import CoordinatorUnavailable, Operator
from bucketline_service.cli import phrases
from bucketline_service.cli.top import view
from bucketline_service.cli.top.model import Asker, Look, reason

Pause = Callable[[float], None]


class Watch:
    """What was seen last, also while there is no answer."""

    def __init__(self, url: str, run: str | None) -> None:
        self._asker = Asker(run)
        self._url = url
        self._run = run
        self._last: Look | None = None

    def first(self, operator: Operator) -> Look:
        """Raises where there is no answer: nothing has been seen that could be shown."""
        self._last = self._asker.look(operator)
        return self._last

    def again(self, operator: Operator) -> Look:
        """Raises what asking again would not mend: the run is gone, say."""
        assert self._last is not None
        try:
            self._last = self._asker.look(operator)
        except CoordinatorUnavailable as error:
            self._last = replace(self._last, problem=reason(error))
        return self._last

    def frame(self, height: int | None) -> RenderableType:
        return view.screen(self._shown(), self._url, self._run, time.time(), height)

    def lines(self, as_json: bool) -> str:
        assert self._last is not None
        return json.dumps(self._last.document()) if as_json else "\n".join(view.lines(self._shown()))

    def _shown(self) -> Look:
        assert self._last is not None
        return Look(**phrases.harmless(vars(self._last)))


def follow(watch: Watch, operator: Operator, interval_s: float, as_json: bool) -> None:
    """Until Ctrl-C or SIGTERM; on a terminal's own screen, which is left as it was found."""
    is_screen = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not as_json
    with _signals() as pause, suppress(KeyboardInterrupt):  # it is how one leaves
        (_on_screen if is_screen else _in_lines)(watch, operator, lambda: pause(interval_s), as_json)
    if is_screen:
        print(watch.lines(as_json))


def _on_screen(watch: Watch, operator: Operator, pause: Callable[[], None], as_json: bool) -> None:
    console = Console(markup=False, highlight=False, emoji=False)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(watch.frame(console.height), refresh=True)
            pause()
            watch.again(operator)


def _in_lines(watch: Watch, operator: Operator, pause: Callable[[], None], as_json: bool) -> None:
    while True:
        print(watch.lines(as_json), flush=True)
        pause()
        watch.again(operator)


@contextmanager
def _signals() -> Iterator[Pause]:
    """SIGTERM is as Ctrl-C, so that the terminal is left in order; a pause ends early where its size changes."""

    def stop(number: int, place: FrameType | None) -> None:
        raise KeyboardInterrupt

    if sys.platform == "win32":
        yield time.sleep
        return
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, stop),
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, lambda number, place: None),
    }
    fd_before = signal.set_wakeup_fd(waker)

    def pause(seconds: float) -> None:
        if select.select([woken], [], [], seconds)[0]:
            os.read(woken, 4096)

    try:
        yield pause
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(woken)
        os.close(waker)
