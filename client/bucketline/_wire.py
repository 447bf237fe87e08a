"""The whole protocol as pure functions: requests are built and answers are read. No I/O, clock or environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from ._checks import whole
from ._errors import BY_CODE, Invalid, ProtocolError, Refused, UsageError
from ._types import AnyBatch, Batch, Cursor, Deal, Json, Lease, NextAnswer, Pack, Session, State

T = TypeVar("T")

RETRIED_STATUSES = frozenset({408, 429})
"""The 4xx that ask for a repetition; every 5xx is repeated as well."""

DISPENSABLE = frozenset({"generation_id"})
"""Fields of a body that coordinators of version 0.1.0 do not know, and can do without."""


@dataclass(frozen=True, slots=True)
class Request:
    """``body`` is sent as JSON. ``content`` makes the body's chunks again for every attempt. ``timeout_s`` is that of
    one attempt, None for the transport's. ``accept`` is the media type of the answer, None for JSON."""

    method: str
    path: str
    body: Any = None
    params: tuple[tuple[str, str], ...] = ()
    content: Callable[[], Any] | None = None
    content_type: str | None = None
    timeout_s: float | None = None
    accept: str | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


# --- requests -----------------------------------------------------------------------------------------------


def run_path(run: str, *rest: object) -> str:
    return path("runs", run, *rest)


def path(*parts: object) -> str:
    return "/v1/" + "/".join(quote(str(part), safe="") for part in parts)


def upload(
    path: str, params: tuple[tuple[str, str], ...], content: Callable[[], Any], content_type: str
) -> Request:
    """The answer to an upload comes after it has been read and checked, which takes a while for 100,000,000 rows."""
    return Request("PUT", path, None, params, content, content_type, timeout_s=600.0)


def download(path: str, params: tuple[tuple[str, str], ...], accept: str, timeout_s: float) -> Request:
    return Request("GET", path, None, params, timeout_s=timeout_s, accept=accept)


def lease_request(run: str, rank: int, holder: str, session: str | None) -> Request:
    body: Json = {"holder": holder}
    if session is not None:
        body["session"] = session
    return Request("POST", run_path(run, "ranks", rank, "lease"), body)


def next_request(
    run: str,
    rank: int,
    lease: Lease,
    finished: Cursor | None,
    start: Cursor | None,
    count: int,
    include: tuple[str, ...] = (),
) -> Request:
    """``finished`` is the last step that the rank has finished, inclusive; ``start`` the first one to get; ``include``
    what the batches contain in addition."""
    body: Json = {"lease": lease.token, "generation": lease.generation, "count": count}
    if lease.generation_id is not None:
        body["generation_id"] = lease.generation_id
    if finished is not None:
        body["ack"] = finished.to_json()
    if start is not None:
        body["from"] = start.to_json()
    if include:
        body["include"] = list(include)
    return Request("POST", run_path(run, "ranks", rank, "next"), body)


def report_request(run: str, rank: int, place: Cursor, images: list[Json]) -> Request:
    """``images`` of the batch of ``rank`` at ``place``, each with ``id`` and ``reason``."""
    return Request("POST", run_path(run, "reports"), {"rank": rank, **place.to_json(), "images": images})


def for_older(request: Request, refused: Exception) -> Request | None:
    """The request without the field that an older coordinator refused because it does not know it. During a rolling
    upgrade a lease may come from a replica of one release and its requests go to one of another."""
    field = refused.field if isinstance(refused, Invalid) else None
    if field not in DISPENSABLE or field not in request.body:
        return None
    return replace(request, body={name: value for name, value in request.body.items() if name != field})


def plan_request(
    run: str, rank: int, world_size: int, place: Cursor, count: int, include: tuple[str, ...]
) -> Request:
    """For batches of the plan from ``place`` on, without a lease."""
    numbers = {**place.to_json(), "rank": rank, "count": count, "world_size": world_size}
    params = tuple((name, str(number)) for name, number in numbers.items())
    if include:
        params += (("include", ",".join(include)),)
    return Request("GET", run_path(run, "batches"), params=params)


def run_request(run: str) -> Request:
    return Request("GET", run_path(run))


def session_request(run: str, session: str, world_size: int, resume: str | State) -> Request:
    # an older coordinator refuses fields it does not know, and none needs to know in which start a state was saved
    place = replace(resume, start=None).to_json() if isinstance(resume, State) else resume
    return Request(
        "POST", run_path(run, "sessions"), {"session": session, "world_size": world_size, "resume": place}
    )


# --- answers ------------------------------------------------------------------------------------------------


def read_json(content: bytes, what: str) -> Json:
    try:
        document = json.loads(content)
    except ValueError as exc:
        quoted = content[:80].decode(errors="replace")
        raise ProtocolError(f"{what}: not JSON, so not a coordinator's answer: {quoted!r}") from exc
    if not isinstance(document, dict):
        raise ProtocolError(f"{what}: the answer must be a JSON object, got {type(document).__name__}")
    return document


def read(document: Json, reader: Callable[[Json], T], what: str) -> T:
    """``reader(document)``; a ``ProtocolError`` for whatever is missing or mistyped in it."""
    try:
        return reader(document)
    except KeyError as exc:
        raise ProtocolError(f"{what}: the answer has no {exc.args[0]!r}") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ProtocolError(f"{what}: the answer cannot be read: {exc}") from exc


def document(answer: Json) -> Json:
    """A reader for answers that are returned unchanged."""
    return answer


def list_from(name: str) -> Callable[[Json], list[Json]]:
    """A reader for the list ``name`` of an answer."""
    return lambda answer: list(answer[name])


def cursor_from(document: Json) -> Cursor:
    return Cursor(int(document["epoch"]), int(document["step"]))


def batch_from(document: Json) -> AnyBatch:
    """A pack has a ``kind`` where another batch has a bucket."""
    if "kind" in document:
        return _pack_from(document)
    return Batch(
        ids=document["ids"],
        width=document["width"],
        height=document["height"],
        epoch=document["epoch"],
        step=document["step"],
        rank=document["rank"],
        bucket=document["bucket"],
        repeats=document.get("repeats"),
        num_frames=document.get("num_frames"),
        maps=document.get("maps"),
        original_sizes=_pairs(document.get("original_sizes")),
        resize_sizes=_pairs(document.get("resize_sizes")),
        crop_left_tops=_pairs(document.get("crop_left_tops")),
    )


def _pack_from(document: Json) -> Pack:
    return Pack(
        ids=document["ids"],
        sizes=[(int(width), int(height)) for width, height in document["sizes"]],
        lengths=document["lengths"],
        epoch=document["epoch"],
        step=document["step"],
        rank=document["rank"],
        kind=document["kind"],
        num_frames=document.get("num_frames"),
        maps=document.get("maps"),
        original_sizes=_pairs(document.get("original_sizes")),
        resize_sizes=_pairs(document.get("resize_sizes")),
        crop_left_tops=_pairs(document.get("crop_left_tops")),
    )


def _pairs(pairs: Any) -> list[tuple[int, int]] | None:
    return None if pairs is None else [(int(first), int(second)) for first, second in pairs]


def deal_from(document: Json) -> Deal:
    return Deal(
        origin=cursor_from(document["origin"]),
        offset=int(document["offset"]),
        world_size=int(document["world_size"]),
        origin_lockstep=_whole_or_none(document, "origin_lockstep"),
        lockstep=_whole_or_none(document, "lockstep"),
    )


def _whole_or_none(document: Json, name: str) -> int | None:
    """A field that older coordinators do not send."""
    found = document.get(name)
    return None if found is None else int(found)


def lease_from(document: Json) -> Lease:
    return Lease(
        token=int(document["lease"]),
        generation=int(document["generation"]),
        cursor=cursor_from(document["cursor"]),
        num_steps=int(document["num_steps"]),
        deal=deal_from(document),
        fingerprint=str(document["fingerprint"]),
        generation_id=document.get("generation_id"),
    )


def session_from(document: Json) -> Session:
    return Session(
        generation=int(document["generation"]),
        cursor=cursor_from(document["cursor"]),
        num_steps=int(document["num_steps"]),
        deal=deal_from(document),
        fingerprint=str(document["fingerprint"]),
        left_out_batches=int(document["left_out_batches"]),
        mixed_steps=int(document["mixed_steps"]),
        rolled_over_batches=_whole_or_none(document, "rolled_over_batches"),
        generation_id=document.get("generation_id"),
    )


def planned_world_size_from(document: Json) -> int:
    """The world size in the run's spec, whatever a session has changed since."""
    return int(document["spec"]["world_size"])


def present_world_size_from(document: Json) -> int:
    """The world size of the present start of the job."""
    return int(document["state"]["world_size"])


def next_from(document: Json) -> NextAnswer:
    return NextAnswer(
        batches=[batch_from(batch) for batch in document["batches"]],
        cursor=cursor_from(document["cursor"]),
        num_steps=int(document["num_steps"]),
        done=bool(document["done"]),
    )


def planned_from(document: Json) -> tuple[list[AnyBatch], int | None]:
    """Batches, and the number of steps of the epoch that was asked for, which older coordinators do not report."""
    return batches_from(document), _whole_or_none(document, "num_steps")


def batches_from(document: Json) -> list[AnyBatch]:
    return [batch_from(batch) for batch in document["batches"]]


def state_from(state: Mapping[str, Any]) -> State:
    """A state dict from a checkpoint, checked; ``UsageError`` if it is not one."""
    if not isinstance(state, Mapping):
        raise UsageError(f"state must be a state dict, got {type(state).__name__}")
    least = {"epoch": 0, "step": 0, "offset": 0, "world_size": 1}
    numbers = {name: whole(f"state dict: {name!r}", state.get(name), at) for name, at in least.items()}
    for name in ("run", "fingerprint"):
        if not isinstance(state.get(name), str):
            raise UsageError(f"state dict: {name!r} must be a string, got {state.get(name)!r}")
    place = Cursor(numbers["epoch"], numbers["step"])
    lockstep = state.get("lockstep")
    if lockstep is not None:
        lockstep = whole("state dict: 'lockstep'", lockstep, 1)
    start = state.get("start")
    if not isinstance(start, str | None):
        raise UsageError(f"state dict: 'start' must be a string, got {start!r}")
    return State(
        state["run"], state["fingerprint"], place, numbers["offset"], numbers["world_size"], lockstep, start
    )


def resume_from(resume: str | Mapping[str, Any]) -> str | State:
    if not isinstance(resume, str):
        return state_from(resume)
    if resume not in ("cursor", "start"):
        raise UsageError(f"resume must be 'cursor', 'start' or a state dict, got {resume!r}")
    return resume


def is_retried(status: int) -> bool:
    return status >= 500 or status in RETRIED_STATUSES


def refusal(request: Request, status: int, problem: Json) -> Refused:
    """The exception for a 4xx that must not be retried."""
    code = problem.get("code")
    named = BY_CODE.get(code, Refused) if isinstance(code, str) else Refused
    reason = problem.get("detail") or problem.get("title") or "no reason given"
    return named(
        f"{reason} ({status} to {request})",
        status=status,
        code=code if isinstance(code, str) else None,
        problem=problem,
    )
