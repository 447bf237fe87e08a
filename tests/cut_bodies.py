"""Request bodies in the messages that real servers send: one or several, cut anywhere, the last one empty or not."""

from __future__ import annotations

from collections import deque
from itertools import count

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def messages(body: bytes, form: int, *, more_body: bool = False) -> list[Message]:
    """``form`` 0: one message, as uvicorn sends a body that came with its head. 1: several. 2: several and an empty one
    after them, as uvicorn sends where the end of the body comes by itself. The borders move with higher numbers."""
    num_pieces = 1 if form % 3 == 0 else 2 + form // 3 % 3
    borders = sorted({len(body) * (i + form % 2) // num_pieces for i in range(1, num_pieces)})
    pieces = [body[begin:end] for begin, end in zip([0, *borders], [*borders, len(body)], strict=True)]
    if form % 3 == 2:
        pieces.append(b"")
    last = len(pieces) - 1
    return [
        {"type": "http.request", "body": piece, "more_body": i < last or more_body}
        for i, piece in enumerate(pieces)
    ]


class CutBodies:
    """An app whose requests take turns with the forms of ``messages``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._forms = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        form = next(self._forms)
        left: deque[Message] = deque()

        async def receive_cut() -> Message:
            # one message at a time, as the app requests them: a body that the app does not read stays unread
            if not left:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                left.extend(
                    messages(message.get("body", b""), form, more_body=message.get("more_body", False))
                )
            return left.popleft()

        await self._app(scope, receive_cut, send)
